"""Which images a folder holds and what it says of each; the layout is recognised from what lies there.

- class folders: one folder a diagnosis, alone or under `Train/`, `Val/` and `Test/` (the nine-class Kaggle set,
  HAM10000 by `dx`, any `imagefolder`), with a table of facts beside them or none
- images and tables: HAM10000 (`HAM10000_metadata.csv`), the ISIC challenges of 2017 to 2020 (ground truth, and their
  metadata and lesion tables), a download of the ISIC archive by isic-cli and PAD-UFES-20 (both `metadata.csv`)

Where a folder and a table, or two tables, name one image differently, the word that says more counts: that it is a
squamous cell carcinoma, beside `akiec`. Of words that contradict each other the folder's counts and the difference is
counted; two tables that contradict each other are refused. A shipped validation split counts as training images.

No image is opened here.
"""

import dataclasses
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dermalert import taxonomy
from dermalert.data import identifiers, isic9, matching, metadata_tables
from dermalert.data.unused import Unused
from dermalert.errors import UsageError

logger = logging.getLogger(__name__)

# What the ISIC archives put between the images, and is none.
_NO_PHOTO = re.compile(r"_(superpixels|segmentation|mask)$", re.IGNORECASE)
_OFFICIAL_MASK = re.compile(r"ISIC_\d{7}_(superpixels|segmentation)")
# Tables that may lie beside the folder, or in a `metadata/` there: by these names they can only be meant for it.
_OFFICIAL = re.compile(r"(HAM10000_metadata|ISIC[-_]?20\d\d)", re.IGNORECASE)
_FIRST_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\0", b"MM\0*")
_TEXTS = frozenset({".txt", ".md", ".rst", ".pdf", ".html", ".cff", ".bib", ".py", ".license"})
_FILES_OF_SYSTEMS = frozenset(
    {"thumbs.db", "desktop.ini", "license", "readme", "icon\r", "dataset_info.json", "dataset_infos.json"}
)
_EVERYBODYS = set(
    """all archive class classes crops data dataset datasets dermoscopy export exports files folder image images img
    imgs input inputs jpeg jpg main photo photos pic pics picture pictures png raw source sources split splits test
    testing train training val valid validation v version final new old copy""".split()  # noqa: SIM905
)

_SIDES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})  # of one split

_WHOSE = ("lesion_id", "patient_id")
_NO_FACTS: dict = {}  # one for all images


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """An image that a source holds, before anybody has looked at it."""

    image_id: str
    name: str
    """The diagnosis in the source's words."""
    path: str | None = None
    """Where the image lies, if it is a file of its own."""
    row: int | None = None
    """Which of the source's images it is."""
    source: str = "unknown"
    """Where the picture was made, if its number does not tell: the name of what holds it."""
    space: str = ""
    """Whose ids of patients and lesions these are, if not the source's; see `home`."""
    shipped_split: str | None = None
    malignancy: str = ""
    """What the source says of just that, if it has a column or folder for it."""
    twins: tuple[str, ...] = ()
    """Images that the source calls copies of this one."""
    facts: dict = dataclasses.field(default_factory=dict)
    """Lesion, patient, age, sex and site, of those that the source knows."""


