"""Tensors on an accelerator, where there is one."""

import torch


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device.

    CUDA has it copied while the processor goes on; elsewhere (MPS) that would read what may be freed by then.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")
