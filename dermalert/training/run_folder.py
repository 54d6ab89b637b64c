"""The folder of a run: whose it is, where it stopped, and what it lacks.

- RUN/run.json: the settings that decide what the run computes
- RUN/checkpoints/: the Trainer's, until the release stands
- RUN/folds/: the same for each fold, then its answers, until the release stands
- RUN/pushing/: links to what `checkpoint_sync` pushes to the Hub
- RUN/release/: appears whole, or not at all
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from pickle import UnpicklingError

import torch
from dermalert_space import files
from safetensors import SafetensorError, safe_open
from transformers import TrainerState

from dermalert.errors import RunError, UsageError, first_few
from dermalert.training import locks

MAY_NAME_FOLDERS = ("dataset", "base_model", "weights_from", "external", "columns")
"""Settings that may hold a path of this machine, and stay out of what is published."""

_ENDED = "ended.json"
_STATE = "trainer_state.json"
_DIGESTS = "digests.json"
_LOCK = ".dermalert-run.lock"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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


def is_finished(folder: Path, settings: dict) -> bool:
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
    return (folder / "release" / "config.json").is_file()


def check_settings(recorded: dict, settings: dict, where: str, advice: str) -> None:
    """Refuse to go on with a run that was started with other settings.

    Raises:
        UsageError: says which ones, where they were found, and what to do.
    """
    changed = [
        f"--{k} {recorded.get(k)} there, {settings.get(k)} here" for k in settings if recorded.get(k) != settings[k]
    ]
    if changed:
        raise UsageError(f"{where} holds another run ({first_few(changed)}): {advice}.")


def check_images(recorded: dict, settings: dict, where: str, advice: str) -> None:
    """Refuse to go on with a run that was started with other images, or with the same ones on other sides.

    Raises:
        UsageError: says which of the two, where it was found, and what to do.
    """
    if recorded.get("data") != settings.get("data"):
        raise UsageError(f"the images have changed since the run in '{where}' was started: {advice}.")
    if recorded.get("sides") != settings.get("sides"):
        raise UsageError(
            f"the images are those of the run in '{where}', but in another order or on other sides: name the same data "
            f"sets in the same order, with the same tables beside them, and the same base model; or {advice}."
        )


def claim(folder: Path, settings: dict, *, needed_bytes: int, hold: Callable[[], object] = lambda: None) -> None:
    """Make the folder this run's, once nothing is left that could be asked wrongly.

    Args:
        folder: of the run; made if it is not there.
        settings: of the run, with the fingerprints of its images and sides.
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
        recorded = _read(folder / "run.json") or settings  # another run may have begun since this one looked
        own = {key: value for key, value in settings.items() if key not in ("data", "sides")}
        check_settings(recorded, own, f"--output_dir '{folder}'", "name a new folder")
        check_images(recorded, settings, str(folder), "name a new --output_dir")
        files.write_json(folder / "run.json", settings, finite=False)


def check_shared(folder: Path, settings: dict) -> None:
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


def disk_needed(model, *, pushed: bool) -> int:
    """Return about how many bytes a run writes: the release with its copies in ONNX, and its checkpoints.

    These are three, and two more while they are pushed; each holds the averaged weights, those to train on with, and
    Adam's two moments.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return (4 + 4 * (5 if pushed else 3)) * weights + 20_000_000


def drop_checkpoints(folder: Path) -> None:
    """Remove what only an unfinished run needs; curves that were recorded beside the checkpoints stay."""
    for path in (folder / "checkpoints").glob("checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)
    for name in ("folds", "pushing", "fetched.partial"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        (folder / "checkpoints" / _ENDED).unlink(missing_ok=True)
        (folder / "checkpoints").rmdir()


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint that can be gone on from; what was cut short or damaged after it is removed.

    Its state names the best checkpoint by a path; that is brought up to date, because the folder may have moved.

    Raises:
        RunError: all of them are damaged.
    """
    checkpoints = sorted((folder / "checkpoints").glob("checkpoint-*"), key=_step, reverse=True)
    unfinished = [path for path in checkpoints if not (path / _STATE).exists()]  # what the Trainer writes last
    checkpoints = [path for path in checkpoints if path not in unfinished]
    # An earlier one without a state is the best one's model, fetched from a branch.
    unfinished = [path for path in unfinished if not checkpoints or _step(path) > _step(checkpoints[0])]
    damages = {}
    for path in checkpoints:
        damages[path] = _damage(folder, path)
        if not damages[path]:
            break
    usable = next((path for path, damage in damages.items() if not damage), None)
    if checkpoints and not usable:
        raise RunError(
            f"no checkpoint in '{folder / 'checkpoints'}' can be gone on from "
            f"({'; '.join(filter(None, damages.values()))}): delete "
            "that folder to train anew, or name a new --output_dir, with --resume_from if a branch has the checkpoints."
        )
    with writing(folder):
        for path in unfinished:
            shutil.rmtree(path)
        if usable:
            _go_back(folder, usable, {path: damage for path, damage in damages.items() if damage})
    return usable


