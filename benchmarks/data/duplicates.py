r"""Planted faults and growth of the search for duplicates, on generated lesions: prints two Markdown tables.

    python benchmarks/data/duplicates.py planted             # two minutes: recall and precision of each fault
    python benchmarks/data/duplicates.py scale 10000 100000     # seconds and memory; 1000000 takes minutes

The thresholds of `dermalert/data/near_duplicates.py` were chosen on other lesions than these, `--first_lesion 10000`.
"""

import argparse
import hashlib
import io
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from datasets import Dataset
from PIL import Image, ImageEnhance, ImageOps
from scipy import fft

from dermalert.data import near_duplicates
from dermalert.data.audit import audit
from dermalert.data.schema import FEATURES
from dermalert.imaging import synthetic_lesions
from dermalert.imaging.thumbnail import ROW, SIDE, fingerprint
from dermalert.taxonomy import DIAGNOSES

_TIME_LIMIT = 15 * 60  # seconds a size

Rng = np.random.Generator


def _crop(most: float) -> Callable[[Image.Image, Rng], Image.Image]:
    def crop(image: Image.Image, rng: Rng) -> Image.Image:
        left, top, right, low = rng.uniform(0, most, 4)
        w, h = image.size
        return image.crop((round(left * w), round(top * h), round((1 - right) * w), round((1 - low) * h)))

    return crop


def _brighten(image: Image.Image, rng: Rng) -> Image.Image:
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.75, 1.3))
    return ImageEnhance.Contrast(image).enhance(rng.uniform(0.85, 1.2))


def _resize(image: Image.Image, rng: Rng) -> Image.Image:
    side = round(image.width * rng.uniform(0.5, 1.6))
    return image.resize((side, round(side * rng.uniform(0.75, 1))), Image.Resampling.BICUBIC)


# Each is written as JPEG afterwards, of a quality of its own.
ALTERED = {
    "re-encoded": lambda image, _: image,
    "resized, a little squashed": _resize,
    "brightened or darkened, other contrast": _brighten,
    "cropped by up to 0.05 of each side": _crop(0.05),
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "turned by 90 degrees": lambda image, _: image.transpose(Image.Transpose.ROTATE_90),
    "cropped by up to 0.08 of each side (beyond the aim)": _crop(0.08),
    "cropped by up to 0.05 and mirrored (beyond the aim)": lambda image, rng: ImageOps.mirror(_crop(0.05)(image, rng)),
}


def lesions(count: int, first: int) -> Iterator[tuple[Image.Image, str]]:
    """Yield different lesions of the nine kinds in turn, with their diagnoses."""
    for number in range(first, first + count):
        diagnosis = DIAGNOSES[number % len(DIAGNOSES)]
        yield synthetic_lesions.lesion(diagnosis, lesion_seed=number), diagnosis


