r"""What a release abstains on: photographs that show no lesion, lesions ever worse to see, lesions of another source.

    pip install scikit-image
    python benchmarks/evaluation/abstention.py --model space/model --dataset_name isic9/ isic2017/ ham10000/

The photographs are those that scikit-image and scikit-learn ship, which were looked at when the rate and the layers
were chosen, and those of gradio and matplotlib, which were not; of each the whole and six squares cut out by chance.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset
from dermalert_space import abstention, contract
from dermalert_space.estimate import Estimate, format_estimate
from dermalert_space.images import read_image
from dermalert_space.release import Release
from PIL import Image, ImageFilter

from dermalert.config import Config
from dermalert.data import prepare
from dermalert.errors import run_command
from dermalert.evaluation.intervals import Intervals
from dermalert.release import fit_abstention

_CUT_OUT = 6  # squares of each photograph
_LESIONS = 200  # held out, of each degree of a fault

_SKIMAGE = """astronaut.png brick.png camera.png chelsea.png clock_motion.png coffee.png coins.png color.png grass.png
gravel.png horse.png hubble_deep_field.jpg logo.png moon.png motorcycle_left.png page.png rocket.jpg text.png"""
_MICROSCOPES = "cell.png ihc.png microaneurysms.png retina.jpg"


def _folder(package: str, inside: str) -> Path:
    return Path(importlib.util.find_spec(package).origin).parent / inside


def photographs() -> dict[str, list[Path]]:
    """Photographs that installed packages ship, by what they were used for."""
    ours = _folder("skimage", "data")
    return {
        "photographs, looked at": [ours / name for name in _SKIMAGE.split()]
        + sorted(_folder("sklearn", "datasets/images").glob("*.jpg")),
        "microscopes and retinas, looked at": [ours / name for name in _MICROSCOPES.split()],
        "photographs, new": sorted(
            path for path in _folder("gradio", "media_assets/images").iterdir() if path.suffix in (".jpg", ".png")
        )
        + sorted(_folder("matplotlib", "mpl-data/sample_data").glob("*.jpg"))
        + sorted(_folder("matplotlib", "mpl-data/sample_data").glob("*.png")),
    }


def faces() -> Iterator[Image.Image]:
    """Yield the faces of Labeled Faces in the Wild that scikit-image ships, enlarged from 25 pixels."""
    for face in np.load(_folder("skimage", "data") / "lfw_subset.npy")[:100]:
        yield Image.fromarray(np.uint8(face * 255)).convert("RGB").resize((300, 300), Image.Resampling.BICUBIC)


def cut_out(image: Image.Image, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Yield a photograph and squares out of it, of a third to nine tenths of its short side."""
    yield image
    for _ in range(_CUT_OUT):
        side = int(rng.uniform(0.33, 0.9) * min(image.size))
        left, top = (int(rng.integers(length - side + 1)) for length in image.size)
        yield image.crop((left, top, left + side, top + side))


FAULTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    f"blurred by {share:.1%} of the short side": (
        lambda image, share=share: image.filter(ImageFilter.GaussianBlur(share * min(image.size)))
    )
    for share in (0.005, 0.01, 0.02, 0.04)
} | {
    f"{light:.0%} of the light": lambda image, light=light: image.point(lambda value: value * light)
    for light in (0.5, 0.3, 0.1)
}


def share_of(release: Release, images: Iterable[tuple[str, Image.Image]]) -> tuple[int, Estimate]:
    """How many pictures there are, and on which share it abstains; those of one group belong together."""
    pairs = [(group, release.predict(image).abstained is not None) for group, image in images]
    groups, abstained = (np.array(column) for column in zip(*pairs, strict=True))
    return len(pairs), Intervals(groups).of_proportion(abstained, np.ones(len(pairs), bool))


def of_another_source(release: Release, splits: dict[str, Dataset]) -> Iterator[tuple[str, int, Estimate]]:
    """Yield the share of a source's held-out lesions abstained on by statistics and thresholds of the other alone.

    The network itself has learnt from both.
    """
    sources = sorted(set(splits["train"]["source"]))
    for fitted in sources:
        few = _of(splits["train"], fitted).shuffle(seed=0)
        few = few.select(range(min(len(few), 2500)))
        statistics = fit_abstention.statistics_of(fit_abstention.features_of(release, few, name=f"images of {fitted}"))
        _, signals = fit_abstention.examine(release, statistics, _of(splits["calibration"], fitted))
        abstains = abstention.Abstention(fit_abstention.thresholds(release, signals)["thresholds"], statistics)
        alone = Release(release.model, release.processor, name=fitted, abstention=abstains)
        for other in sources:
            n, share = share_of(alone, _read(_of(splits["held_out"], other)))
            yield f"lesions of {other}, thresholds of {fitted}", n, share


def _of(dataset: Dataset, source: str) -> Dataset:
    return dataset.select([i for i, name in enumerate(dataset["source"]) if name == source])


def _read(dataset: Dataset) -> Iterator[tuple[str, Image.Image]]:
    for row in dataset:
        yield row["group"], read_image(row["image"])


def main(arguments: argparse.Namespace) -> None:
    """Print the table that `docs/measurements.md` shows."""
    release = Release.load(contract.find(arguments.model))
    splits = prepare.prepare(arguments.dataset_name, Config.label_repair).split(seed=Config.split_seed)
    lesions = splits["held_out"].shuffle(seed=0)
    print("| images | n | abstained |\n|---|---|---|")
    for kind, paths in photographs().items():
        rng = np.random.default_rng(0)
        pictures = ((path.name, part) for path in paths for part in cut_out(Image.open(path).convert("RGB"), rng))
        _print(f"{kind} ({len(paths)})", *share_of(release, pictures))
    _print("faces, looked at", *share_of(release, ((str(i), face) for i, face in enumerate(faces()))))
    lesions = lesions.select(range(min(len(lesions), _LESIONS)))
    for fault, spoil in ({"held-out lesions": lambda image: image} | FAULTS).items():
        _print(fault, *share_of(release, ((group, spoil(image)) for group, image in _read(lesions))))
    for line in of_another_source(release, splits):
        _print(*line)


def _print(kind: str, n: int, share: Estimate) -> None:
    print(f"| {kind} | {n} | {format_estimate(share, 3)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="space/model", help="a release: a folder, or USER/REPO@TAG")
    parser.add_argument("--dataset_name", nargs="+", required=True, help="as for train_hf.py")
    settings = parser.parse_args()
    sys.exit(run_command(lambda: main(settings)))
