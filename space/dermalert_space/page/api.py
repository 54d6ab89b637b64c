"""What programs may ask of the page: the same by gradio_client, REST and MCP. Nothing of gradio is needed here."""

import base64
import contextlib
import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypedDict, cast

from PIL import Image

from dermalert_space import batch, inputs, tables
from dermalert_space.contract import NOT_A_DEVICE, Json, State
from dermalert_space.images import UnreadableImage, read_image
from dermalert_space.page import markup
from dermalert_space.prediction import STATES, Prediction, fields
from dermalert_space.release import Release
from dermalert_space.zip_archives import Input

MAX_ADDRESS = 20_000_000
"""Characters of an image that comes as text: no body that holds one may be longer, see `request_guard.MAX_JSON`."""


class PredictionRecord(TypedDict):
    """The answer to one image."""

    state: str
    sentence: str
    alert: bool | None
    refused: str | None
    diagnosis: str | None
    probabilities: dict[str, float]
    malignant: float | None
    attention: float | None
    threshold: float | None
    """Of the alert's probability."""
    attention_threshold: float | None
    release: str
    version: str
    """Its tag; one of `markup.UNVERSIONED` where it has none."""
    notice: str


class Sorted(TypedDict):
    """One file of a batch."""

    file: str
    state: str
    problem: str | None
    sentence: str | None
    alert: bool | None
    refused: str | None
    diagnosis: str | None
    probabilities: dict[str, float] | None
    malignant: float | None
    attention: float | None


class Batch(TypedDict):
    """The answer to many files, the most urgent first."""

    files: list[Sorted]
    release: str
    notice: str


class Served(TypedDict):
    """The release that answers."""

    release: str
    version: str
    """Its tag; one of `markup.UNVERSIONED` where it has none."""
    diagnoses: list[str]
    groups: dict[str, list[str]]
    alert_label: str
    threshold: float | None
    attention_labels: list[str] | None
    attention_threshold: float | None
    states: list[str]
    trained_on: list[str]
    generated: bool
    evaluation: Json | None
    notice: str


class NoPicture(ValueError):
    """There is no picture in what was sent; the text says why, in a sentence."""


class CannotRead(NoPicture):
    """A file was sent, and it is no image that can be read: its state is `unreadable`."""


def upload_path(file: Json | None, cache: str) -> Path:
    """The path of an upload in the folder of the uploads; NoPicture where it is elsewhere or has been deleted."""
    claimed = file.get("path") if isinstance(file, dict) else None
    try:
        path = Path(claimed or "").resolve()
        # A caller may name any file of the server: only what was uploaded is read.
        if path.is_relative_to(Path(cache).resolve()) and path.is_file():
            return path
    except (TypeError, ValueError, OSError):  # no text; a zero byte in it; too long
        pass
    raise NoPicture("Not read: no image was uploaded.")


def image_of(data: list[Any]) -> Json | bytes | None:
    """The image that a program sends to have it assessed: an upload, or the content of an address of base64.

    Args:
        data: the arguments of the call; of these the first is an upload as gradio has it, the path or the address of
            one, or `data:image/png;base64,...`, in a text or as the `url` of an object.

    Raises:
        NoPicture: it is nothing of the kind.
    """
    if not data:
        raise NoPicture("Not read: the list 'data' is empty; it must hold one image.")
    if data[0] is None:
        return None
    if address := _address(data[0]):
        content = _decode_address(address)
        if isinstance(content, str):
            raise NoPicture(f"Not read: {content}")
        return content
    file = {"path": data[0]} if isinstance(data[0], str) else data[0]
    path = (file.get("path") or file.get("url")) if isinstance(file, dict) else None
    if not isinstance(path, str):
        raise NoPicture(f"Not read: the image must be {_IMAGE}.")
    if _ELSEWHERE.match(path):
        raise NoPicture(f"Not read: nothing is fetched from an address; the image must be {_IMAGE}.")
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


_ELSEWHERE = re.compile(r"\s*(\w[\w+.-]+://|(https?|ftp|file):)", re.IGNORECASE)

_IMAGE = "an upload, its path, or a text data:image/...;base64,... with the file in it"


def _address(file: object) -> str | None:
    """The address of base64 that is sent in the place of an upload; None where there is none."""
    text = file.get("url") if isinstance(file, dict) else file
    return text if isinstance(text, str) and text[:5].lower() == "data:" else None


def read(file: Json | bytes | None, cache: str) -> Image.Image:
    """An upload, or the content of a file, as an image, see `images.read_image`."""
    try:
        return read_image(file if isinstance(file, bytes) else upload_path(file, cache).read_bytes())
    except UnreadableImage as error:
        raise CannotRead(f"Not read: {error}") from error
    except OSError as error:
        raise NoPicture("Not read: no image was uploaded.") from error


def prediction_record(release: Release, prediction: Prediction) -> PredictionRecord:
    """The answer of `/judge` to an image; `refused` says why it cannot be assessed, if it cannot."""
    return _record(release, prediction.state, fields(prediction))


