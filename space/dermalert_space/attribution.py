"""Where a release looked in an image: a map of what speaks for a diagnosis, and a picture of it for a person.

Grad-CAM (Selvaraju 2017, arXiv 1610.02391) where a network keeps places in the rows and columns of its features, as
convolutional ones do; occlusion (Zeiler 2014, arXiv 1311.2901) where it mixes them in tokens, as transformers do.

What is explained is the log-odds of the diagnosis, calibrated: log p / (1 - p). The alert is a threshold on it; it
counts what speaks for any other diagnosis, which the bare logit does not; and unlike the probability it does not stand
still where the model is sure.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradCam, Occlusion
from PIL import Image
from torch import nn

from dermalert_space.release import Release

SIDE = 512
"""The longest side of a map and of an overlay, in pixels; no map is larger than its image."""

LIMITS = (
    "The colours show, roughly, which places raised the model's score for this diagnosis, compared within this one "
    "image: not how likely the diagnosis is, and not why. A place without colour may have counted too, and colour on "
    "the lesion does not make the answer right."
)
"""What a map does not say, for those who look at one."""

_STRIDES = 8  # a side, of the occluding window, which is two strides wide: 49 windows
_AT_ONCE = 8  # occluded images a forward pass
_RAMP = 256  # shortest side of the pictures that find what a processor that scales shows to the model
_ALMOST = 0.005  # of a side
_FAINT = 0.1  # up to which a place gets no colour: it would only draw the eye

# viridis of matplotlib (Smith & van der Walt 2015, CC0) at 17 even steps: its lightness rises evenly, and those who do
# not tell red from green read it too.
_COLOURS = np.frombuffer(
    bytes.fromhex(
        "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c "
        "1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 fde725"
    ),
    np.uint8,
).reshape(-1, 3)


def attribute(release: Release, image: Image.Image, diagnosis: str | None = None) -> np.ndarray:
    """The places of an image that speak for a diagnosis.

    Several threads may ask at once, while others predict: the network that is served is not touched.

    Args:
        release: whose prediction is explained.
        image: RGB and upright, as `images.read_image` returns it.
        diagnosis: one of the release's labels; None for that of the alert.

    Returns:
        float32 (height, width), the image's shape with `SIDE` at most: how much each place raised the log-odds of the
        diagnosis, as a share of what the place that moved them most, up or down, did. 0 is one that did not raise them;
        NaN where the model sees nothing, because its processor cuts the edges off.

    Raises:
        ValueError: the release knows no such diagnosis.
    """
    diagnosis = release.alert_label if diagnosis is None else diagnosis
    if diagnosis not in release.labels:
        raise ValueError(f"no diagnosis '{diagnosis}' in this release: take one of {', '.join(release.labels)}.")
    with torch.inference_mode(False):
        pixels = release.processor(image, return_tensors="pt")["pixel_values"].to(release.model.device)
        raised = _gradcam_or_occlusion(_copy(release.model), pixels, release.labels.index(diagnosis))
    saliency = _onto_image(raised, image.size, _visible_box(release.processor, image.size))
    return np.maximum(saliency, 0) / max(np.nanmax(np.abs(saliency)), np.finfo(np.float32).tiny)


def overlay(image: Image.Image, saliency: np.ndarray) -> Image.Image:
    """The map of `attribute` over its RGB image, in colours, at its size; what the model does not see is veiled."""
    height, width = saliency.shape
    # Grey, so that no colour of the lesion is taken for one of the map: the lesion's own stand in the image beside.
    grey = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS).convert("L"), np.float32)
    base = np.repeat(grey[..., None], 3, axis=-1)
    steps = np.linspace(0, 1, len(_COLOURS))
    values = np.nan_to_num(saliency)
    colours = np.stack([np.interp(values, steps, channel) for channel in _COLOURS.T], axis=-1)
    share = 0.75 * np.clip((values - _FAINT) * 2.5, 0, 1)[..., None]
    pixels = np.where(np.isnan(saliency)[..., None], 0.3 * base + 0.7 * 255, (1 - share) * base + share * colours)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _copy(network: nn.Module) -> nn.Module:
    """A copy that shares the weights, but neither the hooks that captum sets nor what asks for gradients."""
    shared: dict[int, torch.Tensor]
    shared = {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in network.parameters()}
    shared |= {id(buffer): buffer for buffer in network.buffers()}
    return copy.deepcopy(network, shared)


def _gradcam_or_occlusion(network: nn.Module, pixels: torch.Tensor, index: int) -> np.ndarray:
    """How much each place that the model sees raised the log-odds of a label, float32 (rows, columns)."""

    def log_odds(pixels: torch.Tensor) -> torch.Tensor:
        logits = network(pixel_values=pixels).logits
        others = [i for i in range(logits.shape[1]) if i != index]
        return logits[:, index] - logits[:, others].logsumexp(-1)

    layer = _layer_of_places(network, pixels)
    raised = _occlusion(log_odds, pixels) if layer is None else LayerGradCam(log_odds, layer).attribute(pixels)[0, 0]
    return raised.detach().cpu().numpy()


def _layer_of_places(network: nn.Module, pixels: torch.Tensor) -> nn.Module | None:
    """The layer whose features (1, channels, rows, columns) Grad-CAM is to read; None of a network of tokens.

    It is the last one before the features are made coarser for the last time: each place of those that come after sees
    nearly the whole picture, and deleting what they mark does less (docs/measurements.md).
    """
    layers: list[tuple[int, nn.Module]] = []

    def look(layer: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
        shape = output.shape if isinstance(output, torch.Tensor) else ()
        if len(shape) == 3 and shape[1] > 1:
            layers.clear()  # what had rows and columns was but cut into tokens
        # Of other layers the channels may come last, or the places may be shifted by a margin.
        elif len(shape) == 4 and any(isinstance(part, nn.Conv2d) for part in layer.modules()):
            layers.append((shape[2] * shape[3], layer))

    hooks = [layer.register_forward_hook(look) for layer in network.modules()]
    with torch.no_grad():
        network(pixel_values=pixels)
    for hook in hooks:
        hook.remove()
    finer = [pair for pair in layers if pair[0] > layers[-1][0]]
    return (finer or layers)[-1][1] if layers else None


def _occlusion(score: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """The fall of the score where a window hides a place, (8, 8): the mean of the windows over it."""
    height, width = pixels.shape[2:]
    down, right = -(-height // _STRIDES), -(-width // _STRIDES)
    drops = Occlusion(score).attribute(
        pixels,
        (pixels.shape[1], 2 * down, 2 * right),
        strides=(pixels.shape[1], down, right),
        baselines=_border(pixels),
        perturbations_per_eval=_AT_ONCE,
    )
    return nn.functional.adaptive_avg_pool2d(drops, _STRIDES)[0, 0]


def _border(pixels: torch.Tensor) -> torch.Tensor:
    """A picture of nothing but the median colour of the border, which is skin in most images of a lesion."""
    edges = (pixels[..., 0, :], pixels[..., -1, :], pixels[..., 0], pixels[..., -1])
    return torch.cat(edges, dim=-1).median(-1).values[..., None, None].expand_as(pixels)


def _visible_box(processor: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of an image that the model sees: left, top, right, bottom, in shares of its sides.

    Processors scale, squash, crop and pad, each in its own way: so this one gets pictures whose grey is the place.
    """
    scale = min(1, _RAMP / min(size)) if processor.do_resize else 1
    width, height = (max(2, round(side * scale)) for side in size)
    across = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    greys = (across, down, np.zeros_like(across), np.full_like(across, 255))
    pictures = [Image.fromarray(grey.round().astype(np.uint8)).convert("RGB") for grey in greys]
    across, down, black, white = np.asarray(processor(pictures, return_tensors="np")["pixel_values"])[:, 0]
    lit = white > black  # elsewhere the processor has padded
    rows, columns = np.nonzero(lit)
    across, down = ((places - black)[lit] / (white - black)[lit] for places in (across, down))
    left, right = _ends(across, columns, length=lit.shape[1], side=width)
    top, bottom = _ends(down, rows, length=lit.shape[0], side=height)
    return left, top, right, bottom