def records(root: Path, columns: metadata_tables.Columns, space: str | None = None) -> list[Record]:
    """Return what a folder holds, under the source's own names.

    Args:
        root: the folder.
        columns: the fields' columns.
        space: see `Record.space`; by default the name of `home`.

    Raises:
        UsageError: the layout is none of those above, its tables contradict each other, or columns that were named are
            not there.
    """
    root = root.absolute() if str(root) == "." else root  # so that all paths begin alike
    unused = Unused(str(root))
    images, others, masks = _sorted_out(root)
    near = sorted([*root.parent.iterdir(), *(root.parent / "metadata").glob("*")])
    near = [path for path in near if _OFFICIAL.match(path.name)]
    files = sorted(Path(path) for path in others if metadata_tables.is_table(Path(path)))
    found, beside = metadata_tables.read(files, columns, unused), metadata_tables.read(near, metadata_tables.Columns())
    source, space = identifiers.clean(root.resolve().name) or "unknown", space or identifiers.clean(home(root).name)
    twins = _twins([*files, *near])
    folder = _Folder(root, images, found, beside, unused)
    records = [
        dataclasses.replace(record, row=i, source=source, space=space, twins=tuple(twins.get(record.image_id, ())))
        for i, record in enumerate(_records(folder, columns))
    ]
    read = {record.path for record in records}
    texts = [path for path in others if path not in read and _suffix(path) in _TEXTS]
    of_images = "{n} texts in '{where}' hold a table or a list of images, and are not read (a table is called .csv)"
    unused.add(of_images, map(os.path.basename, _tables_among(texts, images)))
    mask = "left out {n} images of '{where}' because their names end as those of masks do"
    unused.add(mask, map(os.path.basename, _without_photo(masks, images)))
    strange = [path for path in others if path not in read and not _is_harmless(path)]
    unused.add("{n} files in '{where}' are neither images nor tables", map(os.path.basename, strange))
    unused.report()
    return records


def _sorted_out(root: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the images, the other files and the masks below a folder, in the order of their paths."""
    images, others, masks = [], [], []
    # Sorted as paths are, a folder after the other.
    for path in sorted(_files(root), key=lambda path: path.replace(os.sep, "\0")):
        if _NO_PHOTO.search(_stem(path)) and not _is_harmless(path):
            masks.append(path)
        else:
            (images if _is_image(path) else others).append(path)
    return images, others, masks


def _without_photo(masks: list[str], images: list[str]) -> list[str]:
    """Return those called masks that are of no image here and not one of the archive's own: they may be photos."""
    photos = {identifiers.key(os.path.basename(path)) for path in images} if masks else set()
    return [
        path
        for path in masks
        if identifiers.key(_NO_PHOTO.sub("", _stem(path))) not in photos and not _OFFICIAL_MASK.fullmatch(_stem(path))
    ]


def _tables_among(texts: list[str], images: list[str]) -> list[str]:
    """Return the texts that begin like a table, or of whose first lines at least half name an image."""
    lines = {path: metadata_tables.beginning(Path(path)) for path in texts}
    words = {path: [_file_keys(line) for line in lines[path]] for path in texts}
    wanted = {key for each in words.values() for line in each for key in line}
    here = wanted.intersection(identifiers.key(os.path.basename(path)) for path in images) if wanted else wanted
    naming = {path: sum(not here.isdisjoint(line) for line in words[path]) for path in texts}
    return [
        path
        for path in texts
        if lines[path] and (2 * naming[path] >= len(lines[path]) or metadata_tables.is_header(lines[path][0]))
    ]


def _file_keys(line: str) -> set[str]:
    """Return the normal forms of a line's words as names of files; a bare number is none."""
    words = re.split(r"[\s,;|\"']+", line)
    return {identifiers.key(re.split(r"[/\\]", word)[-1]) for word in words if word and not word.isdecimal()}


def _files(root: Path) -> Iterator[str]:
    """Yield the files below a folder, those below linked folders too, but no hidden ones.

    They are strings, because a path takes four times the room, and the table of the names that pathlib has interned
    never shrinks.
    """
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not _hidden(name)]
        yield from (os.path.join(folder, name) for name in files if not _hidden(name))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _image_id(path: str) -> str:
    return identifiers.clean(_stem(path))


def _is_image(path: str) -> bool:
    """Tell whether a file is an image by its suffix, or, where that says nothing, by its first bytes."""
    suffix = _suffix(path)
    if suffix in identifiers.IMAGE_SUFFIXES:
        return True
    if metadata_tables.is_table(Path(path)) or _is_harmless(path) or (suffix[1:].isalpha() and len(suffix) < 6):
        return False
    with open(path, "rb") as file:
        start = file.read(12)
    return start.startswith(_FIRST_BYTES) or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def _is_harmless(path: str) -> bool:
    """Tell whether a file is a table, or of those that lie beside images and are expected to be none."""
    return (
        _suffix(path) in _TEXTS
        or os.path.basename(path).lower() in _FILES_OF_SYSTEMS
        or metadata_tables.is_table(Path(path))
    )


