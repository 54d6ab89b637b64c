"""A data set of the Hugging Face Hub, `USER/NAME` or `USER/NAME@REVISION`, with an image column and a label column."""

import ast
import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Value, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetsError
from dermalert_space.contract import HubName
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from dermalert import progress
from dermalert.data import shipped_splits, table_cells, table_columns
from dermalert.data.identifiers import archive_number
from dermalert.data.records import Record, Selection, leave_out_kinds, warn_of_nobody
from dermalert.data.unused import Unused
from dermalert.errors import RunError, UsageError, did_you_mean, first_line
from dermalert.hub import offline
from dermalert.hub.retries import HTTP_ERROR


def load(
    name: str, columns: table_columns.Columns, selection: Selection, *, streaming: bool = False
) -> tuple[list[Record], Dataset]:
    """What a data set of the Hub holds, and its images: a column `image` that `Record.row` counts in.

    The images stay on disk, where `datasets` keeps them: as the files that were downloaded and once more as Arrow.
    Streamed, each row is read from the Hub and written as Arrow right away, without other columns of images: half the
    disk or less, for a set that hardly fits there. A stream that was cut begins anew.

    Args:
        name: `USER/NAME` or `USER/NAME@REVISION`.
        columns: the fields' columns; `image` is a column of pictures here.
        selection: which kinds of pictures are taken.
        streaming: leave out the download.

    Raises:
        UsageError: no such data set or revision, terms not accepted, or columns that do not say which image shows what.
        RunError: the Hub cannot be reached.
    """
    commit, splits = _open(name, streaming=streaming)
    features = next(iter(splits.values())).features
    image = _image_column(name, features, columns.given.get("image"))
    columns.present.add(image)
    others = [column for column, feature in features.items() if not isinstance(feature, Image)]
    header = table_columns.headers(others)
    fields = columns.of(header)
    if not table_columns.names_a_diagnosis(header, fields | {"image_id": image}):
        columns.check()  # which may be why
        raise UsageError(f"'{name}' has no column that names a diagnosis among {', '.join(others) or 'its columns'}.")
    splits = _narrow(name, splits, [image, *others], commit if streaming else None)
    column_of = dict(zip(header, others, strict=True))
    fields = shipped_splits.choose_column(
        fields, columns, header, lambda column: _cells(splits.values(), column_of[column])
    )
    _say_unread(name, [column for column in features if column not in (image, *others)], header, fields)
    records: list[Record] = []
    pictures: list[Dataset] = []
    for split, rows in splits.items():
        where, ids = f"{name}/{split}", _names(rows, image, f"{name}/{split}")
        table = rows.select_columns(others)
        table = table.rename_columns({a: b for a, b in zip(others, header, strict=True) if a != b})
        first = sum(map(len, pictures))
        records += _records(table, where, fields, ids, selection, first=first)
        pictures.append(rows.select_columns([image]).rename_columns({image: "image"}))
    return records, concatenate_datasets(pictures)


def _open(name: str, *, streaming: bool) -> tuple[str | None, Mapping[str, Any]]:
    """The commit that a name stands for, and its splits, streamed or from the disk."""
    if streaming and offline.is_on():
        raise UsageError(f"HF_HUB_OFFLINE is set, and --streaming reads '{name}' from the Hub: leave one of them out.")
    with _failures_as_sentences(name):
        commit = _commit(name)
        # No script of a data set is run: `datasets` has refused them since version 4, and takes no word about it.
        with progress.downloads():
            splits = load_dataset(HubName.parse(name).repo, revision=commit, streaming=streaming)
    if offline.is_on():
        _check_cached(name, splits)
    if next(iter(splits.values())).features is None:
        raise UsageError(f"'{name}' does not say which columns it has, and cannot be streamed: leave out --streaming.")
    return commit, splits


def _narrow(name: str, splits: Mapping[str, Any], columns: list[str], commit: str | None) -> dict[str, Dataset]:
    """The splits with rows, on the disk, by these columns alone, the first of them pictures.

    Args:
        name: of the data set.
        splits: of `_open`.
        columns: those that are kept.
        commit: where they are streamed.
    """
    splits = {split: rows.select_columns(columns) for split, rows in splits.items()}
    splits = {split: rows.cast_column(columns[0], Image(decode=False)) for split, rows in splits.items()}
    if commit:
        with _failures_as_sentences(name):
            splits = {split: _write_stream(rows, f"{commit}/{split}") for split, rows in splits.items()}
    splits = {split: rows for split, rows in splits.items() if len(rows)}
    if not splits:
        raise UsageError(f"'{name}' holds no rows.")
    return splits


def _say_unread(name: str, images: list[str], header: Sequence[str], fields: Mapping[str, str]) -> None:
    """Say which columns nothing is read from, other `images` among them."""
    unused = Unused(name)
    unread = [*table_columns.unused_columns(header, fields), *images]
    unused.add("{n} columns of '{where}' are not used (--columns FIELD=COLUMN reads one)", unread)
    unused.report()


def _write_stream(stream: IterableDataset, key: str) -> Dataset:
    """Write a stream where `datasets` keeps its files, or find it there."""
    key = hashlib.sha256(f"{key} {stream.features}".encode()).hexdigest()[:32]
    with progress.downloads():
        return Dataset.from_generator(lambda: iter(stream), features=stream.features, fingerprint=key)


def _commit(name: str) -> str | None:
    """The commit that a name stands for, once the Hub has said that one may have its files."""
    repo, revision = HubName.parse(name)
    if offline.is_on():  # then that is what is wanted
        return revision
    # Asked for, because `load_dataset` takes whatever it once cached where the Hub does not answer.
    commit = HfApi().dataset_info(repo, revision=revision).sha
    # What a gated data set is called, the Hub tells anybody; whether one may have its files is another question.
    HfApi().auth_check(repo, repo_type="dataset")
    return commit


