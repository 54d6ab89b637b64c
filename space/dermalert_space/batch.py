"""Judge many images: files, folders and zip archives in, one row a file out, the most urgent first.

Nothing is unpacked to the disk, a bad file is a row that says why, and memory is bounded whatever the files are.
"""

import csv
import dataclasses
import io
import itertools
import json
import math
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from dermalert_space.contract import NOT_A_DEVICE
from dermalert_space.images import UnreadableImage, open_image, read_image
from dermalert_space.prediction import STATES, Prediction, printable, threshold_share, word
from dermalert_space.release import Release

LIMIT = 10_000
"""Files that one batch takes, unless told otherwise."""

MAX_BYTES = 200_000_000
"""Of one file: `images.MAX_PIXELS` of three bytes fit, uncompressed."""

MAX_RATIO = 20
"""How much larger than in its archive a file may get; pictures shrink tenfold at most, bombs a thousandfold."""

FREE = 1_000_000
"""Bytes of an archive, and a tenth of them of a file, below which they count as so many: a plain field shrinks well."""

MAX_DIRECTORY = 4_000_000
"""Bytes of an archive's table of contents: enough for `LIMIT` names, too little to fill the memory with them."""

WEIGHT = 128_000_000
"""Bytes that a micro-batch may hold, files and decoded pixels, unless a single file is larger."""

THUMBNAIL = 160
LONGEST_NAME = 200
_LEFT_BY_SYSTEMS = {"__MACOSX", "Thumbs.db", "desktop.ini"}
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # the latter wide, as they are typed in East Asia

Source = bytes | Path | str
"""What is known of a file: its content, where that lies, or in a sentence why there is none."""

Found = Iterator[tuple[str, Callable[[], Source]]]
"""Names of files, and what reads each, to be called before the next is asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one file."""

    file: str
    """The name as it is shown; of a file in an archive `archive.zip/folder/name.jpg`."""
    prediction: Prediction | None
    """None where the file could not be read."""
    watched: float | None
    """The probability of what the release alerts to; None where the file could not be read."""
    problem: str | None
    """Why it could not be read, in a sentence; None where it could."""
    thumbnail: Image.Image | None = None
    """At most 160 pixels a side, RGB, without EXIF; only where it is asked for."""

    @property
    def state(self) -> str:
        """One of `prediction.STATES`."""
        return self.prediction.state if self.prediction else "unreadable"


# From paths to files


def expanded(
    paths: Iterable[str | Path], *, limit: int = LIMIT, full_names: bool = False
) -> Iterator[tuple[str, Source]]:
    """Yield each file of files, folders (with all below) and zip archives: its name, and its `Source`.

    Hidden files in folders and archives are left out, and what systems leave there. Links to folders, archives in
    archives, encrypted and damaged members, bombs and whatever else cannot be read are yielded with the reason.

    Args:
        paths: of files, folders and zip archives.
        limit: how many files to yield; one more says that there are others.
        full_names: names files by the path as it is given, not only by its last part.
    """
    for name, read in _found(paths, limit, full_names):
        yield name, read()


def count(paths: Iterable[str | Path], *, limit: int = LIMIT) -> int:
    """Return how many rows `expanded` will give."""
    return sum(1 for _ in _found(paths, limit, False))


def shown(name: str) -> str:
    """Return a file's name as it may be shown: what cannot be seen or turns the line round replaced, not too long."""
    name = printable(name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 60]}…{name[-59:]}"


def _found(paths: Iterable[str | Path], limit: int, full_names: bool) -> Found:
    files = itertools.chain.from_iterable(_below(Path(p), str(p) if full_names else Path(p).name) for p in paths)
    for number, (name, read) in enumerate(files):
        if number == limit:
            problem = f"the file and all that follow were left out: a batch takes at most {limit:,} files."
            yield shown(name), lambda problem=problem: problem
            return
        yield shown(name), read