def home(root: Path) -> Path:
    """Return whose a folder's ids are: the nearest folder whose name is not one that everybody uses, as `images_2024`.

    Two folders of one clinic, `clinic/train` and `clinic/test`, have one; `images` of two clinics have two.
    """
    folder = root.resolve()
    for one in (folder, *folder.parents):
        if not _EVERYBODYS.issuperset(_words(one.name)):
            return one
    return folder


def has_official_table(root: Path) -> bool:
    """Tell whether a table of the archive's own name lies in a folder or beside it."""
    near = (*root.rglob("*"), *root.resolve().parent.glob("*"), *root.resolve().parent.glob("metadata/*"))
    return any(_OFFICIAL.match(path.name) and metadata_tables.is_table(path) for path in near)


def owners(roots: Iterable[Path]) -> dict[Path, tuple[Path, int]]:
    """Return for each of the folders that are given together whose its ids are, and how many last names tell it.

    Folders of one home are different people's, however they are called: each has its own. Only the parts of one split,
    `clinic/train` and `clinic/test_2024`, share their home's.
    """
    roots = {root.resolve(): home(root) for root in roots}
    parts: dict[tuple, list[tuple[str, ...]]] = {}
    of: dict[Path, tuple] = {}
    for root, place in roots.items():
        below = root.relative_to(place).parts
        sides = tuple(name for name in below if _SIDES.intersection(_words(name)))  # `train_images`
        of[root] = (place, tuple(name for name in below if name not in sides))
        said = tuple(word for name in sides for word in _words(name) if word in _SIDES)
        parts.setdefault(of[root], []).append(said)
    found = {}
    for root, place in roots.items():
        sides = parts[of[root]]
        one = place.joinpath(*of[root][1]) if len(set(sides)) == len(sides) > 1 else root
        alone = sum(other == place for other in roots.values()) == (len(sides) if one != root else 1)
        found[root] = (place, 1) if alone else (one, len(one.relative_to(place).parts) + 1)
    return found


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.casefold())


class _Folder:
    """A folder's images and tables, and which row of which table means which image."""

    def __init__(
        self,
        root: Path,
        images: list[str],
        found: list[metadata_tables.Table],
        beside: list[metadata_tables.Table],
        unused: Unused,
    ):
        self.root, self.images, self.unused = root, images, unused
        self.matches: list[tuple[metadata_tables.Table, matching.Match]] = []
        if found or beside:
            base = len(str(root)) + 1
            files = matching.Files(images, lambda path: path[base:])
            own = [(table, identifiers.parts(table.path.relative_to(root).parent)) for table in found]
            for table, folder in [*own, *((table, ()) for table in beside)]:
                table = table.of_files(files.has)
                self.matches.append((table, matching.match(table, files, folder)))
        self.own = self.matches[: len(found)]
        self.labelling = [(t, m) for t, m in self.own if t.names_a_diagnosis and (m.rows or m.ambiguous)] or [
            (t, m) for t, m in self.matches[len(found) :] if t.names_a_diagnosis and (m.rows or m.ambiguous)
        ]

    def facts(self) -> dict[str, dict]:
        """Return what the tables know of each image, by path; say what stands for nobody, and what contradicts."""
        known: dict[str, dict] = {}
        nobody: Counter[str] = Counter()
        against = []
        for path, row, table in self._rows():
            facts, before = metadata_tables.facts_of(row, table.columns, nobody), known.get(path)
            if before and not all(map(_agree, map(facts.get, _WHOSE), map(before.get, _WHOSE))):
                against.append(os.path.relpath(path, self.root))
            known[path] = facts | before if before else facts
        self.unused.add(
            "{n} images in '{where}' have several lesions or patients by their rows, of which the first counts", against
        )
        warn_of_nobody(nobody, str(self.root))
        return known

    def kinds(self) -> dict[str, str]:
        """Return what is no dermoscopy by any row, by path."""
        kinds = ((path, metadata_tables.kind_of(row, table.columns)) for path, row, table in self._rows("image_type"))
        return {path: kind for path, kind in kinds if kind != "dermoscopic"}

    def splits(self) -> dict[str, str]:
        """Return the shipped split of each image by the tables' own columns: `test` where any row says so."""
        found: dict[str, str | None] = {}
        for path, row, table in self._rows("split"):
            found[path] = _settled_split(found.get(path), metadata_tables.split_of(row, table.columns))
        return {path: split for path, split in found.items() if split}

    def _rows(self, field: str | None = None) -> Iterator[tuple[str, dict, metadata_tables.Table]]:
        """Yield each image's path with each row that means it, and its table, of the tables with that field."""
        for table, match in self.matches:
            if field is None or field in table.columns:
                yield from ((path, row, table) for path, rows in match.rows.items() for row in rows)

    def report(self) -> None:
        """Collect what the folder's own tables hold and nothing uses."""
        for table, match in self.own:
            name = table.path.relative_to(self.root).as_posix()
            self.unused.add(f"{{n}} rows of '{name}' name no image", table.nameless)
            if not table.entries and not table.nameless:
                self.unused.add("{n} tables in '{where}' have a header and no rows", [name])
            if not match.rows:
                kept = f"'{name}' in '{{where}}' means no image that is there, so that its {{n}} rows are not used"
                self.unused.add(kept, match.without_file or [row for _, row in match.contested])
            elif match.without_file:
                self.unused.add("{n} rows of '{where}' have no image", match.without_file)
            if match.contested:
                files = dict.fromkeys(path for path, _ in match.contested)
                self.unused.add("{n} images are meant by several rows each, so that none is taken", files)
            shifted = f"{{n}} rows of '{name}' have more cells than it has columns, and may be shifted"
            self.unused.add(shifted, table.overlong)
            unread = table.unused_columns if match.rows else ()
            self.unused.add(f"{{n}} columns of '{name}' are not used (--columns FIELD=COLUMN reads one)", unread)

    def without_row(self) -> list[str]:
        """Return the images that no table means, each name once."""
        matched = {path for _, match in self.matches for path in match.rows}
        return list({_stem(path): os.path.basename(path) for path in self.images if path not in matched}.values())


