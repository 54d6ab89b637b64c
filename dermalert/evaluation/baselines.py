"""Models without medicine in them: what frame, origin, mean colour or sharpness alone tells of the diagnosis.

A classifier that is hardly better than these may be reading how and where the pictures were made. That models do well
on pictures whose lesion is hidden was shown by Bissoto et al. (2019, arXiv 1904.08818).
"""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import Dataset
from dermalert_space.images import read_image
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from dermalert.evaluation import metrics
from dermalert.imaging import sharpness
from dermalert.taxonomy import ALERT, DIAGNOSES

_MELANOMA = DIAGNOSES.index(ALERT)
_SIZE = 64  # pixels a side, to which every picture is shrunk
_SHARP = 160  # pixels a side, at which the sharpness is measured: about what networks are given
_BINS = 16  # of the histogram of one colour
_CELL = 8  # pixels a side, of a cell of the coarse thumbnail
_FRAME = 3  # pixels: 5 % of a side
_MARGIN = 5  # pixels: 8 % of a side, so that the hidden square covers 71 % of the picture
_STRENGTH = 0.1  # 1 / regularisation: of 0.01, 0.1 and 1 the best on balance in cross-validation on the Kaggle set

_TEXTS = {
    "mean_colour": "mean and standard deviation of red, green and blue",
    "frame_only": "colour histograms of the outer 5 % of each side",
    "source_only": "where the picture was made",
    "sharpness_only": "how steeply the fine detail of the picture falls off",
    "lesion_hidden": "colour histograms and a coarse thumbnail of the picture without its central square (71 % of it)",
}


def baselines(sides: dict[str, Dataset], probabilities: np.ndarray | None = None) -> dict:
    """Fit each baseline on the side `train` and measure it on `held_out`.

    With fewer than two diagnoses to learn from nothing is defined, and without melanomas no AUROC. Where all pictures
    are of one source, `source_only` scores them alike, and its AUROC is 0.5: the source tells nothing there.

    Args:
        sides: data sets in the schema `schema.FEATURES`; the other sides are not looked at.
        probabilities: (n, 9) the model's answers to the images held out, in their order; without them no margins.

    Returns:
        Of each baseline `n` (images measured), `balanced_accuracy` and `melanoma_auroc` (value, low and high: the 95 %
        interval by resampling groups; None where undefined), `margin`, by how much the model exceeds it in these two
        (the same groups drawn for both), `by_source` (`melanoma_auroc` and `margin`, among the images of one source,
        for the sources that have melanomas and others), and `features`, what it sees in words.
    """
    train, held_out = sides["train"], sides["held_out"]
    with tqdm(total=len(train) + len(held_out), desc="Looking for shortcuts", unit=" images") as bar:
        seen, asked = _seen(train, bar), _seen(held_out, bar)
    origins = sorted(set(_origins(train)))
    seen["source_only"], asked["source_only"] = _one_hot(train, origins), _one_hot(held_out, origins)
    diagnoses = np.array(train["label"], int)
    figures = {name: _measure(_fit(seen[name], diagnoses), asked[name], held_out, probabilities) for name in _TEXTS}
    return {name: {"n": len(held_out)} | figures[name] | {"features": text} for name, text in _TEXTS.items()}


def shortcuts(figures: dict) -> dict:
    """Return which baselines the model is not shown to exceed: there its figure may come from their shortcut.

    Args:
        figures: of `baselines`, with margins.

    Returns:
        `found`, the names of such baselines by figure, and the figures `not_measured`, whose margins are undefined. A
        baseline counts where the 95 % interval of the margin does not lie above zero.
    """
    margins = {
        figure: {name: baseline["margin"][figure] for name, baseline in figures.items()}
        for figure in ("balanced_accuracy", "melanoma_auroc")
    }
    names = {
        figure: [name for name, margin in found.items() if margin["value"] is not None and not _exceeds(margin)]
        for figure, found in margins.items()
    }
    undefined = [figure for figure, found in margins.items() if all(m["value"] is None for m in found.values())]
    return {"found": any(names.values()), "not_measured": undefined} | names


def _exceeds(margin: dict) -> bool:
    """Tell whether a margin is above zero; one without interval speaks itself."""
    return (margin["value"] if margin["low"] is None else margin["low"]) > 0


def _seen(dataset: Dataset, bar: tqdm) -> dict[str, np.ndarray]:
    """Return what each baseline sees of the pictures, (n, features); a picture is read once and then forgotten."""
    images = dataset.select_columns("image").cast_column("image", datasets.Image(decode=False))
    rows = []
    with ThreadPoolExecutor() as pool:
        for features in pool.map(lambda i: _features(_picture(images[i]["image"])), range(len(images))):
            rows.append(features)
            bar.update()
    return {name: np.array([row[name] for row in rows]) for name in _TEXTS if name != "source_only"}


