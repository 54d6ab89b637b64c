"""The checkpoints of a run: sealed as they are saved; where a run goes on from; what is damaged, and what is best."""

import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError

import torch
from dermalert_space import files
from dermalert_space.contract import CONFIG, PROCESSOR, WEIGHTS
from safetensors import SafetensorError, safe_open
from transformers import TrainerState

from dermalert.errors import RunError, first_few
from dermalert.training.run_folder import ENDED, read_json, writing

STATE = "trainer_state.json"
_DIGESTS = "digests.json"


def last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that can be gone on from; what was cut short or damaged after it is removed.

    Its state names the best checkpoint by a path; that is brought up to date, because the folder may have moved.

    Raises:
        RunError: all of them are damaged.
    """
    checkpoints = sorted((folder / "checkpoints").glob("checkpoint-*"), key=step_of, reverse=True)
    unfinished = [path for path in checkpoints if not (path / STATE).exists()]  # what the Trainer writes last
    checkpoints = [path for path in checkpoints if path not in unfinished]
    # An earlier one without a state is the best one's model, fetched from a branch.
    unfinished = [path for path in unfinished if not checkpoints or step_of(path) > step_of(checkpoints[0])]
    damages: dict[Path, str] = {}
    usable = None
    for path in checkpoints:
        damage = _damage(folder, path)
        if not damage:
            usable = path
            break
        damages[path] = damage
    if damages and not usable:
        raise RunError(
            f"no checkpoint in '{folder / 'checkpoints'}' can be gone on from "
            f"({'; '.join(damages.values())}): delete "
            "that folder to train anew, or name a new --output_dir, with --resume_from_checkpoint if a branch has them."
        )
    with writing(folder):
        for path in unfinished:
            shutil.rmtree(path)
        if usable:
            _go_back(folder, usable, damages)
    return usable


def _go_back(folder: Path, usable: Path, damages: dict[Path, str]) -> None:
    """Drop damaged checkpoints after the one that is gone on from, and bring its state up to date."""
    for path, damage in damages.items():
        print(f"{damage}: the one before it is taken, '{usable.name}'.")
        shutil.rmtree(path)
        (folder / "checkpoints" / ENDED).unlink(missing_ok=True)  # that was with the one that is dropped
    state = json.loads((usable / STATE).read_text())
    state["best_model_checkpoint"] = str(best_checkpoint(folder, state["best_global_step"]))
    files.write_json(usable / STATE, state, finite=False)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was saved, by its name."""
    return int(checkpoint.name.split("-")[1])


def seal(checkpoint: Path) -> None:
    """Have a checkpoint on the disk, and note what its files must hash to, but for those of other processes."""
    files.sync(checkpoint)
    names = sorted(path.name for path in checkpoint.iterdir() if not path.match("rng_state_*"))
    files.write_json(checkpoint / _DIGESTS, {name: _digest(checkpoint / name) for name in names if name != _DIGESTS})


def _digest(path: Path) -> str:
    if path.name == STATE:  # without the path that is brought up to date
        state = {key: value for key, value in json.loads(path.read_text()).items() if key != "best_model_checkpoint"}
        return hashlib.blake2b(json.dumps(state, sort_keys=True).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _damage(folder: Path, checkpoint: Path) -> str | None:
    """Return, as a clause, what keeps a checkpoint from being gone on from; None where nothing does."""
    if not _is_sound_state(checkpoint):
        return f"'{checkpoint.name}' is damaged ({STATE})"
    best = json.loads((checkpoint / STATE).read_text())["best_global_step"]
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
    state = read_json(checkpoint / STATE)
    if state is None or not {"global_step", "epoch", "best_global_step", "stateful_callbacks"} <= state.keys():
        return False
    try:
        TrainerState(**state)
    except (TypeError, ValueError, AttributeError, KeyError):
        return False
    return state["global_step"] == step_of(checkpoint) and not _damaged_files(checkpoint, [STATE])


def _damaged_weights(checkpoint: Path) -> list[str]:
    """The names of the files of a checkpoint's model that are missing, or not as they were written."""
    weights = {path.name for path in checkpoint.glob("*.safetensors")}
    weights |= {name for name in read_json(checkpoint / _DIGESTS) or {} if name.endswith(".safetensors")}
    if not any(name.startswith("model") for name in weights):
        weights |= {WEIGHTS}
    return _damaged_files(checkpoint, [CONFIG, PROCESSOR, *sorted(weights)])


def _damaged_files(checkpoint: Path, names: Iterable[str]) -> list[str]:
    """Which of the files of a checkpoint are missing, or not as they were written."""
    digests = read_json(checkpoint / _DIGESTS) or {}  # of a branch, or of a run made before, there are none
    return [name for name in names if not _is_sound(checkpoint / name, digests.get(name))]


def _is_sound(path: Path, digest: str | None) -> bool:
    """Tell whether a file hashes to its digest; where it has none, whether it is whole, as far as that can be seen."""
    try:
        if digest is not None:
            return _digest(path) == digest
        if path.suffix == ".json":
            return read_json(path) is not None
        if path.suffix != ".safetensors":
            return _is_sound_zip(path)
        with safe_open(path, "pt"):  # it checks the length
            return True
    except (OSError, ValueError, SafetensorError):
        return False


def _is_sound_zip(path: Path) -> bool:
    """Tell whether a file that `torch.save` wrote is whole: a zip whose members have their checksums, and that opens.

    What it holds beside tensors is not checked here: that is refused when it is read.
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
    """The step of the last checkpoint that was written whole, 0 where there is none; nothing is changed."""
    states = (folder / "checkpoints").glob("checkpoint-*/trainer_state.json")
    return max((step_of(path.parent) for path in states if read_json(path)), default=0)


def best_checkpoint(folder: Path, step: int | None) -> Path:
    """The checkpoint of a step.

    Raises:
        RunError: no step was the best one, because no validation figure was a number.
    """
    if step is None:
        raise RunError("the training diverged: no epoch has a validation figure. Try a lower --learning_rate.")
    return folder / "checkpoints" / f"checkpoint-{step}"