def _agree(one: str | None, other: str | None) -> bool:
    """Tell whether two ids may be one: in another spelling, or a lesion's number with and without its patient."""
    a, b = identifiers.key(one or ""), identifiers.key(other or "")
    return not a or not b or a == b or f"_{one}".endswith(f"_{other}") or f"_{other}".endswith(f"_{one}")


def warn_of_nobody(nobody: Counter, where: str) -> None:
    """Say which ids of patients and lesions were taken for nobody's, but for those that are just empty."""
    words = {word: n for word, n in nobody.items() if word.casefold() not in ("nan", "none", "null", "na", "n/a")}
    if words:
        each = ", ".join(f"{n} '{word}'" for word, n in words.items())
        logger.warning("ids of '%s' that name no patient and no lesion, and join no images: %s", where, each)


def _records(folder: _Folder, columns: metadata_tables.Columns) -> list[Record]:
    root = folder.root
    folder.report()
    if _has_class_folders(root):
        return _class_folders(folder)
    if folder.labelling:
        return _from_tables(folder)
    if any(os.path.dirname(path) == str(root) for path in folder.images):
        columns.check()  # which may be why
        folder.unused.report()
        raise UsageError(
            f"'{root}' has images and nothing that says what they show: put them into one folder a diagnosis, or the "
            "source's own table beside them (HAM10000_metadata.csv, an ISIC ground truth, metadata.csv)."
        )
    return _class_folders(folder)


