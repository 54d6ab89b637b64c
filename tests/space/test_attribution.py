"""Where a release looked: models that look at one corner by construction, and nothing left behind in a model."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from dermalert_space import attribution
from support.networks import CONVOLUTIONAL, OF_TOKENS, SIDE, blinkered, grain
from support.networks import release as release_of
from transformers import DeiTImageProcessorPil, ViTImageProcessorPil

pytestmark = pytest.mark.integration


def never(*_, **__):
    raise AssertionError("the other method was to be used")


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, *OF_TOKENS])
def test_convolutional_networks_are_explained_by_grad_cam_and_those_of_tokens_by_occlusion(name, monkeypatch):
    monkeypatch.setattr(attribution, "LayerGradCam" if name in OF_TOKENS else "Occlusion", never)
    found = attribution.attribute(release_of(name), grain((64, 48)))
    assert found.shape == (48, 64)
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.ptp(found) > 0


# Each with zeros where it sees zeros: of a network with biases Grad-CAM can mark what it does not look at.
@pytest.mark.parametrize(
    ("name", "side", "top", "left"),
    [("ResNet", 96, True, True), ("ResNet", 96, False, False), ("ViT", SIDE, True, False), ("ViT", SIDE, False, True)],
)
def test_a_model_that_looks_at_one_quadrant_has_its_map_there(name, side, top, left):
    processor = ViTImageProcessorPil(size={"height": side, "width": side})
    rows, columns = (slice(0, side // 2) if first else slice(side // 2, None) for first in (top, left))
    found = attribution.attribute(blinkered(release_of(name, processor), rows, columns), grain((96, 64)))
    # A window, and what a feature sees, reach an eighth of the side over the edge.
    near = np.zeros(found.shape, bool)
    near[slice(0, 40) if top else slice(24, None), slice(0, 60) if left else slice(36, None)] = True
    assert found[near].max() > 0.1
    assert found[near].sum() > 0.75 * found.sum()


@pytest.mark.parametrize("name", ["ConvNext", "EfficientNet", "ViT"])
def test_a_map_leaves_no_hooks_no_gradients_and_no_other_answers(name):
    release, image = release_of(name), grain((64, 48))
    weights = {key: value.clone() for key, value in release.model.state_dict().items()}
    before = release.probabilities([image])
    attribution.attribute(release, image)
    np.testing.assert_array_equal(release.probabilities([image]), before)
    for module in release.model.modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        assert not any(hooks)
    for weight in release.model.parameters():
        assert weight.grad is None
        assert weight.requires_grad
    for key, value in release.model.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_a_map_takes_no_second_copy_of_the_weights(monkeypatch):
    release, kept = release_of("ViT"), []
    copy = attribution._copy
    monkeypatch.setattr(attribution, "_copy", lambda network: kept.append(copy(network)) or kept[0])
    attribution.attribute(release, grain((64, 48)))
    held = {value.data_ptr() for value in release.model.state_dict().values()}
    assert {value.data_ptr() for value in kept[0].state_dict().values()} == held


@pytest.mark.parametrize("name", ["ResNet", "ViT"])
def test_maps_made_at_once_are_those_made_alone_and_disturb_no_answers(name):
    release, images = release_of(name), [grain((64, 48), seed=seed) for seed in range(4)]
    maps = [attribution.attribute(release, image) for image in images]
    answers = [release.probabilities([image]) for image in images]
    with ThreadPoolExecutor(8) as pool:
        told = [pool.submit(release.probabilities, [image]) for image in images * 20]
        found = [pool.submit(attribution.attribute, release, image) for image in images * 5]
        told += [pool.submit(release.probabilities, [image]) for image in images * 20]
    for i, each in enumerate(found):
        np.testing.assert_allclose(each.result(), maps[i % 4], atol=1e-5)
    for i, each in enumerate(told):
        np.testing.assert_array_equal(each.result(), answers[i % 4])


def test_a_map_may_be_asked_for_where_gradients_are_off():
    release, image = release_of("ResNet"), grain((64, 48))
    with torch.inference_mode():
        found = attribution.attribute(release, image)
    np.testing.assert_array_equal(found, attribution.attribute(release, image))


def test_a_map_is_of_the_diagnosis_that_is_named_and_else_of_the_alert():
    release, image = release_of("ResNet"), grain((64, 48))
    named = attribution.attribute(release, image, "melanoma")
    np.testing.assert_array_equal(named, attribution.attribute(release, image))
    assert np.abs(named - attribution.attribute(release, image, "nevus")).max() > 0.1
    with pytest.raises(ValueError, match="no diagnosis 'mole' in this release: take one of actinic keratosis, "):
        attribution.attribute(release, image, "mole")


def crops(shortest: int) -> DeiTImageProcessorPil:
    return DeiTImageProcessorPil(size={"shortest_edge": shortest}, crop_size={"height": SIDE, "width": SIDE})


@pytest.mark.parametrize(
    ("processor", "size", "seen"),
    [
        (ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}), (640, 480), (0, 0, 1, 1)),
        (ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}), (20, 900), (0, 0, 1, 1)),
        (crops(SIDE), (640, 320), (0.25, 0, 0.75, 1)),
        (crops(SIDE), (640, 640), (0, 0, 1, 1)),
        (crops(2 * SIDE), (320, 640), (0.25, 0.375, 0.75, 0.625)),
        (crops(SIDE // 2), (320, 320), (-0.5, -0.5, 1.5, 1.5)),  # it pads
        (DeiTImageProcessorPil(do_resize=False, crop_size={"height": SIDE, "width": SIDE}), (64, 128), None),
    ],
    ids=str,
)
def test_what_a_processor_shows_the_model_is_found_out(processor, size, seen):
    seen = seen or (0.25, 0.375, 0.75, 0.625)
    assert attribution._visible_box(processor, size) == pytest.approx(seen, abs=0.01)


@pytest.mark.parametrize("name", ["ResNet", "ViT"])
def test_what_the_processor_cuts_off_is_not_marked_and_the_rest_lies_where_it_was_seen(name):
    release = blinkered(release_of(name, crops(SIDE)), slice(0, 12), slice(20, None))
    found = attribution.attribute(release, grain((128, 64)))
    assert found.shape == (64, 128)
    assert np.isnan(found[:, :31]).all()
    assert np.isnan(found[:, 97:]).all()
    assert np.isfinite(found[:, 33:95]).all()
    row, column = np.unravel_index(np.nanargmax(found), found.shape)
    assert row < 32
    assert 64 < column < 97


def test_the_map_of_a_large_image_is_bounded_and_keeps_its_shape():
    found = attribution.attribute(release_of("ResNet"), grain((3000, 1500)))
    assert found.shape == (attribution.SIDE // 2, attribution.SIDE)


def test_where_nothing_speaks_for_the_diagnosis_nothing_is_marked():
    release = release_of("ViT")
    for weight in release.model.parameters():
        weight.data.zero_()
    assert not attribution.attribute(release, grain((64, 48))).any()


def test_an_overlay_colours_what_is_marked_and_leaves_the_rest_to_be_seen():
    image = grain((40, 30))
    found = np.zeros((30, 40), np.float32)
    found[:10], found[20:] = 1, np.nan
    laid = attribution.overlay(image, found)
    assert laid.size == image.size
    pixels = np.asarray(laid, np.float32)
    grey = np.asarray(image.convert("L"), np.float32)
    np.testing.assert_array_equal(pixels[10:20], np.repeat(grey[10:20, :, None], 3, axis=-1))
    assert (pixels[:10, :, 0] > pixels[:10, :, 2] + 50).all(), "the last colour of viridis is yellow"
    for part in (slice(0, 10), slice(20, None)):
        assert np.corrcoef(pixels[part].mean(-1).ravel(), grey[part].ravel())[0, 1] > 0.99
    assert pixels[20:].min() > 170, "veiled"


def test_the_colours_are_those_of_viridis_of_matplotlib():
    from matplotlib import colormaps

    steps = colormaps["viridis"](np.linspace(0, 1, 256))[:, :3] * 255
    ours = [np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, 17), channel) for channel in attribution._COLOURS.T]
    assert np.abs(np.stack(ours, axis=1) - steps).max() < 8