def _go_back(folder: Path, usable: Path, damages: dict[Path, str]) -> None:
    """Drop damaged checkpoints after the one that is gone on from, and bring its state up to date."""
    for path, damage in damages.items():
        print(f"{damage}: the one before it is taken, '{usable.name}'.")
        shutil.rmtree(path)
        (folder / "checkpoints" / _ENDED).unlink(missing_ok=True)  # that was with the one that is dropped
    state = json.loads((usable / _STATE).read_text())
    state["best_model_checkpoint"] = str(best_checkpoint(folder, state["best_global_step"]))
    files.write_json(usable / _STATE, state, finite=False)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def seal(checkpoint: Path) -> None:
    """Have a checkpoint on the disk, and note what its files must hash to, but for those of other processes."""
    files.sync(checkpoint)
    names = sorted(path.name for path in checkpoint.iterdir() if not path.match("rng_state_*"))
    files.write_json(checkpoint / _DIGESTS, {name: _digest(checkpoint / name) for name in names if name != _DIGESTS})


def _digest(path: Path) -> str:
    if path.name == _STATE:  # without the path that is brought up to date
        state = {key: value for key, value in json.loads(path.read_text()).items() if key != "best_model_checkpoint"}
        return hashlib.blake2b(json.dumps(state, sort_keys=True).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _damage(folder: Path, checkpoint: Path) -> str | None:
    """Return, as a clause, what keeps a checkpoint from being gone on from; None where nothing does."""
    if not _is_sound_state(checkpoint):
        return f"'{checkpoint.name}' is damaged ({_STATE})"
    best = json.loads((checkpoint / _STATE).read_text())["best_global_step"]
    random_states = [path.name for path in checkpoint.glob("rng_state*.pth")] or ["rng_state.pth"]
    needed = ["optimizer.pt", "scheduler.pt", *random_states]
    damaged = [*_damaged_weights(checkpoint), *_damaged_files(checkpoint, needed)]
    if damaged:
        return f"'{checkpoint.name}' is damaged ({first_few(damaged)})"
    best = best and best_checkpoint(folder, best)
    damaged = _damaged_weights(best) if best else []
    return (
        f"'{best.name}', the best one until '{checkpoint.name}', is damaged ({first_few(damaged)})" if damaged else None
    )


def _is_sound_state(checkpoint: Path) -> bool:
    """Tell whether the state of a checkpoint is one, of this step."""
    state = _read(checkpoint / _STATE)
    if state is None or not {"global_step", "epoch", "best_global_step", "stateful_callbacks"} <= state.keys():
        return False
    try:
        TrainerState(**state)
    except (TypeError, ValueError, AttributeError, KeyError):
        return False
    return state["global_step"] == _step(checkpoint) and not _damaged_files(checkpoint, [_STATE])


def _damaged_weights(checkpoint: Path) -> list[str]:
    """The names of the files of a checkpoint's model that are missing, or not as they were written."""
    weights = {path.name for path in checkpoint.glob("*.safetensors")}
    weights |= {name for name in _read(checkpoint / _DIGESTS) or {} if name.endswith(".safetensors")}
    if not any(name.startswith("model") for name in weights):
        weights |= {"model.safetensors"}
    return _damaged_files(checkpoint, ["config.json", "preprocessor_config.json", *sorted(weights)])


def _damaged_files(checkpoint: Path, names: Iterable[str]) -> list[str]:
    """Which of the files of a checkpoint are missing, or not as they were written."""
    digests = _read(checkpoint / _DIGESTS) or {}  # of a branch, or of a run made before, there are none
    return [name for name in names if not _is_sound(checkpoint / name, digests.get(name))]


def _is_sound(path: Path, digest: str | None) -> bool:
    """Tell whether a file hashes to its digest; where it has none, whether it is whole, as far as that can be seen."""
    try:
        if digest is not None:
            return _digest(path) == digest
        if path.suffix == ".json":
            return _read(path) is not None
        if path.suffix != ".safetensors":
            return _is_sound_zip(path)
        with safe_open(path, "pt"):  # it checks the length
            return True
    except (OSError, ValueError, SafetensorError):
        return False


def _is_sound_zip(path: Path) -> bool:
    """Tell whether a file that `torch.save` wrote is whole: a zip whose members have their checksums, and that opens.

    What it holds beside tensors is not judged here: that is refused when it is read.
    """
    try:
        with zipfile.ZipFile(path) as file:
            if file.testzip() is not None:
                return False
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError:
        return True
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError):
        return False
    return True


