"""Read an image that a stranger sent: bounded, upright, in RGB; or say in one sentence why it cannot be read."""

import functools
import importlib.util
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dermalert_space import decoder_limits, dicom, formats

# A dermoscope's camera gives 12 to 24 million pixels; an image that claims far more is an accident or an attack.
MAX_PIXELS = 64_000_000

MAX_BYTES = 200_000_000
"""Of a file: `MAX_PIXELS` of three bytes fit, uncompressed."""

MAX_SIDE = 65_535
"""Pixels: that of a JPEG. Each row costs memory of its own, however short it is."""

MAX_ASPECT = 30
"""Of an image: its longer side by the shorter one."""

KINDS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
"""What is read, as Pillow calls it: what cameras and dermoscopes write. Pillow knows forty others, some of which start
a program (EPS), or take minutes or gigabytes for a small file (GIF, JPEG 2000). HEIC and DICOM are read too, where
pillow-heif and pydicom are installed."""

_SHRINK = f"shrink it below {MAX_PIXELS:,}, and its sides below {MAX_SIDE + 1:,}."


class UnreadableImage(ValueError):
    """The bytes are no image that can be read; the text says which and why."""


class NoImage(UnreadableImage):
    """The bytes are something else than an image of those kinds that are read; the text says what, and what to do."""


def read_image(source: str | Path | bytes | Image.Image) -> Image.Image:
    """An image as 8-bit RGB, turned upright by its EXIF orientation.

    Transparent parts are laid on white, 16-bit grey is scaled to 8 bits, CMYK and palettes are converted.

    Raises:
        UnreadableImage: none of `KINDS`, cut short, or more than `MAX_PIXELS` or `MAX_SIDE`.
    """
    name = f"'{source}'" if isinstance(source, str | Path) else "the file"
    try:
        image = source if isinstance(source, Image.Image) else open_image(source)
        if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
            raise UnreadableImage(f"it has {image.width} x {image.height} pixels; {_SHRINK}")
        # A processor that keeps the shape makes gigabytes of an image of 60,000 x 2 pixels.
        if max(image.size) > MAX_ASPECT * min(image.size):
            raise UnreadableImage(f"it has {image.width} x {image.height} pixels: too narrow to show a lesion.")
        image.load()
        if isinstance(source, Image.Image):
            return to_rgb(ImageOps.exif_transpose(image))
        ImageOps.exif_transpose(image, in_place=True)  # the largest takes 256 MB, and a copy as much again
        return to_rgb(image)
    except NoImage as error:
        raise NoImage(f"{name} cannot be read as an image: {error}") from error
    except UnreadableImage as error:
        raise UnreadableImage(f"{name} cannot be read: {error}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{name} cannot be read: it has far too many pixels; {_SHRINK}") from error
    except FileNotFoundError as error:
        raise UnreadableImage(f"{name} does not exist.") from error
    # What Pillow raises on broken files is not one type: OSError (cut short), SyntaxError (broken PNG), ValueError,
    # struct.error, MemoryError, ...: any of them means that there is no picture.
    except Exception as error:
        raise UnreadableImage(f"{name} cannot be read as an image: it is damaged or cut short.") from error


def too_large(size: int) -> str:
    """The sentence on a file of more than `MAX_BYTES`."""
    return f"the file has {size / 1e6:,.0f} MB: shrink it below {MAX_BYTES // 1_000_000} MB."


def open_image(source: str | Path | bytes) -> Image.Image:
    """An image of which only the header is read.

    Raises:
        NoImage: it is something else, or holds several pictures.
        UnreadableImage: it is made to keep the decoder busy; and whatever Pillow raises on what is no image.
    """
    # Read whole, because Pillow leaves a file that it cannot read open.
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    kinds: tuple[str, ...] = KINDS
    if formats.is_dicom(content) and dicom.is_readable():
        try:
            inside = dicom.picture(content, MAX_PIXELS)
        except dicom.NoPicture as error:
            raise NoImage(f"{error}.") from error
        if isinstance(inside, Image.Image):
            return inside
        content, kinds = inside, ("JPEG",)
    if formats.is_heic(content) and reads_heic():
        kinds = ("HEIF",)
    elif other := formats.other(content):
        raise NoImage(f"{other}.")
    if decoder_limits.asks_too_much(content):
        raise UnreadableImage("it is made of far more parts than pictures are: save it anew.")
    image = Image.open(io.BytesIO(content), formats=kinds)
    if unfit := formats.unfit(image):
        raise NoImage(f"{unfit}.")
    return image


@functools.cache
def reads_heic() -> bool:
    """Whether pillow-heif is installed; where it is, Pillow is told of it."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def to_rgb(image: Image.Image) -> Image.Image:
    """The same picture as 8-bit RGB: 16-bit grey scaled, transparent parts on white."""
    if image.mode.startswith("I"):  # 16 bits a pixel, or 32 of which so many are used; Pillow would clip at 255
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise UnreadableImage("its values lie outside 16 bits: save it with 8 or 16 bits.")
        if image.mode != "I" or grey.max() > 255:
            grey = np.add(grey, 128, dtype=np.int32) // 257  # rounded
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnreadableImage("its pixels are fractions of no known range: save it with 8 or 16 bits.")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
