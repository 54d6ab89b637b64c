"""How surely `contamination.py` knows a picture again under another name, and how often it takes a new one for it.

    python benchmarks/data/contamination.py isic9 isic2017 ham10000 [--images 400]

Of the images of all data sets, half of the groups are learnt from. Copies of some of these are encoded and scaled anew,
mirrored and turned; the images of the other half, of other lesions, are new. Printed for each radius: the share of the
copies that are known again, by kind, and of the new images that are taken for copies.
"""

import argparse
import io

import numpy as np
from dermalert_space.images import read_image
from PIL import Image

from dermalert.data import contamination, loading, near_duplicates
from dermalert.errors import run_command
from dermalert.imaging import thumbnail

RADII = (0, 8, 16, 20, 24, 28, 32, 36, 40)
_MIRRORED, _TURNED = Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90


def copies() -> dict:
    """What makes a copy's file of an image, by kind."""
    kinds = {f"JPEG {q}": (lambda image, q=q: _file(image, q)) for q in (50, 75, 95)}
    kinds |= {f"scaled {s}": (lambda image, s=s: _file(_scaled(image, s), 90)) for s in (0.5, 0.7, 0.9)}
    kinds |= {"mirrored, JPEG 75": lambda image: _file(image.transpose(_MIRRORED), 75)}
    return kinds | {"turned, scaled 0.7": lambda image: _file(_scaled(image.transpose(_TURNED), 0.7), 90)}


def _scaled(image: Image.Image, share: float) -> Image.Image:
    return image.resize([round(side * share) for side in image.size], Image.Resampling.BICUBIC)


def _file(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def distances(thumbnails: np.ndarray, exposed: np.ndarray) -> np.ndarray:
    """How many bits (n,) each picture's nearest hash differs by, in whatever position; 256 if by over 40."""
    index, nearest = near_duplicates.Index(exposed), np.full(len(thumbnails), 256)
    for codes in near_duplicates.hashes_in_all_positions(thumbnails):
        rows, _, bits = index.within(codes, max(RADII))
        np.minimum.at(nearest, rows, bits)
    return nearest


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--images", type=int, default=400, help="of which copies are made")
    args = parser.parse_args()
    dataset = near_duplicates.link(loading.load(args.datasets).dataset)
    groups = list(dataset["group"])
    rng = np.random.default_rng(0)
    half = set(rng.permutation(sorted(set(groups)))[::2].tolist())
    is_exposed = np.array([group in half for group in groups])
    thumbnails = thumbnail.fingerprints(dataset).thumbnails[:]
    exposed = near_duplicates.perceptual_hashes(thumbnails[is_exposed])
    measured = {"new images": distances(thumbnails[~is_exposed], exposed)}
    chosen = [
        read_image(dataset[int(row)]["image"]) for row in rng.choice(np.flatnonzero(is_exposed), args.images, False)
    ]
    for kind, copy in copies().items():
        rows = np.frombuffer(b"".join(thumbnail.fingerprint(copy(image)) for image in chosen), thumbnail.ROW)
        measured[kind] = distances(rows["thumbnail"], exposed)
    print(f"{is_exposed.sum()} images exposed, {(~is_exposed).sum()} new; the shipped radius is {contamination.RADIUS}")
    print(f"{'radius':20}" + "".join(f"{radius:>8}" for radius in RADII))
    for kind, bits in measured.items():
        print(f"{kind:20}" + "".join(f"{(bits <= radius).mean():8.4f}" for radius in RADII))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