def _twins(files: Iterable[Path]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for first, second in metadata_tables.twins(files):
        found.setdefault(first, []).append(second)
    return found


def labelled(found: list[Record], where: str, labels: tuple[str, ...] = taxonomy.DIAGNOSES) -> list[Record]:
    """Return the records whose name stands for one of the labels, with that; say what is left out.

    Args:
        found: under the source's own names.
        where: the source.
        labels: `DIAGNOSES` or `MALIGNANCIES`.

    Raises:
        UsageError: names that nobody knows, only benign and malignant where a diagnosis is asked, or no label at all.
    """
    binary = labels == taxonomy.MALIGNANCIES
    kept, left_out, unknown = [], Counter(), []
    for record in found:
        try:
            label = _malignancy(record) if binary else taxonomy.find(record.name, known=_known(record))
        except KeyError as error:
            unknown.append(error.args[0])
            continue
        if label is None:
            left_out[record.name.split(":")[-1]] += 1
        else:
            kept.append(dataclasses.replace(record, name=label))
    of_lists = [name for name in unknown if name.startswith(("[", "{"))]
    if of_lists:
        raise UsageError(
            f"'{where}' gives a list as the diagnosis of an image ({of_lists[0][:60]}), not one name: give each image "
            "one, or name another column (--columns label=COLUMN)."
        )
    if unknown:
        names = list(dict.fromkeys(unknown))
        more = f" And {len(names) - 5} more such names." if len(names) > 5 else ""
        raise UsageError(f"'{where}': {taxonomy.none_of_the_nine(names[:5], binary=binary)}{more}")
    if left_out and not kept:
        raise _nothing_left(left_out, where, binary=binary)
    if left_out:
        total, words = left_out.total(), _in_words(left_out)
        which = (
            "of which it does not say whether they are malignant" if binary else "that are none of the nine diagnoses"
        )
        logger.warning("left out %d images of '%s' %s: %s", total, where, which, words)
    return kept


def names_a_diagnosis(record: Record) -> bool:
    """Tell whether the source has a name for what an image shows that is more than benign or malignant."""
    return taxonomy.plain(record.name) not in taxonomy.SILENT


def _malignancy(record: Record) -> str | None:
    said = taxonomy.malignancy(record.malignancy)
    return said or taxonomy.malignancy(record.name, known=_known(record))


def _known(record: Record) -> str | None:
    return isic9.diagnosis(record.image_id)


def _nothing_left(left_out: Counter, where: str, *, binary: bool) -> UsageError:
    if binary:
        return UsageError(f"'{where}' says of no image whether it is malignant: {_in_words(left_out)}.")
    if any(left_out) and {name.lower() for name in left_out if name} <= taxonomy.BINARY:
        return UsageError(
            f"'{where}' says of its images only whether they are malignant: training needs a diagnosis. Such a set can "
            "be evaluated on."
        )
    return UsageError(f"'{where}' has no image of the nine diagnoses: {_in_words(left_out)}.")


def _in_words(left_out: Counter) -> str:
    names = ", ".join(f"{n} {name or 'without a diagnosis'}" for name, n in left_out.most_common())
    mixed = " and ".join(repr(name) for name in left_out if taxonomy.plain(name) in taxonomy.MIXED)
    why = f" ({mixed} stands for actinic keratosis or squamous cell carcinoma)" if mixed else ""
    return names + why


def _has_class_folders(root: Path) -> bool:
    for _, folder in [*_split_folders(root), (None, root)]:
        for class_folder in _folders(folder):
            if _meaning(class_folder.name) in taxonomy.DIAGNOSES and any(p.is_file() for p in class_folder.iterdir()):
                return True
    return False


def _class_folders(folder: _Folder) -> list[Record]:
    root, splits = folder.root, _split_folders(folder.root)
    _forget_namesakes(folder)
    known, shipped = folder.facts(), folder.splits()
    found = [
        dataclasses.replace(record, shipped_split=_settled_split(record.shipped_split, shipped.get(record.path)))
        for split, place in splits or [(None, root)]
        for class_folder in _folders(place)
        for record in _class_folder(class_folder, split, known, folder.unused)
    ]
    against: Counter[str] = Counter()
    labelling = [(table, match) for table, match in folder.matches if table.names_a_diagnosis]
    found = [_refined(record, labelling, against) for record in found]
    if against:
        words = ", ".join(f"{n} {pair}" for pair, n in against.most_common())
        logger.warning(
            "%d images in '%s' are something else by a table, and keep their folder's name: %s",
            against.total(),
            root,
            words,
        )
    if any(match.rows for _, match in folder.own):
        folder.unused.add("{n} images in '{where}' have no row", folder.without_row())
    aside = [p for p in _folders(root) if p not in [place for _, place in splits]]
    if splits and aside:
        folder.unused.add("left out {n} folders that stand beside the folders of a shipped split", aside)
    places = {str(place) for place in (root, *(place for _, place in splits))}
    loose = [os.path.relpath(path, root) for path in folder.images if os.path.dirname(path) in places]
    folder.unused.add("left out {n} images of '{where}' that lie in no folder of a diagnosis", loose)
    _say_test(found, shipped, root)
    return _dermoscopic(found, folder.kinds(), root)


def _settled_split(one: str | None, other: str | None) -> str | None:
    """Return the shipped split by two that tell: what either calls the test is never trained on."""
    return "test" if "test" in (one, other) else one or other


def _say_test(found: list[Record], shipped: Mapping[str, str], root: Path) -> None:
    tested = sum(shipped.get(record.path) == "test" for record in found)
    if tested:
        logger.warning("%d images of '%s' are the test by its table's split, and not trained on", tested, root)


def _dermoscopic(found: list[Record], kinds: Mapping[str, str], root: Path) -> list[Record]:
    """Return the records without what a table says is no dermoscopy."""
    warn_of_kinds(Counter(kinds[record.path] for record in found if record.path in kinds), str(root))
    return [record for record in found if record.path not in kinds]


def warn_of_kinds(other: Counter, where: str) -> None:
    """Say which images were left out because they are no dermoscopy."""
    if other:
        kinds = ", ".join(f"{n} {kind}" for kind, n in other.most_common())
        logger.warning("left out %d images of '%s' that are no dermoscopy: %s", other.total(), where, kinds)


def _refined(
    record: Record, labelling: Iterable[tuple[metadata_tables.Table, matching.Match]], against: Counter[str]
) -> Record:
    """Return the record with what tables say beyond its folder's name; count where one of them contradicts it."""
    for table, match in labelling:
        for row in match.rows.get(record.path, ()):
            label = metadata_tables.label_of(row, table.columns)
            finer = taxonomy.finer(record.name, label)
            if finer is None and _is_name(label):
                against[f"{record.name} ({label})"] += 1
                return record
            malignancy = record.malignancy or metadata_tables.malignancy_of(row, table.columns)
            record = dataclasses.replace(record, name=finer or record.name, malignancy=malignancy)
    return record


def _class_folder(folder: Path, split: str | None, known: Mapping[str, dict], unused: Unused) -> Iterator[Record]:
    walk = ((below, files) for below, _, files in os.walk(folder) if below != str(folder))
    nested = [os.path.join(below, name) for below, files in walk for name in files]
    unused.add(f"left out {{n}} files below '{folder}'", nested)
    malignancy = folder.name if taxonomy.plain(folder.name) in taxonomy.MALIGNANCIES else ""
    with os.scandir(folder) as entries:
        files = sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))
    for name in files:
        path = os.path.join(folder, name)
        if not _NO_PHOTO.search(_stem(path)) and name.lower() not in _FILES_OF_SYSTEMS:
            yield Record(
                image_id=_image_id(path),
                name=identifiers.clean(folder.name),
                malignancy=malignancy,
                path=path,
                shipped_split=split,
                facts=known.get(path, _NO_FACTS),
            )