def encode(image: Image.Image, quality: int) -> bytes:
    """An image as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def thumbnails(files: list[bytes]) -> np.ndarray:
    """The fingerprints of files, around the cache."""
    return np.stack([np.frombuffer(fingerprint(file), ROW)["thumbnail"][0] for file in files])


def planted(count: int, first: int) -> None:
    """Print recall and precision of each kind of altered copy, and of the audit's own kinds."""
    rng = np.random.default_rng(first)
    pictures = list(lesions(count, first))
    originals = thumbnails([encode(image, 92) for image, _ in pictures])
    print(f"| planted in {count} different lesions | copies | recall | precision |\n|---|---|---|---|")
    print(f"| nothing | 0 | - | {len(near_duplicates.near_duplicates(originals).first)} false pairs |", flush=True)
    altered = range(0, count, 2)
    for name, alter in ALTERED.items():
        copies = [encode(alter(pictures[i][0], rng), int(rng.integers(40, 90))) for i in altered]
        pairs = near_duplicates.near_duplicates(np.concatenate([originals, thumbnails(copies)]))
        reported = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
        _print(name, {(i, count + k) for k, i in enumerate(altered)}, reported)
    _plant_in_a_set(pictures[: count // 2], rng)


def _plant_in_a_set(pictures: list[tuple[Image.Image, str]], rng: Rng) -> None:
    """Plant files, not pictures: copies, two labels, leaks, damage; and let the audit find them."""
    rows = [
        _row(encode(image, 92), label, f"L{i:05d}", lesion=f"lesion {i}") for i, (image, label) in enumerate(pictures)
    ]
    for i in rng.permutation(len(rows))[: len(rows) // 5]:
        rows[i]["shipped_split"] = "test"
    trained = [row for row in rows if row["shipped_split"] == "train"]
    names = ("exact-duplicates", "contradictions", "leaks", "near-contradictions", "lesion-leaks", "kin-leaks")
    chosen = [trained[i] for i in rng.permutation(len(trained))[: 50 * len(names)]]
    truth = {name: set() for name in names}
    for k, row in enumerate(chosen):
        name = names[k % len(names)]
        twin = row | {"image_id": f"{row['image_id']} {name}", "lesion_id": None}
        if name == "leaks":
            twin["shipped_split"] = "test"
        elif name in ("contradictions", "near-contradictions"):
            twin["label"] = (row["label"] + 1) % len(DIAGNOSES)
        if name == "near-contradictions":
            twin |= _file(encode(Image.open(io.BytesIO(row["image"]["bytes"])), 60))
        elif name == "lesion-leaks":
            number = int(row["image_id"][1:])
            again = synthetic_lesions.lesion(DIAGNOSES[row["label"]], lesion_seed=10**6 + number, photo=1)
            twin |= _file(encode(again, 92)) | {"shipped_split": "test", "lesion_id": row["lesion_id"]}
        elif name == "kin-leaks":
            copy = _alter_somehow(Image.open(io.BytesIO(row["image"]["bytes"])), rng)
            twin |= _file(encode(copy, int(rng.integers(40, 90)))) | {"shipped_split": "test"}
        rows.append(twin)
        truth[name].add(twin["image_id"])
    # What is planted as one kind is, by its nature, a few others as well.
    truth["exact-duplicates"] |= truth["contradictions"] | truth["leaks"]
    truth["kin-leaks"] |= truth["leaks"] | truth["lesion-leaks"]
    report = audit(Dataset.from_list(rows, features=FEATURES))
    for name in names:
        reported = {image["image_id"] for case in report["findings"][name]["cases"] for image in case["images"]}
        reported = {image_id for image_id in reported if " " in image_id} | (reported - _originals(reported))
        _print(name, truth[name], reported)


def _print(name: str, true: set, reported: set) -> None:
    hits = len(true & reported)
    print(f"| {name} | {len(true)} | {hits / len(true):.4f} | {hits / max(len(reported), 1):.4f} |", flush=True)


def _alter_somehow(image: Image.Image, rng: Rng) -> Image.Image:
    """A copy such as leaks into test sets: of any kind within the aim."""
    within = [alter for name, alter in ALTERED.items() if "beyond the aim" not in name]
    return within[rng.integers(len(within))](image, rng)


def _originals(image_ids: set[str]) -> set[str]:
    """The ids of which a twin was found too: they are the other half of a planted fault."""
    return {image_id for image_id in image_ids if any(other.startswith(f"{image_id} ") for other in image_ids)}


def _row(content: bytes, label: str, image_id: str, *, lesion: str) -> dict:
    row = dict.fromkeys(FEATURES) | {"label": DIAGNOSES.index(label), "image_id": image_id, "lesion_id": lesion}
    return row | {"source": "generated", "shipped_split": "train"} | _file(content)


def _file(content: bytes) -> dict:
    return {"image": {"bytes": content, "path": None}, "content": hashlib.sha256(content).hexdigest()}


def scale(sizes: list[int]) -> None:
    """Print seconds and peak memory of the search for each size, each in a process of its own."""
    print("| fingerprints | seconds | peak memory, GiB | proposed | recall, 0-40 bits | recall, 41-64 bits |")
    print("|---|---|---|---|---|---|", flush=True)
    for size in sizes:
        subprocess.run([sys.executable, __file__, "search", str(size)], check=True)


def search(size: int) -> None:
    """Search among generated fingerprints, of which 1,000 are another one again, and print a row of the table."""
    fingerprints, source, distance = _generate(size, min(1000, size // 10))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"the search took more than {_TIME_LIMIT} s"))
    signal.alarm(_TIME_LIMIT)
    started = time.monotonic()
    pairs = near_duplicates.candidates(fingerprints, np.arange(len(fingerprints)))
    seconds = time.monotonic() - started
    proposed = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    hit = np.array([(int(a), size - len(source) + k) in proposed for k, a in enumerate(source)])
    near, far = distance <= 40, (distance > 40) & (distance <= near_duplicates.RADIUS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"| {size:,} | {seconds:.1f} | {peak:.2f} | {len(proposed):,} | {hit[near].mean():.3f} ({near.sum()}) "
        f"| {hit[far].mean():.3f} ({far.sum()}) |",
        flush=True,
    )


def _generate(size: int, again: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fingerprints that are alike as generated lesions are, whose last ones are earlier ones with noise.

    Drawing a million lesions would take hours: their low frequencies are drawn from a normal distribution with the
    mean and covariance of 600 lesions.
    """
    side, rng = near_duplicates.HASH_SIDE, np.random.default_rng(0)
    drawn = thumbnails([encode(image, 92) for image, _ in lesions(600, 0)]).astype(np.float32)
    low = fft.dctn(drawn, axes=(1, 2), norm="ortho")[:, :side, :side].reshape(len(drawn), -1)
    factor = np.linalg.cholesky(np.cov(low, rowvar=False) + 1e-2 * np.eye(side**2)).astype(np.float32)
    mean, spread = low.mean(0), low.std(0)
    fingerprints = np.empty((size, SIDE, SIDE), np.uint8)
    kept = np.empty((again, side**2), np.float32)
    source = np.sort(rng.choice(size - again, again, replace=False))
    for start in range(0, size, 5000):
        stop = min(start + 5000, size)
        values = mean + rng.standard_normal((stop - start, side**2), np.float32) @ factor.T
        inside = (source >= start) & (source < stop)
        kept[inside] = values[source[inside] - start]
        fingerprints[start:stop] = _draw(values)
    noise = rng.uniform(0, 0.9, (again, 1)) * spread * rng.standard_normal((again, side**2))
    fingerprints[size - again :] = _draw(kept + noise.astype(np.float32))
    bits = [
        np.unpackbits(near_duplicates.perceptual_hashes(fingerprints[at]), axis=1)
        for at in (source, slice(size - again, size))
    ]
    return fingerprints, source, (bits[0] != bits[1]).sum(1)


def _draw(values: np.ndarray) -> np.ndarray:
    side, full = near_duplicates.HASH_SIDE, SIDE
    padded = np.zeros((len(values), full, full), np.float32)
    padded[:, :side, :side] = values.reshape(-1, side, side)
    return fft.idctn(padded, axes=(1, 2), norm="ortho").clip(0, 255).round().astype(np.uint8)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("planted")
    job.add_argument("--lesions", type=int, default=2000)
    job.add_argument("--first_lesion", type=int, default=50_000)
    for name in ("scale", "search"):
        jobs.add_parser(name).add_argument("sizes", type=int, nargs="+")
    arguments = parser.parse_args()
    if arguments.job == "planted":
        planted(arguments.lesions, arguments.first_lesion)
    elif arguments.job == "scale":
        scale(arguments.sizes)
    else:
        search(arguments.sizes[0])


if __name__ == "__main__":
    main()
