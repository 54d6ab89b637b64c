"""A data set for others to load: repaired, split without leaks, as Parquet with its card and its audit, on the Hub."""

import dataclasses
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo
from datasets.info import DatasetInfosDict
from datasets.table import embed_table_storage
from dermalert_space.contract import CARD, Json
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, DatasetCardData, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects

from dermalert import progress
from dermalert.data import audit, provenance, schema, splits
from dermalert.data.loading import Loaded
from dermalert.data.prepare import Prepared, link_and_repair
from dermalert.errors import UsageError, first_few
from dermalert.hub import client
from dermalert.release import card

_TEMPLATE = Path(__file__).with_name("dataset_card.md")
# What belongs to a published data set: nothing else is uploaded, and nothing else is deleted from a repository.
_OURS = [CARD, "audit.json", "data/*.parquet"]
_ROWS = 50  # images in memory at once, and in a row group
_SHARD = 450 * 2**20  # bytes of a Parquet file, at most, unless that many images are more

_NUMBERED = re.compile(r"(ISIC|PAT|DEMO)_\d")


def check_can_publish(repo_id: str, *, public: bool, license: str | None, mark: str = "audit.json") -> bool:
    """Refuse, before the work is done, a data set that could not be published; whether the repository exists.

    Args:
        repo_id: of the data set.
        public: whether everybody shall see it.
        license: as the Hub calls it.
        mark: the file by which a repository is known to hold a data set of this kind.

    Raises:
        UsageError: malformed name, no token, a token that may not write there, a repository that holds something else
            or is open where it should not be, or a licence that the Hub does not know.
        RunError: the Hub cannot be reached.
    """
    client.check_repo(repo_id)
    with client.on_the_hub("asking the Hub about " + repo_id):
        api = HfApi()
        client.check_token(api, repo_id)
        exists = _check_repository(api, repo_id, public=public, mark=mark)
        if license is not None:
            _check_license(license)
        return exists


def _check_repository(api: HfApi, repo_id: str, *, public: bool, mark: str) -> bool:
    try:
        info = api.dataset_info(repo_id)
    except RepositoryNotFoundError:
        return False
    if info.private and public:
        raise UsageError(f"{repo_id} is private: open it in its settings on the Hub, or leave out --public.")
    if not info.private and not public:
        raise UsageError(f"{repo_id} is public: add --public, or choose another name.")
    names = {file.rfilename for file in info.siblings or ()}
    if mark not in names and names - client.EMPTY:
        raise UsageError(f"{repo_id} holds another data set ({first_few(sorted(names))}): choose another name.")
    return True


def _check_license(name: str) -> None:
    try:
        DatasetCard(f"---\n{DatasetCardData(license=name).to_yaml()}\n---\n").validate()
    except ValueError as error:
        raise UsageError(
            f"--license '{name}' is no licence that the Hub knows: take an id of "
            "huggingface.co/docs/hub/repositories-licenses, or 'other'."
        ) from error


def license_of(dataset: Dataset, given: str | None = None) -> str:
    """The licence under which images may be published: the strictest of their sources', or the one given.

    Raises:
        UsageError: it is neither recorded here nor given, or what is given allows more than a source does.
    """
    terms = _terms(dataset)
    unknown = sorted(source for source, origin in terms if origin is None)
    if given is None and unknown:
        raise UsageError(
            f"the licence of the images from {first_few(map(repr, unknown))} is not known here: if it lets you publish "
            "them, name it with --license ID (an id of the Hub, such as cc-by-4.0, or other)."
        )
    licenses = {source: origin.license for source, origin in terms if origin}
    if given is None:
        return provenance.strictest(licenses.values())
    licenses.pop(provenance.GENERATED, None)
    strictest = provenance.strictest(licenses.values()) if licenses else given
    if given not in (strictest, "other"):
        raise UsageError(
            f"--license '{given}': images from {first_few(sorted(licenses))} are under {strictest}; say that or other."
        )
    return given


def _terms(dataset: Dataset) -> Counter[tuple[str, provenance.Origin | None]]:
    """The images of each source with its terms, None where they are not known, counted.

    An image's number must confirm the source: where there is none, the source is a folder's name, which can be any.
    """
    pairs = zip(dataset["source"], dataset["image_id"], strict=True)
    return Counter(
        (source, provenance.terms(source) if _NUMBERED.match(image_id) else None) for source, image_id in pairs
    )


