"""What the files of a release may be, looked at before anything is made of them.

A release comes from elsewhere: its files may be damaged, be links to what is not theirs, or ask for more memory and
time than there is. Nothing here runs or decodes what it looks at, but for JSON of a bounded size.
"""

import itertools
import json
import math
import stat
from collections.abc import Iterator
from pathlib import Path

from dermalert_space import contract
from dermalert_space.contract import EXPOSURE, GRAPH, METRICS, PREDICTIONS, REFERENCE, STATISTICS, WEIGHTS, Json

LARGEST = {
    contract.CONFIG: 5_000_000,
    contract.PROCESSOR: 1_000_000,
    WEIGHTS: 4_000_000_000,
    STATISTICS: 500_000_000,
    GRAPH: 50_000_000,
    REFERENCE: 50_000_000,
    METRICS: 20_000_000,
    PREDICTIONS: 200_000_000,
    EXPOSURE: 200_000_000,
}
"""Bytes of each file, some ten times what the largest backbone and archive make of it; of any other `OTHER`."""

OTHER = 50_000_000

MAX_LABELS, MAX_LABEL = 1_000, 200
"""Diagnoses, and letters of each."""

MAX_NUMBER, MAX_SIZE = 100_000, 4_096
"""Of a config: any whole number, such as the width of a layer; and the side of an image, in pixels."""

MAX_ROWS, MAX_UNPACKED = 2_000_000, 2_000_000_000
"""Of a table: rows, and bytes once it is unpacked."""

_COUNTS = ("depth", "layer", "block", "stage", "repeat")
"""Parts of the names of a config's numbers that say how many layers are built, one after the other."""

_HEADER = 10_000_000  # bytes of a safetensors file's table of tensors
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_BYTES |= {"I8": 1, "U8": 1, "BOOL": 1}


Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Of a safetensors file: type and shape of each tensor, by name."""


class Unfit(ValueError):
    """A file is not to be used; the text, the end of a sentence, says why."""


def regular(path: Path, name: str, root: Path) -> Path:
    """The path of a file of a release, called `name` there, if it lies in the release and is not too large."""
    if contract.leaves(path, root):
        raise Unfit("is a link that leaves the release")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device is read for ever
        raise Unfit("is no file")
    if status.st_size > LARGEST.get(name, OTHER):
        raise Unfit(f"has {status.st_size // 1_000_000:,} MB: more than any release")
    return path


def json_object(path: Path) -> Json:
    """The object that a JSON file of a bounded size holds."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Unfit("is damaged or cut short") from error
    if not isinstance(content, dict):
        raise Unfit("holds no JSON object")
    return content


def no_code(config: Json) -> None:
    """Refuse a config that wants code of the release run."""
    for key in ("auto_map", "custom_pipelines", "trust_remote_code"):
        if config.get(key):
            raise Unfit(f"asks for code of its own ('{key}'), which is never run")


def config(content: Json, tensors: int) -> None:
    """Refuse a config whose labels are unusable, or that describes more layers than there are `tensors`."""
    no_code(content)
    _labels(content.get("id2label"))
    _numbers({key: value for key, value in content.items() if key not in ("id2label", "label2id")}, tensors)


def processor(content: Json) -> None:
    """Refuse a processor that wants code of its own, or images of a size that nobody has."""
    no_code(content)
    for key, value in _values(content):
        if isinstance(value, int | float) and not abs(value) <= MAX_SIZE:
            raise Unfit(f"has {str(value)[:30]} for '{key}': {MAX_SIZE:,} at most")


