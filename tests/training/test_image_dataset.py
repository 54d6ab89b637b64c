import numpy as np
import pytest
import torch
from PIL import Image
from transformers import EfficientNetImageProcessorPil, ViTImageProcessorPil

from dermalert.data import loading
from dermalert.training import image_dataset
from dermalert.training.image_dataset import ImageDataset, collate


@pytest.fixture
def dataset(tmp_path):
    from support.pictures import class_folders

    return loading.load([str(class_folders(tmp_path, images=2))]).dataset


def test_pixels_without_augmentation_are_those_of_the_processor(dataset):
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    row = ImageDataset(dataset, processor)[3]
    expected = processor(dataset[3]["image"].convert("RGB"), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(row["pixel_values"], expected)
    assert row["labels"] == dataset[3]["label"]


@pytest.mark.parametrize("kind", ["plain", "robust"])
def test_augmentation_changes_every_image_anew_and_keeps_shape_and_range(dataset, kind):
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    augmented = ImageDataset(dataset, processor, augmented=kind)
    torch.manual_seed(0)
    first, second = augmented[0]["pixel_values"], augmented[0]["pixel_values"]
    assert first.shape == (3, 16, 16)
    assert -2.001 < first.min() < first.max() < 2.001
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(augmented[0]["pixel_values"], first)


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(size={"height": 32, "width": 32}),
        EfficientNetImageProcessorPil(size={"height": 32, "width": 32}),
        EfficientNetImageProcessorPil(size={"height": 32, "width": 32}, rescale_offset=True),
        ViTImageProcessorPil(size={"height": 32, "width": 32}, do_normalize=False),
    ],
    ids=["plain", "divides twice", "shifts", "does not normalise"],
)
def test_what_is_augmented_are_the_picture_s_own_values_whatever_the_processor_does(dataset, processor, monkeypatch):
    given = []
    monkeypatch.setattr(image_dataset, "augment", lambda pixels, **_: given.append(pixels.clone()) or pixels)
    plain, augmented = (ImageDataset(dataset, processor, augmented=how)[3]["pixel_values"] for how in ("none", "plain"))
    assert torch.allclose(plain, augmented, atol=1e-5)
    picture = dataset[3]["image"].convert("RGB").resize((32, 32), Image.Resampling(processor.resample))
    assert given[0][0].permute(1, 2, 0).numpy() == pytest.approx(np.asarray(picture) / 255, abs=0.01)


def test_a_batch_is_stacked_with_its_labels(dataset):
    rows = ImageDataset(dataset, ViTImageProcessorPil(size={"height": 16, "width": 16}))
    batch = collate(rows.__getitems__([0, 5]))
    assert batch["pixel_values"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch["pixel_values"][1], rows[5]["pixel_values"])
    assert batch["pixel_values"].shape == (2, 3, 16, 16)
    assert batch["labels"].tolist() == [rows[0]["labels"], rows[5]["labels"]]