def _ends(places: np.ndarray, at: np.ndarray, *, length: int, side: int) -> tuple[float, float]:
    """Where the model's first pixel begins and its last one ends, in shares of a side of the image.

    Args:
        places: (n,) of some of the model's pixels, 0 for the image's first pixel and 1 for its last.
        at: (n,) their numbers along that side.
        length: how many pixels the model has along it.
        side: how many the image has.
    """
    slope, offset = np.polyfit(at, places, 1)
    ends = (((offset + slope * end) * (side - 1) + 0.5) / side for end in (-0.5, length - 0.5))
    # A line through rounded greys meets the image's own edge almost.
    first, last = (round(end) if abs(end - round(end)) < _ALMOST else float(end) for end in ends)
    return first, last


def _onto_image(raised: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    """Places (rows, columns) laid on an image, smoothly: float32 (height, width), NaN where the model sees nothing."""
    scale = min(1, SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    left, top, right, bottom = box
    rows, columns = raised.shape
    across, down = columns / (right - left), rows / (bottom - top)
    # From a pixel of the map to a place: what Pillow asks for.
    to_place = (across / width, 0, -left * across, 0, down / height, -top * down)
    source = Image.fromarray(raised.astype(np.float32))
    bicubic, nothing = Image.Resampling.BICUBIC, float("nan")
    size = (width, height)
    return np.array(source.transform(size, Image.Transform.AFFINE, to_place, resample=bicubic, fillcolor=nothing))
