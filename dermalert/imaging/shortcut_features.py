"""What shortcut baselines see of an image: mean colour, frame, sharpness, and all but the lesion."""

import numpy as np
from PIL import Image

_SIZE = 64  # pixels a side, to which every picture is shrunk
_SHARP = 160  # pixels a side, at which the sharpness is measured: about what networks are given
_BINS = 16  # of the histogram of one colour
_CELL = 8  # pixels a side, of a cell of the coarse thumbnail
_FRAME = 3  # pixels: 5% of a side
_MARGIN = 5  # pixels: 8% of a side, so that the hidden square covers 71% of the picture

_HISTOGRAMS, _CELLS = 3 * _BINS, 3 * 28  # values; 28 cells touch the margin

FEATURES = np.dtype(
    [
        ("mean_colour", "<f8", 6),
        ("frame_only", "<f8", _HISTOGRAMS),
        ("sharpness_only", "<f4", 13),
        ("lesion_hidden", "<f8", _HISTOGRAMS + _CELLS),
    ]
)


def features(image: Image.Image) -> np.ndarray:
    """What each baseline sees of an RGB image, whose aspect is squashed: `FEATURES`, of no dimension."""
    picture = np.asarray(image.resize((_SIZE, _SIZE), Image.Resampling.BOX))
    surroundings = _border(_MARGIN)
    mean_colour = np.concatenate([picture.mean((0, 1)), picture.std((0, 1))])
    lesion_hidden = np.concatenate([_histograms(picture[surroundings]), _cells(picture, surroundings)])
    return np.array((mean_colour, _histograms(picture[_border(_FRAME)]), _sharpness(image), lesion_hidden), FEATURES)


def _sharpness(image: Image.Image) -> np.ndarray:
    import torch  # takes seconds, which whoever wants no features need not wait for

    from dermalert.imaging import sharpness

    pixels = np.asarray(image.resize((_SHARP, _SHARP), Image.Resampling.BICUBIC), np.float32) / 255
    return sharpness.spectral_profile(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].numpy()


def _border(pixels: int) -> np.ndarray:
    """A mask (64, 64) that is true so many pixels inwards from each side."""
    mask = np.ones((_SIZE, _SIZE), bool)
    mask[pixels:-pixels, pixels:-pixels] = False
    return mask


def _histograms(pixels: np.ndarray) -> np.ndarray:
    """The histograms of red, green and blue (48,) of pixels (n, 3).

    As square roots of the shares, or rare colours would be outliers for a linear model.
    """
    bins = pixels.astype(int) * _BINS // 256 + np.arange(3) * _BINS
    return np.sqrt(np.bincount(bins.ravel(), minlength=3 * _BINS) / len(pixels))


def _cells(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean colours of an 8 x 8 thumbnail, of the pixels in the mask; cells that have none are left out."""

    def sums(values: np.ndarray) -> np.ndarray:
        return values.reshape(_SIZE // _CELL, _CELL, _SIZE // _CELL, _CELL, -1).sum((1, 3))

    pixels = sums(mask)[..., 0]
    return (sums(picture * mask[..., None])[pixels > 0] / pixels[pixels > 0][:, None]).ravel()
