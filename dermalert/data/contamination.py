"""Which images a release has learnt from, so that nobody measures it on them: `evaluation/seen.parquet`.

Sides of the split go by a hash of the group, but a group's key can change: a source that is loaded with its table knows
of lesions that the images alone do not tell. So the release lists what its images belong to, and goes on doing so when
another is trained from it. It knows numbers, lesions, patients and bytes, and by a perceptual hash a copy that was
encoded or scaled anew, mirrored or turned, under whatever name (`benchmarks/data/contamination.py` measures it).
Names are hashed, which keeps them out of sight; an id that can be guessed can be found all the same.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets
from dermalert_space.contract import CONFIG, EXPOSURE, HubName
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from dermalert.data import near_duplicates, schema, splits
from dermalert.errors import RunError, UsageError, first_line
from dermalert.hub import offline
from dermalert.hub.retries import HTTP_ERROR, with_retries
from dermalert.imaging.thumbnail import BLANK, contrast, fingerprints

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "calibration")
"""What a release has learnt from in any way, the most first; what is set aside or held out it has not."""


RADIUS = 32
"""Bits of 256 by which a copy's hash may differ: `benchmarks/data/contamination.py` finds all copies and no other."""

_NEAR = "near:"  # before a perceptual hash in hexadecimal, which stands among the names

_PART = 512  # images hashed at once


def names(dataset: Dataset) -> list[set[str]]:
    """Hashed names of what each image belongs to: lesion, patient, archive number, bytes, and its group."""
    columns = ("lesion_id", "patient_id", "image_id", "content", "group")
    cells = zip(*(dataset[name][:] for name in columns), strict=True)
    rows = [dict(zip(columns, row, strict=True)) for row in cells]
    return [{hash_name(name) for name in (*schema.belongings(row), row["group"]) if name is not None} for row in rows]


def _shorter(dataset: Dataset) -> set[str]:
    """Hashed ids as they are called where their folder is loaded without the others that it stood beside.

    There `a/images: 7` is `a: 7`. What a release has learnt from is to be known however it is asked about.
    """
    ids = set()
    for name in {name for column in ("lesion_id", "patient_id", "group") for name in dataset[column][:]} - {None}:
        space, colon, one = name.partition(": ")
        folders = space.split("/") if colon else []
        for i in range(len(folders)):
            ids |= {hash_name("/".join(folders[i:j]) + f": {one}") for j in range(i + 1, len(folders) + 1)}
    return ids


def hash_name(name: str) -> str:
    """What stands for the name of a lesion, a patient or a group in a release."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def of(parts: dict[str, Dataset], base: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the images that are learnt from belong to, each with its split, and the same of the base model.

    What several splits hold counts for the first of them: `train` tells the most.
    """
    exposure: dict[str, str] = {}
    for split in reversed(SPLITS):
        exposure |= {name: name_of for name, name_of in (base or {}).items() if name_of == split}
        exposure |= dict.fromkeys(set().union(*names(parts[split]), _shorter(parts[split])), split)
        exposure |= dict.fromkeys(pictures(parts[split]), split)
    return exposure


def pictures(dataset: Dataset) -> set[str]:
    """The perceptual hashes of the images, as they stand among the names; blank images have none."""
    return {_NEAR + code.tobytes().hex() for _, codes in _hashes(dataset) for code in codes[0]}


