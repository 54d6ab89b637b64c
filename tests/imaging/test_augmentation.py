import numpy as np
import pytest
import torch
from PIL import Image

from dermalert.imaging import augmentation
from dermalert.imaging.augmentation import artefact_layers, augment, color_jitter


def test_augmentation_leaves_no_black_corners():
    white = torch.full((32, 3, 24, 24), 0.8)
    assert augment(white, robust=False).std(dim=(2, 3)).max() < 1e-4


@pytest.mark.parametrize("robust", [False, True])
def test_augmentation_keeps_what_is_in_the_middle(robust):
    spot = np.zeros((48, 48, 3), np.uint8)
    spot[18:30, 18:30] = 255
    pixels = torch.tensor(np.asarray(Image.fromarray(spot))).permute(2, 0, 1).float().expand(64, -1, -1, -1) / 255
    turned = augment(pixels.contiguous(), robust=robust)
    brighter = turned[:, :, 22:26, 22:26].mean((1, 2, 3)) > turned[:, :, :4, :4].mean((1, 2, 3)) + 0.3
    assert brighter.float().mean() > (0.7 if robust else 0.9)  # some get a bright frame, or a hair across


def lesions(n):
    """Pictures (n, 3, 64, 64) of a textured dark disc on skin."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    disc = (x**2 + y**2 < 0.3).float()
    skin = torch.tensor([0.8, 0.6, 0.5]).view(3, 1, 1) * (1 - 0.6 * disc)
    return (skin + 0.05 * torch.rand(n, 3, 64, 64)).clamp(0, 1)


def with_dark_frame(pixels):
    pixels[:, :, :4], pixels[:, :, -4:] = 0.1, 0.1
    return pixels


CAMERAS = {  # how the other camera differs, and a measure that shows it
    "sharpness": (
        lambda p: torch.nn.functional.avg_pool2d(p, 3, 1, 1, count_include_pad=False),
        lambda p: (p[:, :, 1:] - p[:, :, :-1]).abs().mean((1, 2, 3)),
    ),
    "white balance": (
        lambda p: (p * torch.tensor([0.9, 1.0, 1.1]).view(3, 1, 1)).clamp(0, 1),
        lambda p: p[:, 0].mean((1, 2)) - p[:, 2].mean((1, 2)),
    ),
    "frame": (with_dark_frame, lambda p: p[:, :, :3].mean((1, 2, 3))),
    "brightness": (lambda p: p * 0.85, lambda p: p.mean((1, 2, 3))),
}


@pytest.mark.parametrize("cue", CAMERAS)
def test_robust_augmentation_hides_what_tells_one_camera_from_another(cue):
    """Two cameras that any threshold tells apart overlap after it, further than after the plain one."""
    alter, measure = CAMERAS[cue]
    one, other = lesions(200), alter(lesions(200))

    def difference(change):
        a, b = measure(change(one)), measure(change(other))
        return abs((a[:, None] > b).float().mean().item() - 0.5) * 2

    assert difference(lambda pixels: pixels) > 0.99
    robust, plain = (difference(lambda p, r=r: augment(p, robust=r)) for r in (True, False))
    assert robust < 0.85
    assert robust < plain + 0.02


def test_colours_are_changed_as_by_one_step_after_the_other():
    pixels = torch.rand(5, 3, 8, 8)
    torch.manual_seed(0)
    jittered = color_jitter(pixels, saturation=0.4, contrast=0.3, brightness=0.1, balance=0.08)
    torch.manual_seed(0)
    saturation, contrast = augmentation._uniform(5, 0.6, 1.4), augmentation._uniform(5, 0.7, 1.3)
    light = augmentation._uniform(5, -0.1, 0.1) + augmentation._uniform(5, -0.08, 0.08, channels=3)
    grey = pixels.mean(dim=1, keepdim=True)
    coloured = grey + saturation * (pixels - grey)
    mean = coloured.mean(dim=(1, 2, 3), keepdim=True)
    assert torch.allclose(jittered, mean + contrast * (coloured - mean) + light, atol=1e-6)


@pytest.mark.parametrize("draw", augmentation.ARTEFACT_SHARES, ids=lambda draw: draw.__name__)
def test_what_is_drawn_is_what_the_artefact_draws(draw):
    picture = lesions(1)[0]
    left, paint = artefact_layers(draw, 64, 64, picture.device)
    for i in range(5):
        drawn = draw(picture.permute(1, 2, 0).numpy(), np.random.default_rng(i))
        layered = (picture * (left[i] / 255) + paint[i] / 255).permute(1, 2, 0).numpy()
        assert layered == pytest.approx(drawn, abs=1.01 / 255)


def test_as_many_pictures_are_drawn_on_as_are_meant_to_be(monkeypatch):
    grey = torch.full((2000, 3, 32, 32), 0.5)
    for draw, share in dict(augmentation.ARTEFACT_SHARES).items():
        monkeypatch.setattr(augmentation, "ARTEFACT_SHARES", {draw: share})
        changed = (augmentation.random_artefacts(grey.clone()) != grey).flatten(1).any(1).float().mean()
        assert changed == pytest.approx(share, abs=0.03)


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator")
@pytest.mark.parametrize("robust", [False, True])
def test_a_seed_gives_the_same_pictures_on_an_accelerator(robust):
    pixels = torch.nn.functional.interpolate(torch.rand(8, 3, 20, 20), size=(160, 160), mode="bicubic").clamp(0, 1)
    pictures = []
    for device in ("cpu", torch.accelerator.current_accelerator()):
        torch.manual_seed(0)
        pictures.append(augment(pixels.to(device), robust=robust).cpu())
    assert (pictures[0] - pictures[1]).abs().mean() < 1e-3  # a value that is rounded otherwise moves a block of a JPEG
