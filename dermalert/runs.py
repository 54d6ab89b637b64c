"""The folder of a run: whose it is, where it stopped, and what it lacks.

- RUN/run.json: the settings that decide what the run computes
- RUN/checkpoints/: the Trainer's, until the release stands
- RUN/folds/: the same for each fold, then its answers, until the release stands
- RUN/pushing/: links to what `mirror` pushes to the Hub
- RUN/release/: appears whole, or not at all
"""

import contextlib
import dataclasses
import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError
from transformers import TrainerState

from dermalert.errors import RunError, UsageError, first_few

MAY_NAME_FOLDERS = ("dataset", "base_model", "weights_from", "external", "columns")
"""Settings that may hold a path of this machine, and stay out of what is published."""

_ENDED = "ended.json"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
        found = json.loads((folder / "run.json").read_text())
    except FileNotFoundError:
        if any(path.name != "run.json.partial" for path in folder.iterdir()):
            raise UsageError(f"--output_dir '{folder}' holds things that are no run: name a new folder.") from None
        return False
    except ValueError as error:
        raise UsageError(f"'{folder / 'run.json'}' is damaged: name a new --output_dir.") from error
    check_settings(found, settings, f"--output_dir '{folder}'", "name a new folder")
    return (folder / "release" / "config.json").is_file()


def check_settings(found: dict, settings: dict, where: str, advice: str) -> None:
    """Refuse to go on with a run that was started with other settings.

    Raises:
        UsageError: says which ones, where they were found, and what to do.
    """
    changed = [f"--{k} {found.get(k)} there, {settings.get(k)} here" for k in settings if found.get(k) != settings[k]]
    if changed:
        raise UsageError(f"{where} holds another run ({first_few(changed)}): {advice}.")


def check_images(found: dict, settings: dict, where: str, advice: str) -> None:
    """Refuse to go on with a run that was started with other images, or with the same ones on other sides.

    Raises:
        UsageError: says which of the two, where it was found, and what to do.
    """
    if found.get("data") != settings.get("data"):
        raise UsageError(f"the images have changed since the run in '{where}' was started: {advice}.")
    if found.get("sides") != settings.get("sides"):
        raise UsageError(
            f"the images are those of the run in '{where}', but in another order or on other sides: name the same data "
            f"sets in the same order, with the same tables beside them, and the same base model; or {advice}."
        )


def claim(folder: Path, settings: dict, *, needed_bytes: int) -> None:
    """Make the folder this run's, once nothing is left that could be asked wrongly.

    Raises:
        UsageError: the images are not those that the run in the folder was started with.
        RunError: the folder cannot be made, or the disk has no room for the run.
    """
    check_images(_read(folder / "run.json") or settings, settings, str(folder), "name a new --output_dir")
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
        write(folder / "run.json", settings)


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
    found = json.loads((folder / "run.json").read_text())
    check_images(found, settings, str(folder), "give all machines the same data sets")


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
    """Return the last checkpoint that was written whole; one that was cut short is removed.

    Its state names the best checkpoint by a path; that is brought up to date, because the folder may have moved.
    """
    found = sorted((folder / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    while found:
        path = found[-1] / "trainer_state.json"  # what the Trainer writes last
        state = _read(path)
        if state is not None:
            state["best_model_checkpoint"] = str(best_checkpoint(folder, state["best_global_step"]))
            with writing(folder):
                write(path, state)
            return found[-1]
        shutil.rmtree(found.pop())
    return None


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


def note_ended(folder: Path, state: TrainerState, speed: dict) -> None:
    """Remember that the training has ended, how, and how fast it was."""
    write(folder / "checkpoints" / _ENDED, {"state": dataclasses.asdict(state), "speed": speed})


def ended(folder: Path) -> tuple[TrainerState, dict] | None:
    """Return the state and the speed of a training that had ended, or None."""
    found = _read(folder / "checkpoints" / _ENDED)
    return (TrainerState(**found["state"]), found["speed"]) if found else None


def _read(path: Path) -> dict | None:
    """Return what a JSON file holds, or None where it is missing or cut short."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def write(path: Path, content: dict) -> None:
    """Write a JSON file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


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
