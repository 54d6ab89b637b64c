"""Recognise by its content what a file is that is not read here, so that a whole file is not called damaged."""

import contextlib
import io

from PIL import Image, TiffImagePlugin

from dermalert_space import dicom

SAVE, FRAME, _UNPACK = (
    "save it as JPEG or PNG",
    "save one frame of it as JPEG or PNG",
    "unpack it, or make a zip of it",
)

_READ = (b"\xff\xd8", b"\x89PNG", b"BM", b"II*\0", b"II\0*", b"II+\0", b"MM\0*", b"MM*\0", b"MM\0+")
"""What the kinds that are read begin with, beside WebP."""

BEGINS = {
    (b"GIF87a", b"GIF89a"): f"a GIF: {SAVE}",
    (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"): f"a JPEG 2000 picture: {SAVE}",
    (b"\0\0\0\x0cJXL ", b"\xff\x0a"): f"a JPEG XL picture: {SAVE}",
    (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"II\x1a\0", b"FOVb", b"\0MRM"): (
        f"a camera's raw file: develop it, and {SAVE}"
    ),
    (b"8BPS",): f"a Photoshop file: {SAVE}",
    (b"gimp xcf",): f"a GIMP file: {SAVE}",
    (b"%!PS", b"\xc5\xd0\xd3\xc6"): f"a PostScript drawing: {SAVE}",
    (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"Pf", b"PF"): f"a PNM picture: {SAVE}",
    (b"v/1\1", b"#?RADIANCE"): f"a picture of high dynamic range: {SAVE}",
    (b"SIMPLE  =",): f"a FITS file: {SAVE}",
    (b"AT&TFORM",): f"a DjVu document: {SAVE}",
    (b"\x93NUMPY", b"\x89HDF", b"MATLAB"): f"a file of numbers: {SAVE}",
    (b"\xd7\xcd\xc6\x9a",): f"a Windows drawing: {SAVE}",
    (b"DDS ", b"qoif", b"BPG\xfb", b"\x0a\5\1"): f"a picture of a kind that is not read here: {SAVE}",
    (b"PK\3\4", b"PK\5\6"): "a zip archive or a document: take the images out of it",
    (b"Rar!", b"7z\xbc\xaf", b"\x1f\x8b", b"BZh", b"\xfd7zXZ"): f"an archive of another kind than zip: {_UNPACK}",
    (b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"FLV\1"): f"a video: {FRAME}",
    (b"\xd0\xcf\x11\xe0",): "an office document: take the images out of it",
}
"""What a file begins with, and what it is."""

_HEIC = b"heic heix heim heis hevc hevx hevm hevs mif1 msf1 mif2"
BRANDS = {
    b"avif avis": f"an AVIF picture: {SAVE}",
    _HEIC: f"a HEIC photo: {SAVE} (pillow-heif, installed here, would read it)",
    b"crx ": f"a camera's raw file: develop it, and {SAVE}",
}
"""Of an ISO media file what stands in its first box, and what it is; what has none of these is a video."""

_TGA = (b"\0\2", b"\0\3", b"\1\1", b"\0\x0a", b"\0\x0b", b"\1\x09")  # a colour table or none, and the kind
_TGA_DEPTHS = (b"\1", b"\x08", b"\x0f", b"\x10", b"\x18", b"\x20")  # bits a pixel

_BARE_DICOM = tuple(bytes((group, 0, element, 0)) for group in (2, 8) for element in (0, 1, 5, 8, 22))


def is_dicom(content: bytes) -> bool:
    """Whether a file says that it is DICOM."""
    return content[128:132] == b"DICM"


def is_heic(content: bytes) -> bool:
    """Whether a file says that it is a HEIC photo."""
    return content[4:8] == b"ftyp" and _brand(content) == _HEIC


def other(content: bytes) -> str | None:
    """What a file is that is none of the kinds that are read, and what to do; None where it begins as those."""
    if content.startswith(_READ) or (content[:4], content[8:12]) == (b"RIFF", b"WEBP"):
        return None
    if not content:
        return "it is empty"
    for beginnings, what in BEGINS.items():
        if content.startswith(beginnings):
            return f"it is {what}"
    return _deeper(content) or f"it is none of JPEG, PNG, TIFF, BMP and WebP: {SAVE}"


def _deeper(content: bytes) -> str | None:
    """The same of a file that does not say so at its very beginning."""
    text = content[:4096].replace(b"\0", b"").lower()  # two bytes a letter are as good
    if is_dicom(content):
        return f"it is a DICOM file: {dicom.ADVICE} (pydicom, installed here, would read it)"
    if content.startswith(_BARE_DICOM):
        return f"it is a DICOM file without its header: {dicom.ADVICE}"
    if content[4:8] == b"ftyp":
        return f"it is {_iso_media(content)}"
    if content[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip"):
        return f"it is a video: {FRAME}"
    if content.startswith(b"RIFF"):
        return f"it is a video or a sound: {FRAME}"
    if b"%pdf-" in text[:1024]:
        return "it is a PDF document: save its picture as JPEG or PNG"
    if b"<svg" in text:
        return f"it is an SVG drawing: {SAVE}"
    if b"<html" in text or b"<!doctype html" in text:
        return "it is a web page: save the picture itself as JPEG or PNG"
    if content[257:262] == b"ustar":
        return f"it is an archive of another kind than zip: {_UNPACK}"
    # An icon's third number is how many pictures it holds; of a TGA, which may begin alike, it is 0.
    if content[:4] in (b"\0\0\1\0", b"\0\0\2\0") and content[4:6] != b"\0\0":
        return f"it is an icon: {SAVE}"
    if content[1:3] in _TGA and content[16:17] in _TGA_DEPTHS:
        return f"it is a TGA picture: {SAVE}"
    return None


def _iso_media(content: bytes) -> str:
    return BRANDS.get(_brand(content), f"a video: {FRAME}")


def _brand(content: bytes) -> bytes:
    """Which of `BRANDS` an ISO media file is."""
    size = int.from_bytes(content[:4])
    brands = [content[8:12], *(content[at : at + 4] for at in range(16, min(size, 256, len(content)), 4))]
    return next((n for n in BRANDS if any(brand in n.split(b" ") or brand == n for brand in brands)), b"")


def unfit(image: Image.Image) -> str | None:
    """What an opened file holds that is not one picture, and what to do; None where it is one.

    A photo that carries smaller copies or a mask of itself is one picture; so is the first of those that a phone's JPEG
    carries behind it.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        if _is_raw(image):
            return f"it is a camera's raw file: develop it, and {SAVE}"
        return _STACK if _has_pages(image) else None
    if image.format == "HEIF" and getattr(image, "n_frames", 1) > 1:
        return _STACK
    if image.format in ("WEBP", "PNG") and getattr(image, "n_frames", 1) > 1:
        return f"it is an animation: {FRAME}"
    return None


_STACK = "it holds several pictures: save the one to be assessed as JPEG or PNG"
_MOST_PAGES = 16  # that are looked through for one that is a picture of its own

_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _BELOW, _DNG = 254, 259, 262, 330, 50706
_RAW_COMPRESSIONS, _FILTER_ARRAY = {32767, 34713}, {32803, 34892}  # Sony's and Nikon's; of a sensor, before colours


def _is_raw(image: TiffImagePlugin.TiffImageFile) -> bool:
    tags = image.tag_v2
    preview = _number(tags.get(_SUBFILE)) & 1 and _BELOW in tags
    sensor = _number(tags.get(_COMPRESSION)) in _RAW_COMPRESSIONS or _number(tags.get(_PHOTOMETRIC)) in _FILTER_ARRAY
    return bool(_DNG in tags or preview or sensor or _content(image)[8:10] == b"CR")


def _content(image: TiffImagePlugin.TiffImageFile) -> bytes:
    assert isinstance(image.fp, io.BytesIO)  # as `images.open_image` opens it
    return image.fp.getvalue()


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _has_pages(image: TiffImagePlugin.TiffImageFile) -> bool:
    pages = Image.open(io.BytesIO(_content(image)), formats=["TIFF"])
    assert isinstance(pages, TiffImagePlugin.TiffImageFile)
    with contextlib.suppress(Exception):  # what cannot be read behind the first picture is none
        for page in range(1, _MOST_PAGES):
            pages.seek(page)
            if not _number(pages.tag_v2.get(_SUBFILE)) & 0b101:  # neither a smaller copy nor a mask
                return True
    return False
