"""Predictions of whole splits, by the release as `dermalert_space` loads it: what is measured is what is served."""

import dataclasses
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from dermalert_space import files
from dermalert_space.images import read_image
from dermalert_space.prediction_sets import PredictionSets
from dermalert_space.release import Inputs, Predictions, Release

from dermalert import progress
from dermalert.imaging.byte_processor import ByteProcessor
from dermalert.imaging.pixel_cache import PixelCache
from dermalert.taxonomy import MELANOMA

_BATCH = 16  # images in memory at once, and in a batch of the model


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitPredictions:
    """A release's predictions of the images of a split."""

    dataset: Dataset
    probabilities: np.ndarray
    """(n, 9), calibrated."""
    alert: np.ndarray | None
    """(n,) which images raise the melanoma alert; None where the release has no threshold."""
    attention: np.ndarray | None = None
    """(n,) which images ask for attention; None where the release has no threshold for it."""
    abstained: np.ndarray | None = None
    """(n,) on which images it abstains; None where it never does."""
    sets: PredictionSets | None = None
    """What makes the prediction sets of the images; None where the release has none."""

    @property
    def alert_as_served(self) -> np.ndarray | None:
        """The alert (n,), which an image does not raise where the release abstains."""
        return self.alert if self.alert is None or self.abstained is None else self.alert & ~self.abstained

    @property
    def flagged(self) -> np.ndarray:
        """The same of a model that has an alert."""
        alert = self.alert_as_served
        assert alert is not None
        return alert

    @property
    def abstains(self) -> np.ndarray:
        """On which images (n,) it abstains; on none where it never does."""
        return np.zeros(len(self.dataset), bool) if self.abstained is None else self.abstained

    @property
    def melanoma(self) -> np.ndarray:
        """Which images (n,) show melanoma."""
        return np.array(self.dataset["label"][:]) == MELANOMA

    @property
    def melanoma_probabilities(self) -> np.ndarray:
        """That of each image, (n,)."""
        return self.probabilities[:, MELANOMA]

    def select(self, rows: np.ndarray) -> "SplitPredictions":
        """Take some of the images, by their rows."""
        flags = {name: getattr(self, name) for name in ("alert", "attention", "abstained")}
        taken = {name: None if flag is None else flag[rows] for name, flag in flags.items()}
        dataset, probabilities = self.dataset.select(rows), self.probabilities[rows]
        return SplitPredictions(dataset=dataset, probabilities=probabilities, sets=self.sets, **taken)


def predict(release: Release, dataset: Dataset, *, name: str, keep: bool = False) -> SplitPredictions:
    """Predict a data set's images, with a progress bar; for `keep` see `inputs`."""
    return predict_splits(release, {name: dataset}, keep=keep)[name]


def predict_splits(
    release: Release, splits: Mapping[str, Dataset], *, keep: bool = False
) -> dict[str, SplitPredictions]:
    """Predict each split that has images; an image that is in several of them, by its content, is predicted once."""
    rows: dict[str, tuple[np.ndarray, str | None]] = {}
    by_split = {}
    for name, dataset in splits.items():
        if not len(dataset):
            continue
        contents = dataset["content"][:]
        new = [i for i, content in enumerate(contents) if content not in rows]
        predictions = predict_images(release, dataset.select(new), name=name, keep=keep)
        pairs = zip(predictions.probabilities, predictions.abstained, strict=True)
        rows |= zip((contents[i] for i in new), pairs, strict=True)
        if len(new) < len(dataset):
            probabilities, abstained = zip(*(rows[content] for content in contents), strict=True)
            predictions = Predictions(probabilities=np.stack(probabilities), abstained=list(abstained))
        by_split[name] = of_split(release, dataset, predictions)
    return by_split


def predict_images(release: Release, dataset: Dataset, *, name: str, keep: bool = False) -> Predictions:
    """The predictions of a data set's images as arrays, with a progress bar; for `keep` see `inputs`."""
    return release.predict_batches(inputs(release, dataset, f"Predicting {name}", keep=keep))


def inputs(release: Release, dataset: Dataset, title: str, *, keep: bool = True) -> Iterator[Inputs]:
    """What a release looks at of a data set's images, in batches of 16, with a progress bar.

    Args:
        release: that looks.
        dataset: with the column `image`.
        title: of the progress bar.
        keep: take it from the pixel cache, where it stays for whoever looks at the images again; they need the column
            `content` for that.
    """
    look = _look(release, dataset, keep=keep)
    with progress.bar(len(dataset), title) as bar:
        for start in range(0, len(dataset), _BATCH):
            rows = range(start, min(start + _BATCH, len(dataset)))
            yield look(rows)
            bar.update(len(rows))


def _look(release: Release, dataset: Dataset, *, keep: bool) -> Callable[[range], Inputs]:
    if keep and "content" in dataset.column_names and (processed := ByteProcessor(release.processor)).is_exact:
        cache = PixelCache(dataset, processed, signals="new" if release.abstention is None else "all")

        def look(rows: range) -> Inputs:
            pixels, signals = cache.looks(rows)
            return Inputs(pixels={"pixel_values": processed.exact_values(pixels)}, signals=signals)

        return look
    return lambda rows: release.inputs([read_image(image) for image in dataset[rows]["image"]])


def of_split(release: Release, dataset: Dataset, predictions: Predictions) -> SplitPredictions:
    """Apply a release's operating points to its predictions of a split."""
    abstained = np.array([reason is not None for reason in predictions.abstained], bool)
    return SplitPredictions(
        dataset=dataset,
        probabilities=predictions.probabilities,
        alert=release.alerts(predictions.probabilities),
        attention=release.attentions(predictions.probabilities),
        abstained=None if release.abstention is None else abstained,
        sets=release.prediction_sets,
    )


def pool(folds: Sequence[SplitPredictions]) -> SplitPredictions:
    """Join the predictions of folds: each image by the one model that was not trained on it.

    Each model has its own operating points; where one has none, nothing is said of them.
    """

    def join(flags: list[np.ndarray | None]) -> np.ndarray | None:
        present = [flag for flag in flags if flag is not None]
        return np.concatenate(present) if len(present) == len(flags) else None

    return SplitPredictions(
        dataset=concatenate_datasets([fold.dataset for fold in folds]),
        probabilities=np.concatenate([fold.probabilities for fold in folds]),
        alert=join([fold.alert for fold in folds]),
        attention=join([fold.attention for fold in folds]),
    )


def write_predictions(path: Path, predictions: SplitPredictions) -> None:
    """Keep predictions, whole or not at all, for a run that goes on after a stop."""
    flags = {"alert": predictions.alert, "attention": predictions.attention}
    kept = {name: flag for name, flag in flags.items() if flag is not None}
    kept |= {"content": np.array(predictions.dataset["content"][:]), "probabilities": predictions.probabilities}
    with files.atomic_write(path, partial=path.with_suffix(".partial.npz")) as partial:  # tells numpy the format
        np.savez(partial, allow_pickle=False, **kept)


def read_predictions(path: Path, dataset: Dataset) -> SplitPredictions | None:
    """Read what `write_predictions` kept; None where it is not there, or of other images than the data set's."""
    if not path.is_file() or not zipfile.is_zipfile(path):  # damaged
        return None
    with np.load(path) as kept:
        if kept["content"].tolist() != dataset["content"][:]:
            return None
        flags = {name: kept.get(name) for name in ("alert", "attention")}
        return SplitPredictions(dataset=dataset, probabilities=kept["probabilities"], **flags)
