"""Tensors on an accelerator, where there is one."""

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device; CUDA copies while the CPU goes on."""
    # Elsewhere (MPS) such a copy would read memory that may be freed by then.
    return tensor.to(device, non_blocking=device.type == "cuda")