def _picture(image: dict) -> Image.Image:
    """Return a picture of a data set as 8-bit RGB, of a size that shows how sharp it is."""
    content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    with Image.open(io.BytesIO(content)) as opened:
        opened.draft(None, (2 * _SHARP, 2 * _SHARP))  # a large JPEG is decoded at a fraction of its size
        return read_image(opened)


def _features(image: Image.Image) -> dict[str, np.ndarray]:
    """Return what each baseline sees of a picture, whose aspect is squashed."""
    picture = np.asarray(image.resize((_SIZE, _SIZE), Image.Resampling.BOX))
    surroundings = _border(_MARGIN)
    return {
        "mean_colour": np.concatenate([picture.mean((0, 1)), picture.std((0, 1))]),
        "frame_only": _histograms(picture[_border(_FRAME)]),
        "sharpness_only": _sharpness(image),
        "lesion_hidden": np.concatenate([_histograms(picture[surroundings]), _cells(picture, surroundings)]),
    }


def _sharpness(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image.resize((_SHARP, _SHARP), Image.Resampling.BICUBIC), np.float32) / 255
    return sharpness.levels(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].numpy()


def _border(pixels: int) -> np.ndarray:
    """Return a mask (64, 64) that is true so many pixels inwards from each side."""
    mask = np.ones((_SIZE, _SIZE), bool)
    mask[pixels:-pixels, pixels:-pixels] = False
    return mask


def _histograms(pixels: np.ndarray) -> np.ndarray:
    """Return the histograms of red, green and blue (48,) of pixels (n, 3).

    As square roots of the shares, or rare colours would be outliers for a linear model.
    """
    bins = pixels.astype(int) * _BINS // 256 + np.arange(3) * _BINS
    return np.sqrt(np.bincount(bins.ravel(), minlength=3 * _BINS) / len(pixels))


def _cells(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the mean colours of an 8 x 8 thumbnail, of the pixels in the mask; cells that have none are left out."""

    def sums(values: np.ndarray) -> np.ndarray:
        return values.reshape(_SIZE // _CELL, _CELL, _SIZE // _CELL, _CELL, -1).sum((1, 3))

    pixels = sums(mask)[..., 0]
    return (sums(picture * mask[..., None])[pixels > 0] / pixels[pixels > 0][:, None]).ravel()


def _origins(dataset: Dataset) -> list[str]:
    return [source or "not known" for source in dataset["source"]]


def _one_hot(dataset: Dataset, origins: list[str]) -> np.ndarray:
    """Return one column an origin, (n, origins); an image of any other has zeros."""
    return np.array(_origins(dataset), str)[:, None] == np.array(origins, str)


def _fit(features: np.ndarray, truth: np.ndarray) -> Pipeline | None:
    """Return a linear model that weighs all diagnoses alike, or None where there are not two of them."""
    if len(np.unique(truth)) < 2:
        return None
    model = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=5000, random_state=0)
    return make_pipeline(StandardScaler(), model).fit(features, truth)


def _measure(model: Pipeline | None, features: np.ndarray, held_out: Dataset, probabilities: np.ndarray | None) -> dict:
    undefined = {"value": None, "low": None, "high": None}
    figures = {"balanced_accuracy": undefined, "melanoma_auroc": undefined}
    figures["margin"] = dict(figures)
    figures["by_source"] = {}
    if model is None or not len(held_out):
        return figures
    truth, intervals = np.array(held_out["label"]), metrics.Intervals(np.array(held_out["group"]))
    prediction = model.predict(features)

    def balance(predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return metrics.balanced_accuracy(truth, predicted, weights)

    def area(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return metrics.auroc(truth == _MELANOMA, scores, weights)

    figures["balanced_accuracy"] = intervals.of(lambda w: balance(prediction, w))
    if probabilities is not None:
        answers = metrics.decide(probabilities)
        figures["margin"]["balanced_accuracy"] = intervals.of(lambda w: balance(answers, w) - balance(prediction, w))
    if _MELANOMA in model.classes_:
        score = model.predict_proba(features)[:, list(model.classes_).index(_MELANOMA)]
        figures["melanoma_auroc"] = intervals.of_area(metrics.auroc, truth == _MELANOMA, score)
        if probabilities is not None:
            own = probabilities[:, _MELANOMA]
            figures["margin"]["melanoma_auroc"] = intervals.of(lambda w: area(own, w) - area(score, w))
        origins = np.array(_origins(held_out), str)
        for origin in np.unique(origins):
            inside = origins == origin
            if len(np.unique(truth[inside] == _MELANOMA)) == 2:
                figures["by_source"][str(origin)] = {
                    "melanoma_auroc": intervals.of_area(metrics.auroc, truth == _MELANOMA, score, among=inside),
                    "margin": undefined
                    if probabilities is None
                    else intervals.of(lambda w, i=inside: area(own, w * i) - area(score, w * i)),
                }
    return figures