def _values(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Each value of a JSON object, however deep it lies, with the key that it or its list stands under."""
    yield key, value
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _values(each, str(name))
    elif isinstance(value, list):
        for each in value:
            yield from _values(each, key)


def _labels(labels: object) -> None:
    if not isinstance(labels, dict) or not labels:
        raise Unfit("names no diagnoses in 'id2label'")
    if len(labels) > MAX_LABELS:
        raise Unfit(f"names {len(labels):,} diagnoses: {MAX_LABELS:,} at most")
    if sorted(labels) != sorted(map(str, range(len(labels)))):
        raise Unfit(f"does not number its {len(labels)} diagnoses from 0 on in 'id2label'")
    for label in labels.values():
        if not isinstance(label, str) or not label.strip() or len(label) > MAX_LABEL:
            raise Unfit(f"has a diagnosis that is no text of at most {MAX_LABEL} letters: {repr(label)[:60]}")
        if not label.isprintable():
            raise Unfit(f"is unfit: the name of a diagnosis, {label!r}, holds characters that cannot be shown")
    if len(set(labels.values())) != len(labels):
        raise Unfit("names a diagnosis twice in 'id2label'")


def _numbers(content: Json, tensors: int) -> None:
    """Refuse numbers that nobody builds a model of."""
    for key, value in _values(content):
        many = any(part in key for part in _COUNTS)
        if isinstance(value, list) and len(value) > MAX_LABELS:
            raise Unfit(f"has {len(value):,} values in '{key}'")
        if isinstance(value, list) and many and sum(each for each in value if isinstance(each, int)) > max(tensors, 2):
            raise Unfit(f"describes more layers in '{key}' than its weights have tensors")
        size = MAX_SIZE if "image_size" in key else max(tensors, 2) if many else MAX_NUMBER
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) > size:
            raise Unfit(f"has {value} for '{key}': {size:,} at most" if len(str(value)) < 30 else f"has a huge '{key}'")


def tensors(path: Path, *, few: bool = False) -> Tensors:
    """The tensors of a safetensors file, of which only the table is read; a hundred at most where they are `few`."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _HEADER:
                raise Unfit("is no safetensors file, or cut short")
            table = json.loads(file.read(length))
        held = path.stat().st_size - 8 - length
        shapes, ends = {}, []
        for name, entry in table.items():
            if name == "__metadata__":
                continue
            shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
            if not all(isinstance(side, int) and side >= 0 for side in shape):
                raise ValueError
            if last - first != _BYTES[entry["dtype"]] * math.prod(shape):
                raise ValueError
            shapes[name] = (entry["dtype"], shape)
            ends.append((first, last))
    except Unfit:
        raise
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise Unfit("is damaged, cut short, or of another kind") from error
    ends = [(0, 0), *sorted(ends), (held, held)]
    if any(last != first for (_, last), (first, _) in itertools.pairwise(ends)):
        raise Unfit("is cut short, or its tensors do not lie one behind the other")
    if len(shapes) > (100 if few else 50_000):
        raise Unfit(f"has {len(shapes):,} tensors")
    return shapes


def reference(tensors: Tensors, labels: int) -> None:
    """Refuse reference images that are no few RGB images, each with a probability of each label."""
    (kind, shape), (number, recorded) = tensors["images"], tensors["probabilities"]
    if kind != "U8" or len(shape) != 4 or shape[3] != 3 or not 1 <= shape[0] <= 1_000 or min(shape[1:3]) < 1:
        raise Unfit("has no RGB images")
    if number not in ("F32", "F64") or recorded != (shape[0], labels):
        raise Unfit("has no probabilities")


def statistics(tensors: Tensors, d: int) -> None:
    """Refuse statistics that are not those of so many features."""
    k = tensors["variance"][1][0]
    shapes = {"mean": (d,), "scale": (d,), "basis": (k, d), "variance": (k,), "noise": (1,)}
    for name, shape in shapes.items():
        if tensors[name] not in [(kind, shape) for kind in ("F16", "F32", "F64")]:
            raise Unfit(f"has no '{name}' of this model")


def table(path: Path) -> None:
    """Refuse a parquet file that would unpack to more than there is room for; only its end is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = pq.read_metadata(path)
        unpacked = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    except (OSError, pa.ArrowException) as error:
        raise Unfit("is damaged, cut short, or of another kind") from error
    if about.num_rows > MAX_ROWS or unpacked > MAX_UNPACKED:
        raise Unfit(f"has {about.num_rows:,} rows of {unpacked / 1e6:,.0f} MB: more than any evaluation")
