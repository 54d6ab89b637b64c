"""The folder of a run: whose it is, and whether it can be written to.

- RUN/run.json: the settings that decide what the run computes
- RUN/checkpoints/: the Trainer's, until the release stands; see `checkpoints`
- RUN/folds/: the same for each fold, then its answers, until the release stands
- RUN/tuning/: the trainings that `--tune` compares, until the release stands
- RUN/pushing/: links to what `checkpoint_pushes` pushes to the Hub
- RUN/release/: appears whole, or not at all
"""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypedDict

from dermalert_space import files
from dermalert_space.contract import CONFIG, RELEASE_FOLDER, Json
from safetensors import SafetensorError
from transformers import PreTrainedModel, TrainerState

from dermalert.config import Config, default
from dermalert.errors import RunError, UsageError, first_few
from dermalert.training import locks

ENDED = "ended.json"
TUNING = "tuning"
_LOCK = ".dermalert-run.lock"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_TEXTS = ("os error 28", "os error 27", "PytorchStreamWriter", "inline_container")  # of safetensors and torch


class Speed(TypedDict):
    """How fast a training was and on what, as `metrics.json` states it under `training`; None where it is not known."""

    images_per_second: float | None
    seconds: float | None
    mixed_precision: str
    device: str
    processes: int
    trained_by: str | None
    """The commit of the code."""


def check_name(folder: Path) -> None:
    """Refuse a folder that checkpoints could be written to, and not be read from.

    Raises:
        UsageError: its path is no UTF-8, under which safetensors opens no file.
    """
    try:
        os.fsencode(folder.absolute()).decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"--output_dir {os.fsencode(folder)!r} lies under a name that is no UTF-8, where safetensors reads no "
            "file: name another folder."
        ) from error


def is_finished(folder: Path, settings: Json) -> bool:
    """Tell whether a run of these settings has its release already.

    Raises:
        UsageError: the folder holds a run of other settings, or things that are no run.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UsageError(f"--output_dir '{folder}' is a file: name a folder.")
    try:
        recorded = json.loads((folder / "run.json").read_text())
    except FileNotFoundError:
        if any(path.name not in ("run.json.partial", _LOCK) for path in folder.iterdir()):
            raise UsageError(f"--output_dir '{folder}' holds things that are no run: name a new folder.") from None
        return False
    except ValueError as error:
        raise UsageError(f"'{folder / 'run.json'}' is damaged: name a new --output_dir.") from error
    check_settings(recorded, settings, f"--output_dir '{folder}'", "name a new folder")
    return (folder / RELEASE_FOLDER / CONFIG).is_file()


def check_settings(recorded: Json, settings: Json, where: str, advice: str) -> None:
    """Refuse to go on with a run that was started with other settings.

    Raises:
        UsageError: says which ones, where they were found, and what to do.
    """
    check_earlier(recorded, where, advice)
    # A run that was started when a flag was not yet there did what it does by default.
    before = {name: default(name) for name in settings if name in Config.__dataclass_fields__} | recorded
    changed = [
        f"{_flag(name)} {before.get(name)} there, {settings[name]} here"
        for name in settings
        if before.get(name) != settings[name]
    ]
    if changed:
        raise UsageError(f"{where} holds another run ({first_few(changed)}): {advice}.")


def check_earlier(recorded: Json, where: str, advice: str) -> None:
    """Refuse to go on with a run that was started when flags had other names."""
    if "base_model" in recorded and "model_name_or_path" not in recorded:
        raise UsageError(f"{where} holds a run of an earlier version, whose settings had other names: {advice}.")


def _flag(setting: str) -> str:
    """How a setting is called in a sentence; two stand for several flags."""
    return setting.replace("_", " ") if setting in ("batch_size", "mixed_precision") else f"--{setting}"


def check_images(recorded: Json, settings: Json, where: str, advice: str) -> None:
    """Refuse to go on with a run that was started with other images, or with the same ones in other splits.

    Raises:
        UsageError: says which of the two, where it was found, and what to do.
    """
    if recorded.get("data") != settings.get("data"):
        raise UsageError(f"the images have changed since the run in '{where}' was started: {advice}.")
    if recorded.get("sides") != settings.get("sides"):
        raise UsageError(
            f"the images are those of the run in '{where}', but in another order or in other splits: name the same "
            f"data sets in the same order, with the same tables beside them, and the same base model; or {advice}."
        )


def claim(folder: Path, settings: Json, *, needed_bytes: int, hold: Callable[[], object] = lambda: None) -> None:
    """Make the folder this run's, once nothing is left that could be asked wrongly.

    Args:
        folder: of the run; made if it is not there.
        settings: of the run, with the fingerprints of its images and splits.
        needed_bytes: of free disk.
        hold: takes the folder for this process, before anything is written to it.

    Raises:
        UsageError: the run in the folder was started with other settings or images, or is under way.
        RunError: the folder cannot be made, or the disk has no room for the run.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < needed_bytes:
            if not any(folder.iterdir()):
                folder.rmdir()
            raise RunError(
                f"'{folder}' has {free / 1e6:,.0f} MB of free disk and the run needs about "
                f"{needed_bytes / 1e6:,.0f} MB: make room, or name another --output_dir."
            )
        hold()
        recorded = read_json(folder / "run.json") or settings  # another run may have begun since this one looked
        own = {key: value for key, value in settings.items() if key not in ("data", "sides")}
        check_settings(recorded, own, f"--output_dir '{folder}'", "name a new folder")
        check_images(recorded, settings, str(folder), "name a new --output_dir")
        files.write_json(folder / "run.json", settings, finite=False)


