"""One run in several processes, as `accelerate launch` or `torchrun` start them, on one machine or on several.

`accelerate launch` hands its flags and its configuration file on as variables of the environment.

All of them train; the main one alone decides, writes, measures and publishes. In one process all this is nothing.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import distributed

from dermalert.errors import RunError, UsageError

_T = TypeVar("_T")

_PATIENCE = timedelta(days=2)  # that a process waits for the main one; one that has died is noticed at once
_UNSUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism",
    "ACCELERATE_DYNAMO_BACKEND": "a compiler",
}
_OFF = ("", "0", "no", "false", "off", "n", "f")
_GONE = "the run was stopped, or one of its processes has ended: the same command goes on from the last checkpoint."


def count() -> int:
    """How many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Tell whether this is the process that decides and writes."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Connect the processes; the others are silent, and all end when one does.

    Raises:
        RunError: another one has ended.
    """
    if count() == 1:
        yield
        return
    signal.signal(signal.SIGTERM, _stop)  # what a launcher sends to the others
    PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)
    if is_main():
        print(f"Training in {count()} processes.")
    else:
        logging.disable(logging.WARNING)
    try:
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(sys.stdout if is_main() else nowhere):
            yield
    except UsageError:
        if is_main() or os.environ.get("LOCAL_RANK") == "0":  # what is wrong on another machine may be right here
            raise
        sys.exit(2)  # it is wrong in all of a machine's, and the first one says so
    except RuntimeError as error:
        if _is_of_the_connection(error):
            raise RunError(_GONE) from error
        raise


def _stop(*_: object) -> None:
    raise RunError(_GONE)


def _is_of_the_connection(error: RuntimeError) -> bool:
    """Tell whether a process could not be reached; gloo has no type of its own for that."""
    words = ("gloo", "Connection closed", "Connection reset", "Broken pipe")
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in words)


def broadcast_from_main(decide: Callable[[], _T]) -> _T:
    """What the main process decides, in all of them; if it fails there, the others end without a word.

    Raises:
        SystemExit: it failed in the main process, and this is another.
    """
    if count() == 1:
        return decide()
    if not is_main():
        (result,) = broadcast_object_list([None])
        if result is None:
            sys.exit(1)
        return result[0]
    try:
        result = (decide(),)
    except BaseException:
        broadcast_object_list([None])
        raise
    broadcast_object_list([result])
    return result[0]


def run_on_main(do: Callable[[], _T]) -> _T | None:
    """What the main process does while the others wait; in them None."""
    done = []
    broadcast_from_main(lambda: done.append(do()))
    return done[0] if done else None


@contextlib.contextmanager
def local_main_process_first() -> Iterator[None]:
    """Let one process of each machine go first, where what it does is kept for the others to find."""
    if count() == 1:
        yield
        return
    first = PartialState().is_local_main_process
    if not first:
        distributed.barrier()
    try:
        yield
    finally:  # what fails in one fails in the others too
        if first:
            distributed.barrier()


def share(tensors: Iterable[torch.Tensor]) -> None:
    """Give all processes the main one's numbers."""
    if count() > 1:
        for tensor in tensors:
            numbers = tensor.detach().contiguous()  # not channels last
            distributed.broadcast(numbers, 0)
            tensor.detach().copy_(numbers)


def vary_chance() -> None:
    """Have each process draw numbers of its own, so that not all augment alike."""
    if not is_main():
        # Not the sum of the two: the second process would draw what the first one of the next seed draws.
        chance = np.random.SeedSequence([torch.initial_seed(), int(os.environ["RANK"])])
        torch.manual_seed(int(chance.generate_state(1, np.uint64)[0]))


def computes_in_bfloat16() -> bool:
    """Tell whether a training is to: on a CPU, and where a GPU only emulates it, it takes longer than it saves."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def requested_precision(by_flag: str | None = None) -> str | None:
    """The mixed precision that is asked for, `bf16`, `fp16` or `no`; None: the device's own.

    Args:
        by_flag: what flags of the training ask for; where they do not, accelerate's configuration counts.

    Raises:
        UsageError: it asks for what a training here cannot do, or would not do as asked.
    """
    for name, feature in _UNSUPPORTED.items():
        if _variable(name) not in _OFF:
            raise _unfit(name, feature)
    if _variable("ACCELERATE_GRADIENT_ACCUMULATION_STEPS") not in ("", "1"):
        raise _unfit("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "accumulated gradients")
    if by_flag == "fp16" and not torch.accelerator.is_available():
        raise UsageError("--fp16 needs an accelerator: leave it out, or ask for --bf16.")
    if by_flag:
        return None if by_flag == _own_precision() else by_flag
    name = "ACCELERATE_MIXED_PRECISION"
    requested = _variable(name)
    if requested in _OFF or requested == _own_precision():
        return None
    if requested not in ("bf16", "fp16"):
        raise _unfit(name, f"mixed precision '{requested}'")
    if requested == "fp16" and not torch.accelerator.is_available():
        raise _unfit(name, "mixed precision 'fp16'", " on a CPU")
    return requested


def precision(by_flag: str | None = None) -> str:
    """The mixed precision of a training here, `no`, `bf16` or `fp16`; see `requested_precision`."""
    return requested_precision(by_flag) or _own_precision()


def _own_precision() -> str:
    return "bf16" if computes_in_bfloat16() else "no"


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip().lower()


def _unfit(name: str, feature: str, where: str = "") -> UsageError:
    return UsageError(
        f"accelerate's configuration asks for {feature} ({name}={os.environ[name]}), which this training does not "
        f"support{where}: take it out of the configuration, or start without `accelerate launch`."
    )