def last_step(folder: Path) -> int:
    """Return the step of the last checkpoint that was written whole, 0 where there is none; nothing is changed."""
    states = (folder / "checkpoints").glob("checkpoint-*/trainer_state.json")
    return max((int(path.parent.name.split("-")[1]) for path in states if _read(path)), default=0)


def best_checkpoint(folder: Path, step: int | None) -> Path:
    """Return the checkpoint of a step.

    Raises:
        RunError: no step was the best one, because no validation figure was a number.
    """
    if step is None:
        raise RunError("the training diverged: no epoch has a validation figure. Try a lower --learning_rate.")
    return folder / "checkpoints" / f"checkpoint-{step}"


def write_end(folder: Path, state: TrainerState, speed: dict) -> None:
    """Remember that the training has ended, how, and how fast it was."""
    content = {"state": dataclasses.asdict(state), "speed": speed}
    files.write_json(folder / "checkpoints" / _ENDED, content, finite=False)  # a loss may be no number


def read_end(folder: Path) -> tuple[TrainerState, dict] | None:
    """Return the state and the speed of a training that has ended, or None."""
    recorded = _read(folder / "checkpoints" / _ENDED)
    return (TrainerState(**recorded["state"]), recorded["speed"]) if recorded else None


def _read(path: Path) -> dict | None:
    """Return what a JSON file holds, or None where it is missing or cut short."""
    try:
        recorded = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return recorded if isinstance(recorded, dict) else None


class Alone:
    """Keeps a run's folder to one run, from its start if the folder is there, else from when it is."""

    def __init__(self, folder: Path):
        self._folder, self._stack, self._held = folder, contextlib.ExitStack(), False

    def hold(self) -> None:
        """Take the folder if it is there.

        Raises:
            UsageError: another run has it; the text says which process, where, and since when.
        """
        if not self._held and self._folder.is_dir():
            with writing(self._folder):
                self._stack.enter_context(locks.held(self._folder / _LOCK, waits=False))
            self._held = True

    def __enter__(self) -> "Alone":
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()


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
        text = str(error)
        # safetensors and torch report a failed write as errors of their own.
        if number in _FULL or any(
            word in text for word in ("os error 28", "os error 27", "PytorchStreamWriter", "inline_container")
        ):
            raise RunError(
                f"the disk of '{folder}' is full: make room and run the same command again; it goes on from the last "
                "checkpoint."
            ) from error
        if isinstance(error, PermissionError) or number == errno.EROFS:
            raise RunError(f"cannot write to '{folder}': name another --output_dir.") from error
        raise