def check_shared(folder: Path, settings: Json) -> None:
    """Refuse what the main process, on another machine, sees otherwise than this one: the folder or the images.

    Raises:
        RunError: the main one has claimed the folder, and it is not there.
        UsageError: the images are not those of the main one.
    """
    if not (folder / "run.json").is_file():
        raise RunError(
            f"'{folder.absolute()}' is not the main process's on this machine: name an --output_dir that all machines "
            "share."
        )
    recorded = json.loads((folder / "run.json").read_text())
    check_images(recorded, settings, str(folder), "give all machines the same data sets")


def disk_needed(model: PreTrainedModel, *, pushed: bool, adapters: bool = False) -> int:
    """About how many bytes a run writes: the release with its copies in ONNX, and its checkpoints.

    These are three, and two more while they are pushed; each holds the averaged weights, those to train on with, and
    Adam's two moments. Of adapters the latter three are small.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return (4 + (1 if adapters else 4) * (5 if pushed else 3)) * weights + 20_000_000


def drop_checkpoints(folder: Path) -> None:
    """Remove what only an unfinished run needs; curves that were recorded beside the checkpoints stay."""
    for path in (folder / "checkpoints").glob("checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)
    for name in ("folds", TUNING, "pushing", "fetched.partial"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        (folder / "checkpoints" / ENDED).unlink(missing_ok=True)
        (folder / "checkpoints").rmdir()


def write_end(folder: Path, state: TrainerState, speed: Speed) -> None:
    """Remember that the training has ended, how, and how fast it was."""
    content = {"state": dataclasses.asdict(state), "speed": speed}
    files.write_json(folder / "checkpoints" / ENDED, content, finite=False)  # a loss may be no number


def read_end(folder: Path) -> tuple[TrainerState, Speed] | None:
    """The state and the speed of a training that has ended, or None."""
    recorded = read_json(folder / "checkpoints" / ENDED)
    return (TrainerState(**recorded["state"]), recorded["speed"]) if recorded else None


def read_json(path: Path) -> Json | None:
    """What a JSON file holds, or None where it is missing or cut short."""
    try:
        recorded = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return recorded if isinstance(recorded, dict) else None


class Alone(contextlib.ExitStack):
    """Keeps a run's folder to one run, from its start if the folder is there, else from when it is."""

    def __init__(self, folder: Path):
        super().__init__()
        self._folder, self._held = folder, False

    def hold(self) -> None:
        """Take the folder if it is there.

        Raises:
            UsageError: another run has it; the text says which process, where, and since when.
        """
        if not self._held and self._folder.is_dir():
            with writing(self._folder):
                self.enter_context(locks.held(self._folder / _LOCK, waits=False))
            self._held = True


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failure to write, in whatever type a library raises it, into one sentence.

    Raises:
        RunError: the disk is full, or the folder cannot be written to.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        number = getattr(error, "errno", None)
        if number in _FULL or any(words in str(error) for words in _FULL_TEXTS):
            raise RunError(
                f"the disk of '{folder}' is full: make room and run the same command again; it goes on from the last "
                "checkpoint."
            ) from error
        if isinstance(error, PermissionError) or number == errno.EROFS:
            raise RunError(f"cannot write to '{folder}': name another --output_dir.") from error
        raise