class Figures(TypedDict):
    """What the card of a data set says."""

    license: str
    sources: list[Json]
    """Each with its name, number of images and terms."""
    shipped: schema.Description
    data: Json
    """A `schema.Description`, with the splits."""
    repair: Json
    audit: audit.Report


class Publication(NamedTuple):
    """A data set to publish."""

    parts: dict[str, Dataset]
    """The four splits, `test`, `set_aside`, and `clean_test`, which is part of `test`."""
    figures: Figures


def prepare(loaded: Loaded, policy: str, license: str) -> Publication:
    """Repair and split a data set, and gather what its card says.

    Raises:
        UsageError: no such policy, or a diagnosis has so few groups that a split has none of it.
    """
    prepared = link_and_repair(loaded, policy)
    dataset = prepared.dataset
    parts, by_license = _parts(prepared), provenance.Origin(license, "as the source asks for it")
    figures: Figures = {
        "license": license,
        "sources": [
            {"name": name, "images": n} | dataclasses.asdict(origin or by_license)
            for (name, origin), n in _terms(dataset).most_common()
        ],
        "shipped": schema.describe(prepared.shipped),
        "data": {**schema.describe(dataset), **splits.describe(parts, seed=0)},
        "repair": prepared.repair.to_json(),
        "audit": prepared.audit(),
    }
    return Publication(parts, figures)


def _parts(prepared: Prepared) -> dict[str, Dataset]:
    """The splits that a training would have, and the shipped test images under the repaired labels."""
    all_splits = prepared.split()
    clean = set(all_splits["clean_test"]["content"])
    test = _where(prepared.dataset, "shipped_split", {"test"})
    kept = {name: all_splits[name] for name in [*splits.SHARES, "set_aside"]}
    return kept | {"test": test, "clean_test": _where(test, "content", clean)}


def _where(dataset: Dataset, column: str, values: set[Any]) -> Dataset:
    return dataset.select([i for i, value in enumerate(dataset[column]) if value in values])


def publish(
    parts: dict[str, Dataset], figures: Figures, repo_id: str, *, public: bool, must_exist: bool = False
) -> bool:
    """Publish what `prepare` returns as a data set of the Hub; True if anything there has changed.

    File after file is written, uploaded and removed; then one commit makes all of them visible. Called again after any
    failure it finishes the job, and what is uploaded already is not sent again. The repository is made if need be,
    unless it has been there since the command began (`must_exist`).

    Raises:
        RunError: it failed on the way, or the repository has vanished.
    """
    with tempfile.TemporaryDirectory() as scratch, client.on_the_hub(f"publishing {repo_id}"):
        api = HfApi()
        if not must_exist:
            api.create_repo(repo_id, repo_type="dataset", private=not public, exist_ok=True)
        before = api.dataset_info(repo_id)
        uploads, sizes = _upload(api, repo_id, parts, Path(scratch))
        card = render_card(figures, repo_id, sizes)
        texts = {CARD: card, "audit.json": json.dumps(figures["audit"], indent=1, allow_nan=False) + "\n"}
        uploads += [CommitOperationAdd(name, text.encode()) for name, text in texts.items()]
        names = {upload.path_in_repo for upload in uploads}
        old = [file.rfilename for file in before.siblings or ()]
        stale = [CommitOperationDelete(n) for n in filter_repo_objects(old, allow_patterns=_OURS) if n not in names]
        message = f"{figures['data']['images']} images, --repair {figures['repair']['policy']}"
        commit = api.create_commit(repo_id, [*uploads, *stale], commit_message=message, repo_type="dataset")
    return commit.oid != before.sha


def _upload(
    api: HfApi, repo_id: str, parts: dict[str, Dataset], folder: Path
) -> tuple[list[CommitOperationAdd], dict[str, int]]:
    """Upload the rows, and return what a commit needs to show them, and the bytes of each split."""
    uploads: list[CommitOperationAdd] = []
    sizes: Counter[str] = Counter()
    files = _by_file(parts)
    with progress.bar(sum(map(len, files.values())), "Uploading") as bar:
        for stem, rows in files.items():
            for path, images, size in _shards(rows, stem, folder):
                uploads.append(CommitOperationAdd(f"data/{path.name}", path))
                api.preupload_lfs_files(repo_id, [uploads[-1]], repo_type="dataset")
                path.unlink()
                sizes[stem.partition("-")[0]] += size
                bar.update(images)
    return uploads, dict(sizes)


