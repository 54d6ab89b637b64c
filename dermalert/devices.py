"""What is done with an accelerator, where there is one."""

import torch


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device.

    CUDA has it copied while the processor goes on; elsewhere (MPS) that would read what may be freed by then.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def computes_in_bfloat16() -> bool:
    """Tell whether a training is to: on a CPU, and where a GPU only emulates it, it takes longer than it saves."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