def _below(path: Path, name: str) -> Found:
    if not (path.is_dir() or _is_zip(path)):
        yield name, lambda: path
        return
    files = _in_folder(path, name) if path.is_dir() else _in_zip(path, name)
    yield next(files, (name, lambda: "no file lies in it."))
    yield from files


def _in_folder(folder: Path, name: str) -> Found:
    errors: list[OSError] = []
    # Links to folders are not followed: one may lead back to where it lies.
    for root, folders, files in os.walk(folder, onerror=errors.append):
        folders[:] = sorted(entry for entry in folders if not _is_left_out(entry))
        for entry in sorted(filter(lambda entry: not _is_left_out(entry), files)):
            path = Path(root, entry)
            yield from _below(path, str(Path(name, path.relative_to(folder))))
        for entry in folders:
            if Path(root, entry).is_symlink():
                shown_as = str(Path(name, Path(root, entry).relative_to(folder)))
                yield shown_as, lambda: "the name is a link to a folder: name the folder itself."
    for error in errors:
        yield str(Path(name, Path(error.filename).relative_to(folder))), lambda: "the folder cannot be read."


def _is_left_out(part: str) -> bool:
    return part in _LEFT_BY_SYSTEMS or (part.startswith(".") and not part.startswith(".."))


# Zip archives


class _Archive(io.FileIO):
    """An archive, of which no more than `MAX_DIRECTORY` bytes are read at once, as its table of contents is."""

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY:
            raise zipfile.BadZipFile("its table of contents is too long")
        return super().read(size)


def _is_zip(path: Path) -> bool:
    """Whether a file begins as an archive does; a picture that has one at its end is a picture."""
    try:
        if not path.is_file():  # nor a pipe or a device, on which a reader may wait for ever
            return False
        with path.open("rb") as file:
            return file.read(4) in (b"PK\3\4", b"PK\5\6")
    except OSError:
        return False


def _in_zip(path: Path, name: str) -> Found:
    try:
        with _Archive(path) as file, zipfile.ZipFile(file) as archive:
            budget = _Budget(MAX_RATIO * max(path.stat().st_size, FREE))
            for member in archive.infolist():
                if not (member.is_dir() or any(map(_is_left_out, member.filename.split("/")))):
                    yield f"{name}/{member.filename}", lambda member=member: _unpacked(archive, member, budget)
    # What zipfile raises on broken archives is not one type either.
    except Exception:
        yield name, lambda: "the file is a damaged zip archive, or one with far too many files."