def unreadable(release: Release, error: CannotRead) -> PredictionRecord:
    """The answer to a file that is no image that can be read: its state, the reason, and nothing of a model."""
    return _record(release, State.UNREADABLE, fields(None) | {"sentence": str(error), "probabilities": {}})


def _record(release: Release, state: str, content: dict[str, Any]) -> PredictionRecord:
    origin = {
        "threshold": release.threshold,
        "attention_threshold": release.attention and release.attention.threshold,
        "release": markup.origin(release),
        "version": markup.version_of(release),
        "notice": NOT_A_DEVICE,
    }
    return cast(PredictionRecord, {"state": state, **content, **origin})


def upload_paths(files: list[Any], cache: str) -> list[Path]:
    """Where the uploads lie that programs send as a batch."""
    paths = []
    for file in files[: inputs.LIMIT]:
        with contextlib.suppress(NoPicture):
            paths.append(upload_path({"path": file} if isinstance(file, str) else file, cache))
    return list(dict.fromkeys(paths))


def batch_inputs(files: list[Any], cache: str) -> Iterator[tuple[str, Input]]:
    """The files that programs send as a batch, see `inputs.expand`; of what is named again there is an `Again`.

    Args:
        files: uploads as gradio has them, or texts: the path that an upload was given, or the picture itself as an
            address of base64 (`data:image/png;base64,...`), which is all that an MCP client can list.
        cache: the folder of the uploads.
    """
    return itertools.islice(_batch_inputs(files, cache), inputs.LIMIT + 1)


class Again(str):
    """In the place of a source that was named before: a short request must not ask for hours of work."""

    number: int
    """Of its row then."""

    def __new__(cls, number: int) -> "Again":  # noqa: D102
        again = super().__new__(cls, "it is named above.")
        again.number = number
        return again


def _batch_inputs(files: list[Any], cache: str) -> Iterator[tuple[str, Input]]:
    rows: dict[bytes | Path | str, range] = {}
    total = 0
    for number, file in enumerate(files[: inputs.LIMIT], start=1):
        name, address = f"file {number}", _address(file)
        try:
            upload = {"path": file} if isinstance(file, str) else file
            content = _decode_address(address) if address else upload_path(upload, cache)
        except NoPicture:
            total += 1
            yield name, "no such file was uploaded."
            continue
        entries: Iterable[tuple[str, Input]]
        # Of base64 there are as many spellings as one likes: what counts is the content.
        key = hashlib.sha256(content).digest() if isinstance(content, bytes) else content
        if key in rows:
            # An upload that is named again has the name that it had, and so has each file of an archive.
            entries = (("" if isinstance(content, Path) else name, Again(row)) for row in rows[key])
        else:
            entries = inputs.expand([content]) if isinstance(content, Path) else [(name, content)]
        first = total
        for each in entries:
            total += 1
            yield each
        rows.setdefault(key, range(first, total))


def _decode_address(address: str) -> bytes | str:
    if len(address) > MAX_ADDRESS:
        return f"it is longer than {MAX_ADDRESS:,} characters: upload it as a file."
    try:
        head, _, text = address.partition(",")
        content = base64.b64decode("".join(text.split()), validate=True) if head.lower().endswith(";base64") else b""
    except ValueError:
        content = b""
    return content or "the address holds no base64: write data:image/...;base64, and then the file in base64."


def batch_record(release: Release, rows: Iterable[batch.Row]) -> Batch:
    """The answer of `/triage` to the rows of a batch."""
    given = list(rows)
    files = [_file_record(row) for row in tables.by_urgency(_row_of(row, given) for row in given)]
    return {"files": files, "release": markup.origin(release), "notice": NOT_A_DEVICE}


def _file_record(row: batch.Row) -> Sorted:
    return cast(Sorted, {"file": row.file, "state": row.state, "problem": row.problem, **fields(row.prediction)})


def _row_of(row: batch.Row, given: list[batch.Row]) -> batch.Row:
    """A row; of what is named again what became of it the first time, under the name that it has now."""
    if not isinstance(row.problem, Again):
        return row
    first = given[row.problem.number]
    return dataclasses.replace(first, file=row.file or first.file)


def release_record(release: Release, metrics: Json | None) -> Served:
    """What a release is and how good it was found to be."""
    about, point = markup.about(release), release.attention
    held_out = metrics and metrics["splits"]["held_out"]
    return {
        "release": markup.origin(release),
        "version": markup.version_of(release),
        "diagnoses": release.labels,
        "groups": release.groups,
        "alert_label": release.alert_label,
        "threshold": release.threshold,
        "attention_labels": None if point is None else list(point.labels),
        "attention_threshold": None if point is None else point.threshold,
        "states": list(STATES),
        "trained_on": about.get("data", []),
        "generated": bool(about.get("generated")),
        "evaluation": held_out and {"images": held_out["n"], release.alert_label: held_out["melanoma"]},
        "notice": NOT_A_DEVICE,
    }