def _from_tables(folder: _Folder) -> list[Record]:
    root = folder.root
    for _, match in folder.labelling:
        _refuse_namesakes(match)
    said = _said(folder.labelling)
    matched = {_stem(path) for path in said}
    without_row = {_stem(p): os.path.basename(p) for p in folder.images if p not in said and _stem(p) not in matched}
    folder.unused.add("{n} images in '{where}' have no row", without_row.values())
    if folder.labelling[0] not in folder.own:
        lacking = dict.fromkeys(name for _, match in folder.labelling for name in match.without_file)
        folder.unused.add("{n} rows of '{where}' have no image", lacking)
    _forget_namesakes(folder)
    known, shipped = folder.facts(), folder.splits()
    found = []
    for path in filter(said.__contains__, folder.images):
        label, table, row = said[path]
        malignancy = metadata_tables.malignancy_of(row, table.columns)
        split = metadata_tables.shipped_as(os.path.relpath(path, root).split(os.sep)[:-1])
        split = _settled_split(_settled_split(split, table.shipped_split), shipped.get(path))
        record = Record(image_id=_image_id(path), name=label, malignancy=malignancy, path=path, shipped_split=split)
        found.append(dataclasses.replace(record, facts=known.get(path, _NO_FACTS)))
    _say_test(found, shipped, root)
    return _dermoscopic(found, folder.kinds(), root)


