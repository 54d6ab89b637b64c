"""The picture of a DICOM file, and nothing else of it: who the patient is, is never read."""

import importlib.util
import io
import logging
import warnings
from typing import Any

from PIL import Image

ADVICE = "export its image as JPEG or PNG"

_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")  # baseline and extended
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5")  # little endian, and run lengths
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "MONOCHROME1", "MONOCHROME2")
_TAGS = (
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)
"""What is read. The names of the patient, the physician and the clinic are not among them."""


class NoPicture(ValueError):
    """The file holds no picture that is read here; the text says why, and what to do."""


def is_readable() -> bool:
    """Whether pydicom is installed."""
    return importlib.util.find_spec("pydicom") is not None


def picture(content: bytes, max_pixels: int) -> bytes | Image.Image:
    """The picture of a DICOM file: the JPEG that lies in it, as it is, or else its pixels, RGB or grey.

    Raises:
        NoPicture: it holds several pictures, none, or one of a kind that is not read.
    """
    dataset = _read(content)
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise NoPicture(f"it is a DICOM file of several pictures: {ADVICE}")
    if "PixelData" not in dataset:
        raise NoPicture(f"it is a DICOM file without a picture: {ADVICE}")
    if dataset.PhotometricInterpretation not in _COLOURS:
        raise NoPicture(f"it is a DICOM file with colours that are not read here: {ADVICE}")
    if _syntax(content) in _JPEG:
        return _jpeg(dataset)
    if dataset.BitsAllocated != 8:
        raise NoPicture(f"it is a DICOM file with {dataset.BitsAllocated} bits a pixel, not 8: {ADVICE}")
    if dataset.Rows * dataset.Columns > max_pixels:
        raise NoPicture(f"it is a DICOM file of {dataset.Columns} x {dataset.Rows} pixels: shrink it")
    return _pixels(dataset)


def _read(content: bytes) -> Any:
    """What `_TAGS` say, and how the pixels are packed."""
    import pydicom

    # Its warnings repeat what stands in the file.
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    if _syntax(content) not in (*_JPEG, *_NATIVE):  # before it is read: one of the others unpacks to any size
        raise NoPicture(f"it is a DICOM file, packed in a way that is not read here: {ADVICE}")
    return pydicom.dcmread(io.BytesIO(content), specific_tags=list(_TAGS))


def _syntax(content: bytes) -> str:
    """How a file says that it is packed: the element (0002,0010), which is never packed itself."""
    _, _, rest = content[132:4096].partition(b"\x02\x00\x10\x00UI")
    return rest[2 : 2 + int.from_bytes(rest[:2], "little")].rstrip(b"\0 ").decode("ascii", "replace")


def _jpeg(dataset: Any) -> bytes | Image.Image:
    from pydicom.encaps import generate_frames

    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    start = frame.find(b"\xff\xd8")
    if start < 0:
        raise NoPicture(f"it is a DICOM file whose picture is damaged: {ADVICE}")
    frame = frame[start:]
    # JPEG itself says nothing of colours: without Adobe's note Pillow takes three channels for brightness and two hues.
    if dataset.PhotometricInterpretation == "RGB" and b"Adobe" not in frame[:4096]:
        raise NoPicture(f"it is a DICOM file with a JPEG of unusual colours: {ADVICE}")
    return frame


def _pixels(dataset: Any) -> Image.Image:
    from pydicom.pixels.utils import pixel_array

    pixels = pixel_array(dataset)  # as RGB, or grey
    if dataset.PhotometricInterpretation == "MONOCHROME1":  # the least is white
        pixels = 255 - pixels
    return Image.fromarray(pixels)