def _hashes(dataset: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows (n,) of images that show something, and their hashes (8, n, 32) in all positions."""
    if "image" not in dataset.column_names or not len(dataset):
        return
    thumbnails = fingerprints(dataset).thumbnails
    shown = np.flatnonzero(contrast(thumbnails) >= BLANK)
    for start in range(0, len(shown), _PART):
        rows = shown[start : start + _PART]
        yield rows, near_duplicates.hashes_in_all_positions(thumbnails[rows])


def look_alike(dataset: Dataset, exposure: Mapping[str, str], *, but_as: str | None = None) -> np.ndarray:
    """Which images (n,) are nearly the picture of an exposed one that is not of the split `but_as`."""
    alike = np.zeros(len(dataset), bool)
    listed = [
        name.removeprefix(_NEAR) for name, split in exposure.items() if name.startswith(_NEAR) and split != but_as
    ]
    if listed:
        index = near_duplicates.Index(np.frombuffer(bytes.fromhex("".join(listed)), np.uint8).reshape(len(listed), -1))
        for rows, positions in _hashes(dataset):
            for codes in positions:
                hits, _, _ = index.within(codes, RADIUS)
                alike[rows[hits]] = True
    return alike


def exclude_exposed(parts: dict[str, Dataset], exposure: Mapping[str, str]) -> dict[str, Dataset]:
    """The splits without what a base model has learnt from in another way; that is `set_aside`.

    Training may reuse all that the base has learnt from; validation and calibration, what the base had in the same
    split; `held_out` and `clean_test`, nothing of it.

    Args:
        parts: of `splits.split`.
        exposure: of the base model, by `read`.

    Raises:
        UsageError: nothing is left of a split.
    """
    if not exposure:
        return parts
    kept, aside = dict(parts), [parts["set_aside"]]
    for name in ("validation", "calibration", "held_out", "clean_test"):
        fresh = are_unseen(parts[name], exposure, but_as=name)
        kept[name] = parts[name].select(np.flatnonzero(fresh))
        if name != "clean_test":
            aside.append(parts[name].select(np.flatnonzero(~fresh)))
            if not len(kept[name]):
                raise UsageError(f"the base model has learnt from all images of the split {name}: take another base.")
    try:
        splits.check_classes({name: kept[name] for name in splits.SHARES})
    except UsageError as error:
        raise UsageError(f"without what the base model has learnt from, {error}") from error
    return kept | {"set_aside": concatenate_datasets(aside)}


def are_unseen(dataset: Dataset, exposure: Mapping[str, str], *, but_as: str | None = None) -> np.ndarray:
    """Which images (n,) neither belong to nor look like an exposed one, or only one of the split `but_as`."""
    belong = names(dataset)
    fresh = np.array([all(exposure.get(name, but_as) == but_as for name in belongs) for belongs in belong], bool)
    alike = look_alike(dataset, exposure, but_as=but_as)
    _warn_of_namesakes(dataset, [{name for name in belongs if name in exposure} for belongs in belong], ~fresh & ~alike)
    return fresh & ~alike


def _warn_of_namesakes(dataset: Dataset, exposure: list[set[str]], gone: np.ndarray) -> None:
    """Log how many images are excluded only by an id of their source, which another source may give too."""
    spaces: Counter[str] = Counter()
    ids = list(zip(*(dataset[name][:] for name in ("lesion_id", "patient_id", "group")), strict=True))
    for i in np.flatnonzero(gone):
        own = {hash_name(one): one for one in ids[i] if one and ": " in one}
        if exposure[i] and exposure[i] <= own.keys():
            spaces[own[min(exposure[i])].partition(": ")[0]] += 1
    if spaces:
        logger.warning(
            "%d images count as learnt from only because patients or lesions of equal ids in equally named folders "
            "(%s) count as the same: where they are others, rename the folder",
            spaces.total(),
            ", ".join(f"'{space}'" for space in spaces),
        )


def write(exposure: Mapping[str, str], folder: Path) -> None:
    """Write the list of a release in a folder."""
    listed = sorted(exposure)
    # A perceptual hash has a name as well, so that who knows only the first two columns reads the list as ever.
    near = [bytes.fromhex(name.removeprefix(_NEAR)) if name.startswith(_NEAR) else None for name in listed]
    shown = [name if code is None else hash_name(name) for name, code in zip(listed, near, strict=True)]
    columns = {"name": shown, "side": [exposure[name] for name in listed], "picture": pa.array(near, pa.binary())}
    # Of hexadecimal digits zstd leaves half.
    table = pa.table(columns)
    pq.write_table(table, folder / EXPOSURE, compression="zstd", compression_level=19, use_dictionary=["side"])


def read(model: str | Path, revision: str | None = None) -> dict[str, str]:
    """The list of a release in a folder or on the Hub; of any other model it is empty, because nobody knows.

    Raises:
        RunError: the Hub cannot be asked.
    """
    path = Path(model) / EXPOSURE
    if not Path(model).exists() and "/" in str(model):
        repo, tag = HubName.parse(str(model))
        revision = revision or tag
        try:
            path = Path(with_retries(hf_hub_download, repo, EXPOSURE, revision=revision))
        except LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError: the Hub does not answer
            if offline.is_on() and not _may_have_a_list(repo, revision):
                return {}
            raise _unreachable(model, error) from error
        except EntryNotFoundError:
            return {}
        except (HTTP_ERROR, OSError) as error:
            raise _unreachable(model, error) from error
    if not path.is_file():
        return {}
    table = pq.read_table(path)
    listed, split = table["name"].to_pylist(), table["side"].to_pylist()
    if "picture" in table.column_names:  # of releases made before there is none
        near = table["picture"].to_pylist()
        listed = [name if code is None else _NEAR + code.hex() for name, code in zip(listed, near, strict=True)]
    return dict(zip(listed, split, strict=True))


def _may_have_a_list(repo: str, revision: str | None) -> bool:
    """Tell whether a model in the cache may be a release, by its config; any other has no list."""
    config = try_to_load_from_cache(repo, CONFIG, revision=revision)
    return not isinstance(config, str) or "dermalert" in json.loads(Path(config).read_text())


def _unreachable(model: str | Path, error: Exception) -> RunError:
    if offline.is_on():
        return RunError(
            f"HF_HUB_OFFLINE is set and the cache lacks {EXPOSURE} of '{model}', the list of images that it has learnt "
            f"from: {HubName.parse(str(model)).how_to_cache}."
        )
    return RunError(f"the Hub cannot be asked which images '{model}' has learnt from: {first_line(error)}. Try again.")
