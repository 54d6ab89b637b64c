import pytest
import torch
from support.pictures import softened, textures
from torch.nn import functional

from dermalert.imaging import augmentation, sharpness


def separation(one, other):
    """How well the level of the finest detail tells two collections apart: 0 not at all, 1 without a mistake."""
    a, b = (sharpness.spectral_profile(pixels)[:, 6:].mean(1) for pixels in (one, other))
    return abs((a[:, None] > b).float().mean().item() - 0.5) * 2


def test_levels_tell_soft_pictures_from_sharp_ones_and_neither_contrast_nor_brightness():
    pixels = textures(8)
    plain = sharpness.spectral_profile(pixels)
    assert (sharpness.spectral_profile(softened(pixels))[:, 6:] < plain[:, 6:] - 0.5).all()
    assert torch.allclose(sharpness.spectral_profile(0.5 * pixels + 0.1), plain, atol=0.02)
    assert (plain[:, 0] == 0).all()


def test_levelled_pictures_do_not_tell_which_collection_they_are_from():
    sharp, soft = textures(200), softened(textures(200, seed=1))
    assert separation(sharp, soft) > 0.99
    torch.manual_seed(0)
    assert separation(sharpness.randomize_sharpness(sharp), sharpness.randomize_sharpness(soft)) < 0.3


def test_levelling_spans_sharpness_from_one_end_to_the_other():
    torch.manual_seed(0)
    falls = -sharpness.spectral_profile(sharpness.randomize_sharpness(textures(300)))[:, -4:].mean(1)
    assert falls.quantile(0.9) > 2.5 * falls.quantile(0.1) > 0


def test_levelling_keeps_what_is_coarse_and_the_range():
    pixels = textures(8)
    levelled = sharpness.randomize_sharpness(pixels)
    assert levelled.min() >= 0
    assert levelled.max() <= 1
    assert torch.allclose(functional.avg_pool2d(levelled, 8), functional.avg_pool2d(pixels, 8), atol=0.02)
    assert not torch.allclose(levelled, pixels, atol=0.02)


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (97, 64)])
def test_pictures_of_any_size_and_of_one_colour_are_taken(size):
    for pixels in (torch.rand(2, 3, *size), torch.full((2, 3, *size), 0.5)):
        assert sharpness.spectral_profile(pixels).isfinite().all()
        assert sharpness.randomize_sharpness(pixels).shape == pixels.shape
        assert sharpness.randomize_sharpness(pixels).isfinite().all()


def test_robust_augmentation_levels_and_the_plain_one_does_not(monkeypatch):
    levelled = []
    monkeypatch.setattr(sharpness, "randomize_sharpness", lambda pixels: levelled.append(len(pixels)) or pixels)
    augmentation.augment(textures(3), robust=False)
    assert levelled == []
    augmentation.augment(textures(3), robust=True)
    assert levelled == [3]
