"""Copies of HEIC photos and of the pictures of DICOM files, in a format that every reader of images knows.

A data set that is published holds its files as they are: so neither the patient of a DICOM file nor the place where a
phone took a photo may come along.
"""

import hashlib
from pathlib import Path

from dermalert_space import dicom, files, formats
from dermalert_space.images import MAX_PIXELS, UnreadableImage, open_image, read_image
from PIL import ExifTags, Image

from dermalert.data import folder_files
from dermalert.errors import RunError
from dermalert.imaging.cache_folder import cache_folder

SUFFIXES = frozenset({".dcm", ".dicom", ".heic", ".heif"})


def of(path: str) -> str:
    """The path of a copy, JPEG or PNG; the path itself of another file, or of one that cannot be read.

    Raises:
        RunError: there is no room for the copy.
    """
    if folder_files.suffix(path) not in SUFFIXES:
        return path
    content = Path(path).read_bytes()
    if not (formats.is_dicom(content) or formats.is_heic(content)):
        return path
    copy = cache_folder() / "plain-1" / hashlib.sha256(content).hexdigest()
    for suffix in (".jpg", ".png"):
        if copy.with_suffix(suffix).is_file():
            return str(copy.with_suffix(suffix))
    try:
        return str(_write(content, copy))
    except (UnreadableImage, dicom.NoPicture):  # whoever looks at it says why
        return path
    except OSError as error:
        raise RunError(
            f"a copy of '{path}' cannot be written to '{copy.parent}' ({error.strerror}): make room there, or set "
            "XDG_CACHE_HOME to another folder, and run the same command again."
        ) from error


def _write(content: bytes, copy: Path) -> Path:
    image = read_image(content)
    copy.parent.mkdir(parents=True, exist_ok=True)
    inside = dicom.picture(content, MAX_PIXELS) if formats.is_dicom(content) else None
    if isinstance(inside, bytes) and b"Exif" not in inside:
        with files.atomic_write(copy.with_suffix(".jpg")) as partial:
            partial.write_bytes(inside)
        return copy.with_suffix(".jpg")
    image.info = {}
    with files.atomic_write(copy.with_suffix(".png")) as partial:
        image.save(partial, "PNG", exif=_camera(content))
    return copy.with_suffix(".png")


def _camera(content: bytes) -> Image.Exif:
    """Who made a photo's camera, and no more of what it says."""
    exif = Image.Exif()
    make = None if formats.is_dicom(content) else open_image(content).getexif().get(ExifTags.Base.Make)
    if make:
        exif[ExifTags.Base.Make] = make
    return exif
