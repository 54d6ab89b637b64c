import io

import numpy as np
import pytest
import torch
from PIL import Image

from dermalert.imaging import jpeg
from dermalert.imaging.synthetic_lesions import lesion


def by_pillow(pixels, qualities):
    """Pixels (N, 3, H, W) as Pillow reads them from files that it has written."""
    pictures = []
    for picture, quality in zip((pixels * 255).round().byte().permute(0, 2, 3, 1), qualities.tolist(), strict=True):
        file = io.BytesIO()
        Image.fromarray(picture.contiguous().numpy()).save(file, "JPEG", quality=quality)
        pictures.append(np.array(Image.open(file)))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255


def lesions(height=96, width=96):
    drawn = [np.asarray(lesion("nevus", lesion_seed=i, size=96))[:height, :width] for i in range(8)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize(
    ("size", "quality"), [((96, 96), 1), ((50, 37), 30), ((96, 96), 75), ((50, 37), 95), ((96, 96), 95)]
)
def test_pictures_lose_what_they_lose_in_a_file(size, quality):
    pixels, qualities = lesions(*size), torch.full((8,), quality)
    ours, theirs = jpeg.compress(pixels, qualities), by_pillow(pixels, qualities)
    off, loss = (ours - theirs).abs().mean(), (theirs - pixels).abs().mean()
    assert off < max(0.1 * loss, 1 / 255)


def test_each_picture_has_a_quality_of_its_own():
    pixels, qualities = lesions()[:1].expand(3, -1, -1, -1), torch.tensor([10, 50, 90])
    pictures = jpeg.compress(pixels, qualities)
    for picture, quality in zip(pictures, qualities, strict=True):
        assert torch.equal(picture, jpeg.compress(pixels[:1], quality[None])[0])
    loss = (pictures - pixels).abs().mean((1, 2, 3)).tolist()
    assert loss == sorted(loss, reverse=True)
