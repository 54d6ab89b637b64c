"""The manifest of a benchmark: public images by number and hash, with diagnosis, lesion group, clinic and split.

It holds no pixels. A group of related images (one lesion or patient, near copies, one photograph in two archives) is in
one split, whatever clinics hold it. `errata` lists what is wrong with the public sets that it was made of.
"""

import dataclasses
import hashlib
import io
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from dermalert_space import contract
from dermalert_space.contract import HubName, Json
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from PIL import Image

from dermalert.data import contamination, isic9, near_duplicates, provenance, splits
from dermalert.data.identifiers import archive_number
from dermalert.data.prepare import Prepared
from dermalert.errors import UsageError, did_you_mean, first_few
from dermalert.hub import client
from dermalert.hub.retries import with_retries
from dermalert.imaging.thumbnail import BLANK, contrast, fingerprints
from dermalert.taxonomy import ALERT, DIAGNOSES

FEWEST = 10
"""Lesions with and without melanoma below which a clinic's test images give no score."""

INFO = "benchmark.json"
ERRATA = "errata.parquet"
TEST, TRAIN, ASIDE = "test", "train", "set_aside"
WORST = "worst_clinic"
"""The task whose value is the lowest score of all clinics."""
OTHERS = "other_clinics"
"""What holds the training images of clinics that are too small for a score."""

_HELD_OUT = "held_out"  # of dermalert's own splits: what its releases were not trained on is tested on

ROWS = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.string()),
        ("clinic", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),  # hashed: related images have the same
        ("confirmation", pa.string()),
        ("license", pa.string()),
        ("content", pa.string()),  # SHA-256 of the file that was read
        ("pictures", pa.list_(pa.string())),  # perceptual hashes in hexadecimal: of the whole, and of its middle square
        ("belongs", pa.list_(pa.string())),  # hashed names of its lesion, patient, number, bytes and group
    ]
)

