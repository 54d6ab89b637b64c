"""The last linear layer of a classifier: find it, and fold a calibration into it."""

import numpy as np
import torch
from torch import nn


@torch.no_grad()
def fold(layer: nn.Linear, temperature: float, bias: np.ndarray) -> None:
    """Make a last layer give its logits / temperature (above 0) + bias (classes,), for good."""
    layer.weight /= temperature
    if layer.bias is not None:
        layer.bias.copy_(layer.bias / temperature + torch.as_tensor(bias).to(layer.bias))


def last_linear(model: nn.Module, pixels: torch.Tensor) -> nn.Linear:
    """The linear layer whose output is what a classifier gives as its logits; see `linear_layers`."""
    return linear_layers(model, pixels)[-1]


@torch.no_grad()
def linear_layers(model: nn.Module, pixels: torch.Tensor) -> list[nn.Linear]:
    """The linear layers that a classifier runs an image through, in this order, up to that which gives its logits.

    Args:
        model: any transformers image classifier.
        pixels: (n, 3, H, W) images to run it on.

    Raises:
        ValueError: its logits are not the output of one.
    """
    outputs = {}
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(lambda layer, _, output: outputs.update({layer: output})) for layer in layers]
    logits = model.eval()(pixels).logits
    for hook in hooks:
        hook.remove()
    for i, output in reversed(list(enumerate(outputs.values()))):
        if output.shape == logits.shape and torch.equal(output.nan_to_num(), logits.nan_to_num()):
            return list(outputs)[: i + 1]
    raise ValueError(f"the logits of {type(model).__name__} are not the output of a linear layer")