def _check_cached(name: str, splits: Mapping[str, Dataset]) -> None:
    """Refuse another revision than the one that is named: offline, `datasets` takes the last one that it holds."""
    repo, revision = HubName.parse(name)
    held = Path(next(iter(splits.values())).cache_files[0]["filename"]).parent.name
    if revision and not held.startswith(revision):
        raise UsageError(
            f"HF_HUB_OFFLINE is set and the cache holds commit {held} of '{repo}', which may not be '{revision}': name "
            f"'{repo}@{held}', or run the same command where there is a network."
        )


@contextlib.contextmanager
def _failures_as_sentences(name: str) -> Iterator[None]:
    """Turn what the Hub, its client or `datasets` raises into one sentence."""
    repo, revision = HubName.parse(name)
    try:
        yield
    except GatedRepoError as error:  # a kind of RepositoryNotFoundError
        raise UsageError(
            f"'{repo}' is open only to who has accepted its terms: accept its terms on its page, then `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        of = f" at revision '{revision}'" if isinstance(error, RevisionNotFoundError) else ""
        near = did_you_mean(name, ["demo", *map(str, Path(repo).parent.glob("*/"))])
        raise UsageError(
            f"the data set '{name}' is neither a folder nor a data set that the Hub has{of}.{near}"
        ) from error
    except (HTTP_ERROR, OSError) as error:
        raise _unreachable(name, error) from error
    # `load_dataset` says in a ValueError that a configuration must be named, or that there is nothing to read.
    except (DatasetsError, ValueError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) else None
        if isinstance(cause, (HTTP_ERROR, OSError)):
            raise _unreachable(name, cause) from error
        why = _several(error) or first_line(cause or error)
        raise UsageError(f"the data set '{name}' cannot be used: {why}.") from error


def _unreachable(name: str, error: Exception) -> RunError:
    if offline.is_on():
        return RunError(
            f"'{name}' is no folder here, HF_HUB_OFFLINE is set and the cache does not hold it: run the same command "
            "once where there is a network."
        )
    return RunError(f"'{name}' is no folder here, and the Hub cannot be asked for it: {first_line(error)}.")


def _several(error: Exception) -> str | None:
    """Return in words which configurations there are, if `datasets` asks for one of them."""
    listed = re.search(r"available configs: (\[.*\])", str(error))
    if listed is None:
        return None
    return f"it has several configurations ({', '.join(ast.literal_eval(listed[1]))}), and none can be named here"


def _image_column(name: str, features: Features, given: str | None) -> str:
    of_images = [column for column, feature in features.items() if isinstance(feature, Image)]
    if given not in features:  # it may be another data set's
        given = None
    if given is not None and given not in of_images:
        raise UsageError(f"'{name}' has no column '{given}' of images, only {', '.join(of_images) or 'none'}.")
    if given is None and len(of_images) != 1:
        several = f"{len(of_images)} columns of images ({', '.join(of_images)}): name one" if of_images else "no images"
        raise UsageError(f"'{name}' has {several}.")
    return given or of_images[0]


def _names(rows: Dataset, image: str, where: str) -> list[str]:
    """What each picture is called where no column says it: its file, if that is the archive's number or its own.

    The archive's number leads to the metadata of an image, and to its copies elsewhere.
    """
    paths = pc.struct_field(rows.data.column(image), "path").to_pylist()
    names = [table_cells.image_name(path) for path in paths]
    often = Counter(names)
    return [
        name if name and (archive_number(name) or often[name] == 1) else f"{where}/{i}" for i, name in enumerate(names)
    ]


def _choose_name(name: str, file: str) -> str:
    """What a column calls an image, or its file's name where only that has the archive's number."""
    return file if not name or (archive_number(file) and not archive_number(name)) else name


def _name_of(feature: ClassLabel, number: int | None) -> str:
    # In a split without labels the Hub writes -1.
    return feature.int2str(number) if number is not None and number >= 0 else ""


def _cells(parts: Iterable[Dataset], column: str) -> Iterator[object]:
    """Yield the different things that a column of single values holds."""
    for rows in parts:
        feature = rows.features[column]
        if isinstance(feature, ClassLabel):
            yield from (_name_of(feature, number) for number in rows.unique(column))
        elif isinstance(feature, Value):
            yield from rows.unique(column)


def _records(
    rows: Dataset,
    where: str,
    columns: Mapping[str, str],
    ids: Sequence[str],
    selection: Selection,
    *,
    first: int,
) -> Iterator[Record]:
    name, _, split = where.rpartition("/")
    nobody: Counter[str] = Counter()
    other: Counter[str] = Counter()
    for i, row in enumerate(rows):
        for column, feature in rows.features.items():
            if isinstance(feature, ClassLabel):
                row[column] = _name_of(feature, row[column])
        kind = table_cells.kind_of(row, columns)
        if not selection.admits(kind):
            other[kind] += 1
            continue
        shipped = {shipped_splits.shipped_as([split]), shipped_splits.split_of(row, columns)}
        yield Record(
            image_id=_choose_name(table_cells.image_name(row.get(columns.get("image_id"))), ids[i]),
            name=table_cells.label_of(row, columns),
            malignancy=table_cells.malignancy_of(row, columns),
            row=first + i,
            # What ships as a test split is one; whatever else a split is called, it is there to be trained on.
            shipped_split="test" if "test" in shipped else "train",
            source=name,
            metadata=table_cells.metadata_of(row, columns, nobody),
        )
    leave_out_kinds(other, where, selection)
    warn_of_nobody(nobody, where)
