"""The folder of a run: whose it is, where it stopped, and what it lacks.

- RUN/run.json: the settings that decide what the run computes
- RUN/checkpoints/: the Trainer's, until the release stands
- RUN/release/: appears whole, or not at all
- RUN/published.json: where the release was published
"""

import contextlib
import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from dermalert.errors import RunError, UsageError, first_few

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
        if any(folder.iterdir()):
            raise UsageError(f"--output_dir '{folder}' holds things that are no run: name a new folder.") from None
        return False
    except ValueError as error:
        raise UsageError(f"'{folder / 'run.json'}' is damaged: name a new --output_dir.") from error
    changed = [f"--{k} {found.get(k)} there, {settings.get(k)} here" for k in settings if found.get(k) != settings[k]]
    if changed:
        raise UsageError(f"--output_dir '{folder}' holds another run ({first_few(changed)}): name a new folder.")
    return (folder / "release" / "config.json").is_file()


def claim(folder: Path, settings: dict, *, needed_bytes: int) -> None:
    """Make the folder this run's, once nothing is left that could be asked wrongly.

    Raises:
        UsageError: the images are not those that the run in the folder was started with.
        RunError: the folder cannot be made, or the disk has no room for the run.
    """
    if (folder / "run.json").is_file() and json.loads((folder / "run.json").read_text()) != settings:
        raise UsageError(f"the images have changed since the run in '{folder}' was started: name a new --output_dir.")
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
        partial = folder / "run.json.partial"
        partial.write_text(json.dumps(settings, indent=1) + "\n")
        partial.replace(folder / "run.json")


def disk_needed(model) -> int:
    """Return about how many bytes a run writes: the release, and three checkpoints with Adam's two moments each."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return 10 * weights + 20_000_000


def published(folder: Path) -> list[str]:
    """Return where the run's release was published, each as USER/REPO@TAG."""
    path = folder / "published.json"
    return json.loads(path.read_text()) if path.is_file() else []


def note_published(folder: Path, name: str) -> None:
    """Remember where the run's release was published."""
    (folder / "published.json").write_text(json.dumps([*published(folder), name]) + "\n")


def drop_checkpoints(folder: Path) -> None:
    """Remove what only an unfinished run needs."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint that was written whole; one that was cut short is removed."""
    found = sorted((folder / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    while found:
        # The Trainer writes its state last.
        with contextlib.suppress(OSError, ValueError):
            json.loads((found[-1] / "trainer_state.json").read_text())
            return found[-1]
        shutil.rmtree(found.pop())
    return None


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
        if number in _FULL or any(word in text for word in ("os error 28", "os error 27", "PytorchStreamWriter")):
            raise RunError(
                f"the disk of '{folder}' is full: make room and run the same command again; it goes on from the last "
                "checkpoint."
            ) from error
        if isinstance(error, PermissionError) or number == errno.EROFS:
            raise RunError(f"cannot write to '{folder}': name another --output_dir.") from error
        raise
