"""The layout of a folder: its classes, the splits that it ships, and the official tables beside it."""

from pathlib import Path

from dermalert import taxonomy
from dermalert.data import folder_files, id_spaces, metadata_tables, shipped_splits, table_columns


def official_tables(root: Path) -> list[Path]:
    """The tables of the archive and the challenges beside a folder."""
    near = sorted([*root.parent.iterdir(), *(root.parent / "metadata").glob("*")])
    return [path for path in near if folder_files.OFFICIAL_TABLE.match(path.name)]


def say_diagnoses(root: Path, columns: table_columns.Columns) -> bool:
    """Whether folders of classes, or tables in a folder or beside it, say what its images show."""
    classes = [
        *(path.name for path in subfolders(root)),
        *(p.name for _, each in split_folders(root) for p in subfolders(each)),
    ]
    if any(_meaning(name) in taxonomy.DIAGNOSES or taxonomy.plain(name) in taxonomy.MALIGNANCIES for name in classes):
        return True
    tables = metadata_tables.read(folder_files.sort_files(root).tables, columns)
    tables += metadata_tables.read(official_tables(root), table_columns.Columns())
    return any(table.names_a_diagnosis for table in tables)


def has_class_folders(root: Path) -> bool:
    """Whether a folder, or a split of it, has a folder of images that is called like a diagnosis."""
    for folder in [*(folder for _, folder in split_folders(root)), root]:
        for class_folder in subfolders(folder):
            if _meaning(class_folder.name) in taxonomy.DIAGNOSES and any(p.is_file() for p in class_folder.iterdir()):
                return True
    return False


def is_name(word: str) -> bool:
    """Whether a word is a name of lesions."""
    try:
        taxonomy.find(word)
    except KeyError:
        return False
    return True


def _meaning(name: str) -> str:
    return taxonomy.find(name) or name if is_name(name) else name


def split_folders(root: Path) -> list[tuple[str, Path]]:
    """The folders of the shipped splits, each after its split."""
    splits = [(shipped_splits.shipped_as([folder.name]), folder) for folder in subfolders(root)]
    # One without folders of classes is left to a table, or is a class.
    return [(split, folder) for split, folder in splits if split and _has_classes(folder)]


def _has_classes(folder: Path) -> bool:
    """Tell whether a folder that is called like a split is one: `evaluation/figures/` beside the classes is none."""
    below = [path.name for path in folder.iterdir() if path.is_dir()]
    usual = folder.name.lower() in id_spaces.PARTS_OF_A_SPLIT
    return bool(below) and (
        usual or any(is_name(name) or taxonomy.plain(name) in taxonomy.MALIGNANCIES for name in below)
    )


def subfolders(root: Path) -> list[Path]:
    """The folders that can be a split or a class: one that holds nothing but tables is neither."""
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and not _of_tables(p))


def _of_tables(folder: Path) -> bool:
    entries = list(folder.iterdir())
    return bool(entries) and all(
        p.is_file() and (metadata_tables.is_table(p) or p.suffix.lower() == ".txt") for p in entries
    )