_ERRATA = pa.schema(
    [
        ("kind", pa.string()),  # `false label`, or `same lesion`
        ("image_id", pa.string()),
        ("clinic", pa.string()),
        ("label", pa.string()),
        ("archive_label", pa.string()),
        ("other_image_id", pa.string()),
        ("other_clinic", pa.string()),
        ("similarity", pa.float32()),
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A manifest, and what is wrong with the sets that it was made of."""

    repo_id: str
    """The data set of the Hub that it is published as."""
    license: str
    rows: pa.Table
    """In the schema `ROWS`, in the order of the numbers."""
    errata: pa.Table
    revision: str | None = None
    """The commit that it was read from; None of a folder."""

    @property
    def clinics(self) -> list[str]:
        """Those that have a score."""
        return sorted({row["clinic"] for row in self.rows.select(["clinic", "split"]).to_pylist() if _is_test(row)})

    @property
    def tasks(self) -> dict[str, str]:
        """The clinics by the ids of their tasks."""
        return {slug(name): name for name in self.clinics}

    def count(self, clinic: str, split: str) -> dict[str, int]:
        """Images, images of melanoma, and groups of a clinic in a split."""
        rows = [row for row in self.rows.to_pylist() if (row["clinic"], row["split"]) == (clinic, split)]
        melanomas = sum(row["label"] == ALERT for row in rows)
        return {"images": len(rows), "melanomas": melanomas, "groups": len({row["group"] for row in rows})}

    def info(self) -> Json:
        """The content of `benchmark.json`, but for the fingerprint."""
        clinics = {
            name: {"task": task, TEST: self.count(name, TEST), TRAIN: self.count(name, TRAIN)}
            for task, name in self.tasks.items()
        }
        wrong = self.errata.to_pylist()
        labels = Counter((row["label"], row["archive_label"]) for row in wrong if row["kind"] == "false label")
        pairs = Counter(
            tuple(sorted((row["clinic"], row["other_clinic"]))) for row in wrong if row["kind"] == "same lesion"
        )
        return {
            "schema": 1,
            "repo_id": self.repo_id,
            "license": self.license,
            "images": len(self.rows),
            "set_aside": sum(split == ASIDE for split in self.rows["split"].to_pylist()),
            "clinics": clinics,
            "errata": {
                "false_labels": [{"label": a, "archive_label": b, "files": n} for (a, b), n in labels.most_common()],
                "same_lesion": [{"clinics": list(pair), "pairs": n} for pair, n in pairs.most_common()],
            },
        }

    def files(self) -> dict[str, bytes]:
        """All of it but the card, by the names that it has on the Hub."""
        parts = {f"data/{name}.parquet": _parquet(part) for name, part in self._parts()}
        info = self.info() | {"files": sorted(parts), "fingerprint": _fingerprint(parts)}
        text = json.dumps(info, indent=1, allow_nan=False) + "\n"
        return parts | {ERRATA: _parquet(self.errata), INFO: text.encode()}

    def _parts(self) -> Iterator[tuple[str, pa.Table]]:
        """The rows of each file."""
        of_clinic = {name: task for task, name in self.tasks.items()}
        places = defaultdict(list)
        for i, row in enumerate(self.rows.select(["clinic", "split"]).to_pylist()):
            name = f"{of_clinic.get(row['clinic'], OTHERS)}-{row['split']}"
            places[ASIDE if row["split"] == ASIDE else name].append(i)
        yield from ((name, self.rows.take(pa.array(rows))) for name, rows in sorted(places.items()))


def _is_test(row: Mapping[str, str]) -> bool:
    return row["split"] == TEST


def slug(name: str) -> str:
    """A clinic's name as an id of the Hub."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _fingerprint(parts: Mapping[str, bytes]) -> str:
    return hashlib.sha256(b"".join(name.encode() + parts[name] for name in sorted(parts))).hexdigest()


# From data sets to a manifest.


def build(prepared: Prepared, repo_id: str, license: str, test_clinics: Sequence[str] = ()) -> Benchmark:
    """The benchmark of data sets that are linked and repaired.

    A group is tested on if dermalert's releases hold it out, by the hash of its key, or if a test clinic has an image
    of it. Images that are not the archive's are in no manifest: nobody else could fetch them.

    Args:
        prepared: see `prepare.prepare`.
        repo_id: the data set of the Hub that it will be.
        license: of images whose source has no other on record.
        test_clinics: clinics of which nothing is trained on.

    Raises:
        UsageError: no such test clinic, no image of the archive, or fewer than two clinics with enough lesions.
    """
    dataset = prepared.dataset
    numbers = [archive_number(image_id) for image_id in dataset["image_id"]]
    public = sorted((number, i) for i, number in enumerate(numbers) if number)
    if not public:
        raise UsageError("none of these images has a number of the ISIC archive: nobody else could fetch them.")
    dataset = dataset.select([i for _, i in public])
    clinics, labels = list(dataset["source"]), [DIAGNOSES[label] for label in dataset["label"]]
    split = _splits(clinics, labels, list(dataset["group"]), test_clinics)
    columns = {
        "image_id": [number for number, _ in public],
        "label": labels,
        "clinic": clinics,
        "split": split,
        "group": [contamination.hash_name(group) for group in dataset["group"]],
        "confirmation": list(dataset["confirmation"]),
        "license": [terms.license if (terms := provenance.terms(name)) else license for name in clinics],
        "content": list(dataset["content"]),
        "pictures": hashes(dataset),
        "belongs": [sorted(names) for names in contamination.names(dataset)],
    }
    rows = pa.table(columns, ROWS)
    return Benchmark(repo_id=repo_id, license=license, rows=rows, errata=_errata(prepared))


def _splits(clinics: list[str], labels: list[str], groups: list[str], test_clinics: Sequence[str]) -> list[str]:
    """The split of each image."""
    for name in test_clinics:
        if name not in clinics:
            known = sorted(set(clinics))
            hint = did_you_mean(name, known)
            raise UsageError(f"--test-clinic '{name}' made none of these images.{hint} These did: {', '.join(known)}.")
    tested = {group for group in groups if splits.split_of(group) == _HELD_OUT}
    tested |= {group for group, clinic in zip(groups, clinics, strict=True) if clinic in test_clinics}
    lesions: dict[tuple[str, bool], set[str]] = defaultdict(set)
    for clinic, label, group in zip(clinics, labels, groups, strict=True):
        if group in tested:
            lesions[clinic, label == ALERT].add(group)
    scored = {c for c in set(clinics) if min(len(lesions[c, True]), len(lesions[c, False])) >= FEWEST}
    if len(scored) < 2:
        counts = [f"{c} {len(lesions[c, True])} and {len(lesions[c, False])}" for c in sorted(set(clinics))]
        raise UsageError(
            f"a benchmark needs two clinics with {FEWEST} lesions of melanoma and {FEWEST} others to test on, and "
            f"there are {len(scored)} ({first_few(counts)}): add images, or name a clinic with --test-clinic."
        )
    # A group of small clinics alone is tested on nowhere, so it can be learnt from.
    tested &= {group for group, clinic in zip(groups, clinics, strict=True) if clinic in scored}
    return [
        TRAIN if group not in tested else TEST if clinic in scored else ASIDE
        for group, clinic in zip(groups, clinics, strict=True)
    ]


def hashes(dataset: Dataset) -> list[list[str]]:
    """The perceptual hashes of each image, whole and cropped to its middle square; none of one that shows nothing.

    Copies of the archive are whole or cropped so, and either is known by one of the two.
    """
    looks = fingerprints(dataset)
    shown = contrast(looks.thumbnails) >= BLANK
    whole = looks.thumbnails[: len(dataset)]
    squares = np.stack(
        [_middle_square(levels, *size) for levels, size in zip(whole, looks.sizes.tolist(), strict=True)]
    )
    both = zip(near_duplicates.perceptual_hashes(whole), near_duplicates.perceptual_hashes(squares), shown, strict=True)
    return [list(dict.fromkeys([one.tobytes().hex(), two.tobytes().hex()])) if seen else [] for one, two, seen in both]


def _middle_square(levels: np.ndarray, width: int, height: int) -> np.ndarray:
    """The middle of the grey levels (32, 32) of a picture of this size, which were squashed to a square."""
    if width == height:
        return levels
    side = len(levels)
    across, down = (side * min(width, height) / length for length in (width, height))
    box = ((side - across) / 2, (side - down) / 2, (side + across) / 2, (side + down) / 2)
    return np.asarray(Image.fromarray(levels).resize(levels.shape, Image.Resampling.LANCZOS, box=box))


def _errata(prepared: Prepared) -> pa.Table:
    """The labels that are not the archive's, and the pairs of one lesion that no lesion id joins."""
    shipped = prepared.shipped
    columns = ("image_id", "source", "label", "lesion_id")
    ids, clinics, labels, lesions = (list(shipped[name]) for name in columns)
    rows: list[Json] = []
    for i, right in enumerate(isic9.archive_labels(shipped)):
        if right != labels[i]:
            rows.append(
                {"kind": "false label", "label": DIAGNOSES[labels[i]], "archive_label": DIAGNOSES[right]}
                | {"image_id": archive_number(ids[i]), "clinic": clinics[i]}
            )
    pairs: dict[tuple[int, int], float] = {}
    for related in (prepared.pairs, prepared.copies):
        both = zip(related.first.tolist(), related.second.tolist(), related.similarity.tolist(), strict=True)
        pairs |= {(a, b): similarity for a, b, similarity in both}
    for (a, b), similarity in pairs.items():
        numbers = archive_number(ids[a]), archive_number(ids[b])
        if None in numbers or numbers[0] == numbers[1] or (lesions[a] and lesions[a] == lesions[b]):
            continue
        rows.append(
            {"kind": "same lesion", "image_id": numbers[0], "clinic": clinics[a], "label": DIAGNOSES[labels[a]]}
            | {"other_image_id": numbers[1], "other_clinic": clinics[b], "similarity": similarity}
        )
    rows.sort(key=lambda row: (row["kind"], row["image_id"] or "", row.get("other_image_id") or ""))
    return pa.Table.from_pylist(rows, _ERRATA)


# And back.


def read(name: str) -> Benchmark:
    """The benchmark of a folder or of a data set of the Hub, `USER/REPO[@REVISION]`.

    Raises:
        UsageError: it is not there, is no benchmark, or is damaged.
        RunError: the Hub cannot be reached.
    """
    if Path(name).is_dir():
        return _read(name, lambda file: Path(name, file))
    if not contract.is_hub_name(name):
        raise UsageError(f"the benchmark '{name}' is neither a folder nor USER/REPO of the Hub.")
    repo, tag = HubName.parse(name)
    with client.on_the_hub(f"reading {name}"):
        try:
            sha = with_retries(HfApi().dataset_info, repo, revision=tag).sha

            def fetch(file: str) -> Path:
                return Path(with_retries(hf_hub_download, repo, file, repo_type="dataset", revision=sha))

            return dataclasses.replace(_read(name, fetch), repo_id=repo, revision=sha)
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise UsageError(f"the Hub has no data set '{name}', or does not show it to this token.") from error
        except LocalEntryNotFoundError:  # a kind of EntryNotFoundError: the Hub does not answer
            raise
        except EntryNotFoundError as error:
            raise UsageError(f"'{name}' is no benchmark: a file of it is missing.") from error


def _read(name: str, path_of: Callable[[str], Path]) -> Benchmark:
    if not (info := path_of(INFO)).is_file():
        raise UsageError(f"'{name}' is no benchmark: it has no {INFO}. `dermalert publish-benchmark` makes one.")
    try:
        content = json.loads(info.read_text(encoding="utf-8"))
        if strange := [file for file in content["files"] if not re.fullmatch(r"data/[\w-]+\.parquet", file)]:
            raise ValueError(f"it names the file '{strange[0]}'")
        parts = {file: path_of(file).read_bytes() for file in content["files"]}
        if _fingerprint(parts) != content["fingerprint"]:
            raise ValueError("its rows are not those of its fingerprint")
        rows = pa.concat_tables([pq.read_table(io.BytesIO(data)).cast(ROWS) for data in parts.values()])
        errata = pq.read_table(path_of(ERRATA))
        repo_id, license = str(content["repo_id"]), str(content["license"])
    except (ValueError, KeyError, TypeError, FileNotFoundError, pa.ArrowException) as error:
        raise UsageError(f"the benchmark '{name}' is damaged ({error}): build or fetch it anew.") from error
    return Benchmark(repo_id=repo_id, license=license, rows=rows.sort_by("image_id"), errata=errata)
