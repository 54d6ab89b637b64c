"""From images to `pixel_values`: the release's own processor, then, in training, augmentation of the whole batch."""

import torch
from datasets import Dataset
from dermalert_space.contract import Json
from transformers import BaseImageProcessor

from dermalert.config import Augmentation
from dermalert.imaging.augmentation import augment
from dermalert.imaging.byte_processor import ByteProcessor
from dermalert.imaging.device import to_device
from dermalert.imaging.pixel_cache import PixelCache


class ImageDataset(torch.utils.data.Dataset[Json]):
    """A data set as the Trainer reads it: `pixel_values` (3, H, W) and `labels`.

    The release's own processor decodes and resizes each image once; augmentation comes after it. So training and
    serving cannot drift apart.

    Args:
        dataset: with the columns `image`, `content` and `label`.
        processor: of the release.
        augmented: how.
        device: where each batch is augmented, and stays.
    """

    def __init__(
        self,
        dataset: Dataset,
        processor: BaseImageProcessor,
        *,
        augmented: Augmentation = "none",
        device: torch.device | str = "cpu",
    ):
        self._processor = ByteProcessor(processor)
        self._pixels = PixelCache(dataset, self._processor)
        self._labels, self._augmented, self._device = dataset["label"][:], augmented, torch.device(device)
        self._processor.to(self._device)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> Json:
        batch = self.__getitems__([row])
        return {"pixel_values": batch["pixel_values"][0], "labels": self._labels[row]}

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        """Make a batch of some rows: `pixel_values` (n, 3, H, W) and `labels` (n,).

        `torch.utils.data.DataLoader` calls this for a whole batch, and passes the result to `collate`.
        """
        raw = torch.from_numpy(self._pixels[rows])
        if self._device.type == "cuda":
            raw = raw.pin_memory()  # or the copy would wait for all that the device still has to do
        pixels = to_device(raw, self._device).float().div_(255)
        if self._augmented != "none":
            pixels = augment(pixels, robust=self._augmented == "robust")
        # Augmented with the channels first, but trained on with them last, which is about a third faster on a CPU.
        values = self._processor.to_pixel_values(pixels).contiguous(memory_format=torch.channels_last)
        labels = torch.tensor([self._labels[row] for row in rows])
        return {"pixel_values": values, "labels": to_device(labels, values.device)}


def collate(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pass on what `ImageDataset` makes, which is a batch already."""
    return batch
