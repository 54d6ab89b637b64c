"""What is done with an accelerator, where there is one, and what accelerate's configuration asks of a training.

`accelerate launch` hands its flags and its configuration file on as variables of the environment.
"""

import os

import torch

from dermalert.errors import UsageError

_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism",
}
_OFF = ("", "0", "no", "false", "off", "n", "f")


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device.

    CUDA has it copied while the processor goes on; elsewhere (MPS) that would read what may be freed by then.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def computes_in_bfloat16() -> bool:
    """Tell whether a training is to: on a CPU, and where a GPU only emulates it, it takes longer than it saves."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def asked_precision() -> str | None:
    """Return the mixed precision that accelerate's configuration asks for, `bf16` or `fp16`; None: the device's own.

    Raises:
        UsageError: it asks for what a training here cannot do, or would not do as asked.
    """
    for name, engine in _ENGINES.items():
        if _variable(name) not in _OFF:
            raise _unfit(name, engine)
    if _variable("ACCELERATE_DYNAMO_BACKEND") not in _OFF:
        raise _unfit("ACCELERATE_DYNAMO_BACKEND", "a compiler")
    if _variable("ACCELERATE_GRADIENT_ACCUMULATION_STEPS") not in ("", "1"):
        raise _unfit("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "accumulated gradients")
    name = "ACCELERATE_MIXED_PRECISION"
    asked = _variable(name)
    if asked in _OFF or asked == _own_precision():
        return None
    if asked not in ("bf16", "fp16"):
        raise _unfit(name, f"mixed precision '{asked}'")
    if asked == "fp16" and not torch.accelerator.is_available():
        raise _unfit(name, "mixed precision 'fp16'", " on a CPU")
    return asked


def precision() -> str:
    """Return the mixed precision of a training here: `no`, `bf16` or `fp16`."""
    return asked_precision() or _own_precision()


def _own_precision() -> str:
    return "bf16" if computes_in_bfloat16() else "no"


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip().lower()


def _unfit(name: str, asked: str, where: str = "") -> UsageError:
    return UsageError(
        f"accelerate's configuration asks for {asked} ({name}={os.environ[name]}), which this training does not "
        f"support{where}: take it out of the configuration, or start without `accelerate launch`."
    )
