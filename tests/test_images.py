import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from dermalert import sources
from dermalert.images import augment, collate, with_pixels


@pytest.fixture
def dataset(tmp_path):
    from pictures import class_folders

    return sources.load([str(class_folders(tmp_path, images=2))])


def test_pixels_without_augmentation_are_those_of_the_processor(dataset):
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    row = with_pixels(dataset, processor)[3]
    expected = processor(dataset[3]["image"].convert("RGB"), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(row["pixel_values"], expected)
    assert row["labels"] == dataset[3]["label"]


def test_augmentation_changes_every_image_anew_and_keeps_shape_and_range(dataset):
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    augmented = with_pixels(dataset, processor, augmented=True)
    torch.manual_seed(0)
    first, second = augmented[0]["pixel_values"], augmented[0]["pixel_values"]
    assert first.shape == (3, 16, 16)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(augmented[0]["pixel_values"], first)


def test_augmentation_leaves_no_black_corners():
    white = torch.full((32, 3, 24, 24), 1.0)
    assert augment(white).std(dim=(2, 3)).max() < 1e-4


def test_augmentation_keeps_what_is_in_the_middle():
    spot = np.zeros((48, 48, 3), np.uint8)
    spot[18:30, 18:30] = 255
    pixels = torch.tensor(np.asarray(Image.fromarray(spot))).permute(2, 0, 1).float().expand(64, -1, -1, -1) / 255
    turned = augment(pixels.contiguous())
    assert (
        turned[:, :, 22:26, 22:26].mean((1, 2, 3)) > turned[:, :, :4, :4].mean((1, 2, 3)) + 0.3
    ).float().mean() > 0.9


def test_a_batch_is_stacked_with_its_labels(dataset):
    rows = with_pixels(dataset, ViTImageProcessorPil(size={"height": 16, "width": 16}))
    batch = collate([rows[0], rows[5]])
    assert batch["pixel_values"].shape == (2, 3, 16, 16)
    assert batch["labels"].tolist() == [rows[0]["labels"], rows[5]["labels"]]