def _said(
    labelling: Iterable[tuple[metadata_tables.Table, matching.Match]],
) -> dict[str, tuple[str, metadata_tables.Table, dict]]:
    """Return the diagnosis of each image in the words of the table that says most, that table and its row.

    Of copies under one name that one row means, the first path stands for all.
    """
    said: dict[str, tuple[str, metadata_tables.Table, dict]] = {}
    copies: dict[tuple[str, int], str] = {}
    for table, match in labelling:
        for path, rows in match.rows.items():
            if copies.setdefault((_stem(path), id(rows)), path) == path:
                for row in rows:
                    _add(said, path, table, row)
    return said


def _add(
    said: dict[str, tuple[str, metadata_tables.Table, dict]], path: str, table: metadata_tables.Table, row: dict
) -> None:
    image_id, label = _image_id(path), metadata_tables.label_of(row, table.columns)
    before, other, _ = said.setdefault(path, (label, table, row))
    finer = taxonomy.finer(before, label)
    if finer is None and other is table:
        raise UsageError(f"'{table.path}' lists {image_id} as '{before}' and as '{label}': keep one row.")
    if finer is None:
        raise UsageError(
            f"two tables disagree about {image_id}: '{before}' in '{other.path}', '{label}' in "
            f"'{table.path}'. Keep the one that is meant."
        )
    if finer != before:
        said[path] = (label, table, row)


def _refuse_namesakes(match: matching.Match) -> None:
    """Refuse different images of one name, of which a row may mean either."""
    same: dict[tuple[str, int], list[str]] = {}
    for path, rows in match.rows.items():
        same.setdefault((_stem(path), id(rows)), []).append(path)
    pairs = [(name, paths[0], matching.other_than_first(paths)) for (name, _), paths in same.items()]
    for name, path, other in [*match.ambiguous, *pairs]:
        if other:
            raise UsageError(
                f"'{path}' and '{other}' are different images of one name, so that a table's '{name}' may "
                "mean either: rename one, in its table too."
            )


def _forget_namesakes(folder: _Folder) -> None:
    """Say which names, but for the archive's numbers, different images bear that a row may mean."""
    found = sorted({name for _, match in folder.matches for name, _, _ in match.ambiguous})
    reason = "{n} names are borne by different images, so that no table's row is taken for them"
    folder.unused.add(reason, found)


def _is_name(word: str) -> bool:
    try:
        taxonomy.find(word)
    except KeyError:
        return False
    return True


def _meaning(name: str) -> str:
    return taxonomy.find(name) or name if _is_name(name) else name


def _split_folders(root: Path) -> list[tuple[str, Path]]:
    splits = [(metadata_tables.shipped_as([folder.name]), folder) for folder in _folders(root)]
    # One without folders of classes is left to a table, or is a class.
    return [(split, folder) for split, folder in splits if split and _has_classes(folder)]


def _has_classes(folder: Path) -> bool:
    """Tell whether a folder that is called like a split is one: `evaluation/figures/` beside the classes is none."""
    below = [path.name for path in folder.iterdir() if path.is_dir()]
    usual = folder.name.lower() in _SIDES
    return bool(below) and (
        usual or any(_is_name(name) or taxonomy.plain(name) in taxonomy.MALIGNANCIES for name in below)
    )


def _folders(root: Path) -> list[Path]:
    """Return the folders that can be a split or a class: one that holds nothing but tables is neither."""
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and not _of_tables(p))


def _of_tables(folder: Path) -> bool:
    found = list(folder.iterdir())
    return bool(found) and all(
        p.is_file() and (metadata_tables.is_table(p) or p.suffix.lower() == ".txt") for p in found
    )
