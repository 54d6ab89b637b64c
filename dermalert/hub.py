"""A data set of the Hugging Face Hub, `USER/NAME` or `USER/NAME@REVISION`, with an image column and a label column."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from dermalert import tables
from dermalert.errors import RunError, UsageError, did_you_mean
from dermalert.layouts import Record, one_of_the_nine

# The base of all that the Hub client's HTTP library raises; which library that is depends on the client's version.
HTTP_ERROR = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def is_name(name: str) -> bool:
    """Tell whether a name is written like a data set of the Hub."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name) is not None


def load(name: str, columns: Mapping[str, str] | None = None) -> tuple[list[Record], Dataset]:
    """Return what a data set of the Hub holds, and its images: a column `image` that `Record.row` counts in.

    The images stay on disk, where `datasets` keeps them.

    Args:
        name: `USER/NAME` or `USER/NAME@REVISION`.
        columns: fields with the columns that hold them, where a person has named them; `image` is a field too.

    Raises:
        UsageError: no such data set or revision, terms not accepted, or columns that do not say which image shows what.
        RunError: the Hub cannot be reached.
    """
    splits = _download(name)
    features = next(iter(splits.values())).features
    given = dict(columns or {})
    image = _image_column(name, features, given.pop("image", None))
    others = [column for column in features if column != image]
    found = tables.columns_of(others, given)
    if not tables.names_a_diagnosis(others, found | {"image_id": image}):
        raise UsageError(f"'{name}' has no column that names a diagnosis among {', '.join(others) or 'its columns'}.")
    records, pictures = [], []
    for split, rows in splits.items():
        records += _records(rows.select_columns(others), f"{name}/{split}", found, first=len(records))
        pictures.append(rows.select_columns([image]).rename_columns({image: "image"}))
    images = concatenate_datasets(pictures).cast_column("image", Image(decode=False))
    return one_of_the_nine(records, name), images


def _download(name: str) -> DatasetDict:
    repo, _, revision = name.partition("@")
    try:
        # Asked for first, because `load_dataset` takes whatever it once cached where the Hub does not answer.
        commit = HfApi().dataset_info(repo, revision=revision or None).sha
        # What a gated data set is called, the Hub tells anybody; whether one may have its files is another question.
        HfApi().auth_check(repo, repo_type="dataset")
        return load_dataset(repo, revision=commit)
    except GatedRepoError as error:  # a kind of RepositoryNotFoundError
        raise UsageError(
            f"'{repo}' is open only to who has accepted its terms: accept its terms on its page, then `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        of = f" at revision '{revision}'" if isinstance(error, RevisionNotFoundError) else ""
        near = did_you_mean(name, ["demo", *map(str, Path(repo).parent.glob("*/"))])
        raise UsageError(
            f"--dataset '{name}' is neither a folder nor a data set that the Hub has{of}.{near}"
        ) from error
    except (HTTP_ERROR, OSError) as error:
        raise RunError(f"'{name}' is no folder here, and the Hub cannot be asked for it: {_reason(error)}.") from error
    # `load_dataset` says in a ValueError that a configuration must be named, or that there is nothing to read.
    except (DatasetsError, ValueError, RuntimeError) as error:
        raise UsageError(f"--dataset '{name}' cannot be used: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _image_column(name: str, features: Features, given: str | None) -> str:
    of_images = [column for column, feature in features.items() if isinstance(feature, Image)]
    if given is not None and given not in of_images:
        raise UsageError(f"'{name}' has no column '{given}' of images, only {', '.join(of_images) or 'none'}.")
    if given is None and len(of_images) != 1:
        several = f"{len(of_images)} columns of images ({', '.join(of_images)}): name one" if of_images else "no images"
        raise UsageError(f"'{name}' has {several}.")
    return given or of_images[0]


def _records(rows: Dataset, where: str, columns: Mapping[str, str], *, first: int) -> Iterator[Record]:
    label = rows.features.get(columns.get("label"))
    part = "test" if where.endswith("/test") else "train"
    for i, row in enumerate(rows):
        if isinstance(label, ClassLabel):
            number = row[columns["label"]]
            # In a split without labels the Hub writes -1.
            row[columns["label"]] = label.int2str(number) if number is not None and number >= 0 else ""
        yield Record(
            image_id=tables.image_name(row[columns["image_id"]]) if "image_id" in columns else f"{where}/{i}",
            name=tables.label_of(row, columns),
            row=first + i,
            shipped_split=part,
            source=where.rpartition("/")[0],
            facts=tables.facts_of(row, columns),
        )