class _Budget:
    """Bytes that an archive may still be unpacked to, all of its files together."""

    def __init__(self, left: int):
        self.left = left


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: _Budget) -> Source:
    if member.flag_bits & 1:
        return "the file is encrypted: unpack the archive first."
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "the file is packed in a way that is not read here: make an ordinary zip archive."
    if member.file_size > MAX_BYTES:
        return too_large(member.file_size)
    if member.file_size > MAX_RATIO * max(member.compress_size, FREE // 10) or member.file_size > budget.left:
        return "the file unpacks to far more than pictures do: it is not read."
    budget.left -= member.file_size
    return _read_member(archive, member)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Source:
    try:
        with archive.open(member) as file:
            # zipfile gives no more than the size that the member claims, which is checked above.
            content = b"".join(iter(lambda: file.read(1 << 20), b""))
    except Exception:  # as above
        return "the file is damaged in its archive."
    return "the file is an archive in an archive: unpack it first." if content[:4] == b"PK\3\4" else content


def too_large(size: int) -> str:
    """Return the sentence on a file of more than `MAX_BYTES`."""
    return f"the file has {size / 1e6:,.0f} MB: shrink it below {MAX_BYTES // 1_000_000} MB."


# From files to rows


def predict_files(
    release: Release, files: Iterable[tuple[str, Source]], *, batch_size: int = 16, thumbnails: bool = False
) -> Iterator[Row]:
    """Judge files, as `expanded` yields them, and yield a row of each in their order.

    The next few are decoded in threads while the model judges the last; at most so many lie in memory as `WEIGHT` says.

    Args:
        release: what judges.
        files: names, and contents or paths; where there is a problem instead it is passed on.
        batch_size: images that the model takes at once, at most.
        thumbnails: whether the rows get small copies of the images.
    """
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        waiting: list[tuple[str, Future]] = []
        for group in _groups(files, batch_size):
            decoding = [(name, pool.submit(_decoded, source, thumbnails)) for name, source in group]
            del group
            yield from _rows(release, waiting)
            waiting = decoding
        yield from _rows(release, waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _groups(files: Iterable[tuple[str, Source]], batch_size: int) -> Iterator[list[tuple[str, bytes | str]]]:
    """Yield so many files, read, as the model takes at once and the memory holds."""
    group, weight = [], 0
    for name, source in files:
        content = _content(source) if isinstance(source, Path) else source
        size = _weight(content)
        if group and (len(group) == batch_size or weight + size > WEIGHT):
            yield group
            group, weight = [], 0
        group.append((name, content))
        weight += size
    if group:
        yield group


def _content(path: Path) -> bytes | str:
    try:
        if not path.is_file():
            return "the file is no file." if path.exists() else "the file does not exist."
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        return f"the file cannot be read: {error.strerror}."
    return content if len(content) <= MAX_BYTES else too_large(path.stat().st_size)


def _weight(content: bytes | str) -> int:
    """Return the bytes that a file and its pixels will take, by what its header claims."""
    try:
        with open_image(content) as image:
            return len(content) + 4 * image.width * image.height
    except Exception:  # no picture, as `read_image` will say
        return len(content)


def _decoded(content: bytes | str, thumbnails: bool) -> tuple[Image.Image, Image.Image | None] | str:
    if isinstance(content, str):
        return content
    try:
        image = read_image(content)
    except UnreadableImage as error:
        return str(error)
    return image, _thumbnail(image) if thumbnails else None


def _thumbnail(image: Image.Image) -> Image.Image:
    scale = min(1.0, THUMBNAIL / max(image.size))
    small = image.resize([max(1, round(side * scale)) for side in image.size], reducing_gap=2.0)
    small.info = {}  # EXIF and profiles lie there
    return small


def _rows(release: Release, decoding: list[tuple[str, Future]]) -> Iterator[Row]:
    results = [(name, future.result()) for name, future in decoding]
    decoding.clear()
    predictions = iter(release.predict_all([result[0] for _, result in results if not isinstance(result, str)]))
    for name, result in results:
        if isinstance(result, str):
            yield Row(file=name, prediction=None, watched=None, problem=result)
        else:
            prediction = next(predictions)
            watched = prediction.probabilities[release.alert_label]
            yield Row(file=name, prediction=prediction, watched=watched, problem=None, thumbnail=result[1])


# From rows to tables


def by_urgency(rows: Iterable[Row]) -> list[Row]:
    """Return rows in the order in which a dermatologist should look at them.

    What raises the alert or asks for attention comes first, by how many times its threshold the probability is. Then
    comes what only a person can judge, by the probability of what the release alerts to; then the others, by that of
    what it asks for attention to. Files that could not be read come last, so that none lies between two patients.
    """
    return sorted(rows, key=_rank)


def _rank(row: Row) -> tuple[int, float]:
    prediction = row.prediction
    if prediction is None:
        return 3, 0.0
    if prediction.state in ("melanoma_alert", "malignant_likely"):
        return 0, -prediction.urgency
    if prediction.state == "cannot_assess":
        return 1, -row.watched if math.isfinite(row.watched) else 0.0
    sums = (prediction.attention, prediction.malignant, row.watched)
    return 2, -next(value for value in sums if value is not None)


def counts(rows: Iterable[Row], label: str) -> str:
    """Return how many files are in each state, as a list in words."""
    found = Counter(row.state for row in rows)
    return ", ".join(f"{found[state]:,} {word(state, label)}" for state in STATES if found[state])


def not_read(rows: Iterable[Row]) -> str:
    """Return the heading over the files that could not be read."""
    number = sum(row.state == "unreadable" for row in rows)
    return "1 file could not be read as an image" if number == 1 else f"{number:,} files could not be read as images"


def as_text(rows: Iterable[Row], release: Release) -> str:
    """Return rows as lines to read, the verdict first, and what stands below them."""
    rows = list(rows)
    label = release.alert_label
    lines = [f"{'':18} {label:>10} {'malignant':>10}"]
    lines += [_line(row, label) for row in rows if row.prediction]
    others = [row for row in rows if not row.prediction]
    lines += ["", f"{not_read(others)}:", *(f"  {row.file}: {row.problem}" for row in others)] if others else []
    alerts = (
        "has no alert threshold" if release.threshold is None else f"alerts from {threshold_share(release.threshold)}"
    )
    if release.attention and release.attention.threshold is not None:
        alerts += f", asks for attention from {threshold_share(release.attention.threshold)}"
    tag = f" at {release.revision}" if release.revision else ""
    return "\n".join([*lines, "", f"{counts(rows, label)}; release {_name(release)}{tag} {alerts}.", NOT_A_DEVICE])


def _line(row: Row, label: str) -> str:
    known = row.prediction
    shares = [row.watched, known.malignant if known.attention is None else known.attention]
    cells = "".join(f" {'' if share is None else f'{share:.1%}':>10}" for share in shares)
    reason = f": {known.abstained}" if known.abstained else ""
    return f"{word(row.state, label):18}{cells}  {row.file}{reason}"


def as_csv(rows: Iterable[Row], release: Release) -> str:
    """Return rows as a CSV table, probabilities in [0, 1] with all the digits that the state follows from.

    A text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    table = io.StringIO()
    writer = csv.writer(table, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    fixed = ["file", "state", "sentence", "alert", "refused", "problem", f"{release.alert_label} probability"]
    fixed += ["malignant probability", "attention probability"]
    heads = [*fixed, *release.labels, "alert threshold", "attention threshold", "release", "tag"]
    writer.writerow(map(_cell, heads))
    about = [release.threshold, release.attention and release.attention.threshold, _name(release), release.revision]
    for row in rows:
        record = _record(row, release)
        probabilities = record.pop("probabilities") or {}
        cells = [*record.values(), *map(probabilities.get, release.labels), *about]
        writer.writerow([_cell(value) for value in cells])
    return table.getvalue()


def _cell(value: str | float | bool | None) -> str | float:
    if isinstance(value, str):
        value = printable(value)
        return f"'{value}" if value.lstrip().startswith(_FORMULA) else value
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else value


def as_json(rows: Iterable[Row], release: Release) -> str:
    """Return rows as JSON, with the release that judged them and what it is not."""
    about = {"notice": NOT_A_DEVICE, "release": _name(release), "tag": release.revision}
    about |= {"alert": {"label": release.alert_label, "threshold": release.threshold}}
    about |= {"attention": release.attention and dataclasses.asdict(release.attention)}
    return json.dumps(about | {"files": [_record(row, release) for row in rows]}, indent=1, allow_nan=False)


def _record(row: Row, release: Release) -> dict:
    """Return what is written of a row; None where there is nothing."""
    prediction = row.prediction
    return {
        "file": row.file,
        "state": row.state,
        "sentence": prediction and prediction.sentence,
        "alert": prediction and prediction.alert,
        "refused": prediction and prediction.abstained,
        "problem": row.problem,
        f"{release.alert_label} probability": _finite(row.watched),
        "malignant probability": prediction and _finite(prediction.malignant),
        "attention probability": prediction and _finite(prediction.attention),
        "probabilities": prediction and {label: _finite(p) for label, p in prediction.probabilities.items()},
    }


def _finite(probability: float | None) -> float | None:
    """Return a probability; None of what is no number, which a damaged release may answer."""
    return None if probability is None or not math.isfinite(probability) else probability


def _name(release: Release) -> str:
    """Return the release's name; of a folder only the last part: where it lies is nobody's business."""
    return Path(release.name).resolve().name if Path(release.name).is_dir() else release.name
