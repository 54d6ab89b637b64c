"""Low-rank adapters (Hu 2021, arXiv 2106.09685) on the linear layers of a base model, which a checkpoint has merged.

So whatever reads a checkpoint finds a plain model, and a release needs no peft. A stopped run goes on from the base
model and what lies beside a checkpoint's model: the adapters and the head, averaged.
"""

import importlib.util
from pathlib import Path
from typing import TypeGuard

import safetensors.torch
import torch
from dermalert_space import onnx_graph
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel

from dermalert.config import Config, default
from dermalert.errors import UsageError
from dermalert.training import head

FILE = "adapters.safetensors"
_NAME = "default"  # that peft gives an adapter


def check(config: Config) -> None:
    """Refuse adapters that make no sense, or without the library for them.

    Raises:
        UsageError: names the flag.
    """
    given = [name for name in ("lora_r", "lora_alpha", "lora_dropout") if getattr(config, name) != default(name)]
    if given and not config.lora:
        raise UsageError(f"--{given[0]} is of adapters: add --lora.")
    if not 0 <= config.lora_dropout < 1:
        raise UsageError(f"--lora_dropout {config.lora_dropout:g} makes no sense: it must be from 0 to below 1.")
    if config.lora and not config.weights_from and importlib.util.find_spec("peft") is None:
        raise UsageError("--lora needs peft: pip install peft.")


def layers(model: PreTrainedModel, processor: BaseImageProcessor, name: str) -> tuple[list[str], nn.Linear]:
    """The names of the linear layers that take adapters, and the last layer, which is trained whole.

    Raises:
        UsageError: there are none besides the last.
    """
    *body, last = head.linear_layers(model, onnx_graph.noise(processor))
    if not body:
        raise UsageError(
            f"--lora: '{name}' has no linear layer that adapters could be put on, besides its last: take a "
            "--model_name_or_path such as a ViT, DINOv2 or SigLIP, or leave out --lora."
        )
    return [name for name, module in model.named_modules() if any(module is layer for layer in body)], last


def add(model: PreTrainedModel, processor: BaseImageProcessor, config: Config, checkpoint: Path | None = None) -> None:
    """Put adapters into a base model, those of a checkpoint if there is one; freeze all but the last layer."""
    from peft import LoraConfig, inject_adapter_in_model  # takes a second, and is an extra

    names, last = layers(model, processor, config.model_name_or_path)
    adapters = LoraConfig(
        r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout, target_modules=names
    )
    inject_adapter_in_model(adapters, model, _NAME)
    last.requires_grad_(True)
    if checkpoint:
        model.load_state_dict(safetensors.torch.load_file(checkpoint / FILE), strict=False)


def is_adapted(model: object) -> TypeGuard[nn.Module]:
    """Tell whether a model has adapters."""
    return hasattr(model, "peft_config")


@torch.no_grad()
def merged(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of the plain model that computes as one with adapters does; that one stays as it is."""
    tensors = {
        name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name
    }
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            tensors[f"{name}.weight"] = module.weight + module.get_delta_weight(_NAME)
    return tensors