def _by_file(parts: dict[str, Dataset]) -> dict[str, Dataset]:
    """The rows of each kind of file: the test split has two, so that its clean part needs no copies."""
    clean = parts["clean_test"]
    related = _where(parts["test"], "content", set(parts["test"]["content"]) - set(clean["content"]))
    files = {name: parts[name] for name in splits.SHARES} | {"test-clean": clean, "test-kin": related}
    return {stem: rows for stem, rows in (files | {"set_aside": parts["set_aside"]}).items() if len(rows)}


def _shards(rows: Dataset, stem: str, folder: Path) -> Iterator[tuple[Path, int, int]]:
    """Write rows as Parquet, and give each file when it is whole, with its images and their bytes.

    The same rows give the same files, whatever their order: an upload resumes, and an unchanged one is recognised.
    """
    tables = _tables(rows)
    table, number = next(tables, None), 0
    while table is not None:
        path, images, size = folder / f"{stem}-{number:05d}.parquet", 0, 0
        # Cut by content: the Hub then stores anew only what a later version changes. No two images are the same.
        cut = {"use_content_defined_chunking": True, "use_dictionary": False}
        with pq.ParquetWriter(path, table.schema, **cut) as writer:
            while table is not None and (not size or size + table.nbytes <= _SHARD):
                writer.write_table(table)
                images, size = images + len(table), size + table.nbytes
                table = next(tables, None)
        yield path, images, size
        number += 1


def _tables(rows: Dataset) -> Iterator[pa.Table]:
    """The rows in the order of their hashes, a few at a time, with the images' bytes, without their folders."""
    keys = list(zip(rows["content"], rows["label"], rows["image_id"], strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for table in rows.select(order).with_format("arrow").iter(batch_size=_ROWS):
        yield embed_table_storage(table).cast(schema.FEATURES.arrow_schema)


def render_card(figures: Figures, repo_id: str, sizes: dict[str, int]) -> str:
    """The card that belongs to the figures; `sizes` are the bytes of each split."""
    counts = {**figures["data"]["sides"], "clean_test": figures["data"]["clean_test"]}
    return card.render(
        _TEMPLATE,
        metadata=_metadata(figures, repo_id, sizes).to_yaml(),
        repo_id=repo_id,
        shares=splits.SHARES,
        parts={name: n for name, n in counts.items() if n},
        kinds=audit.KINDS,
        **figures,
    )


def _metadata(figures: Figures, repo_id: str, sizes: dict[str, int]) -> DatasetCardData:
    counts = {name: n for name, n in figures["data"]["sides"].items() if n}
    # `set_aside` is related to `test`, and `clean_test` is part of it: nobody should get either without naming it.
    default = [name for name in counts if name != "set_aside"]
    configs = {"default": {name: f"data/{name}-*.parquet" for name in default}}
    if figures["data"]["clean_test"]:
        configs["clean_test"] = {"clean_test": "data/test-clean-*.parquet"}
    if "set_aside" in counts:
        configs["set_aside"] = {"set_aside": "data/set_aside-*.parquet"}
    card = DatasetCardData(
        license=figures["license"],
        task_categories=["image-classification"],
        size_categories=[_size_category(figures["data"]["images"])],
        pretty_name=repo_id.split("/")[1],
        tags=["dermatology", "dermoscopy", "melanoma", "skin-lesion", "dermalert"],
    )
    held = {name: {"name": name, "num_bytes": sizes[name], "num_examples": counts[name]} for name in default}
    info = DatasetInfo(features=schema.FEATURES, splits=held, dataset_size=sum(sizes[name] for name in default))
    DatasetInfosDict({"default": info}).to_dataset_card_data(card)
    card["configs"] = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
        for name, files in configs.items()
    ]
    return card


def _size_category(images: int) -> str:
    """The class of size in the Hub's words."""
    bounds = {1000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    return next((name for bound, name in bounds.items() if images < bound), "1M<n<10M")
