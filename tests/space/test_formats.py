"""What is said of files that are whole, and no image of those kinds that are read."""

import io

import numpy as np
import pytest
from dermalert_space import batch, dicom, formats, images
from dermalert_space.images import UnreadableImage, read_image
from PIL import Image
from support import hostile
from support.releases import make_image


def iso(brand: bytes, *compatible: bytes) -> bytes:
    size = 16 + 4 * len(compatible)
    return size.to_bytes(4, "big") + b"ftyp" + brand + bytes(4) + b"".join(compatible) + bytes(400)


def pages(format: str, n: int = 3, **how) -> bytes:
    """A file of several pictures."""
    first, *others = (make_image((64, 48), seed=seed) for seed in range(n))
    return hostile.saved(first, format, save_all=True, append_images=others, **how)


def tagged(**tags: int) -> bytes:
    return hostile.saved(make_image(), "TIFF", tiffinfo={int(tag[1:]): value for tag, value in tags.items()})


FILES = {
    "AVIF under a general brand": (iso(b"mif1", b"miaf", b"avif"), "it is an AVIF picture: save it as JPEG or PNG"),
    "AVIF": (iso(b"avif"), "it is an AVIF picture"),
    "CR3": (iso(b"crx "), "it is a camera's raw file: develop it, and save it as JPEG or PNG"),
    "a film": (iso(b"isom", b"mp42"), "it is a video: save one frame of it"),
    "an old film": (b"\0\0\0\x08moov" + bytes(100), "it is a video"),
    "AVI": (b"RIFF\0\0\0\0AVI " + bytes(100), "it is a video or a sound"),
    "DICOM of nothing": (bytes(128) + b"DICM" + bytes(100), "it is a DICOM file, packed in a way that is not read"),
    "DICOM without its preamble": (b"\x08\0\x05\0\x0a\0\0\0ISO_IR 100" + bytes(200), "it is a DICOM file"),
    "GIF": (hostile.saved(make_image(), "GIF"), "it is a GIF: save it as JPEG or PNG"),
    "GIF animation": (pages("GIF"), "it is a GIF"),
    "JPEG 2000": (hostile.saved(make_image(), "JPEG2000"), "it is a JPEG 2000 picture"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "it is a JPEG XL picture"),
    "PDF": (b"\n\n%PDF-1.7\n1 0 obj", "it is a PDF document: save its picture as JPEG or PNG"),
    "SVG": (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg xmlns='...'/>", "it is an SVG drawing: save it"),
    "SVG in two bytes a letter": ("\ufeff<svg/>".encode("utf-16-le"), "it is an SVG drawing"),
    "a web page": (b"<!DOCTYPE html><title>Sign in</title>", "it is a web page: save the picture itself"),
    "RAF": (b"FUJIFILMCCD-RAW 0201" + bytes(100), "it is a camera's raw file"),
    "DNG": (tagged(_50706=1), "it is a camera's raw file"),
    "NEF, whose first picture is a preview": (tagged(_254=1, _330=8), "it is a camera's raw file"),
    "TIFF stack": (pages("TIFF"), "it holds several pictures: save the one to be assessed as JPEG or PNG"),
    "TIFF stack, compressed": (pages("TIFF", compression="tiff_lzw"), "it holds several pictures"),
    "WebP animation": (pages("WEBP"), "it is an animation: save one frame of it as JPEG or PNG"),
    "PNG animation": (pages("PNG"), "it is an animation"),
    "zip": (hostile.archive({"a.png": b"x"}), "it is a zip archive or a document: take the images out of it"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(100), "it is an archive of another kind than zip: unpack it"),
    "an icon": (hostile.saved(make_image((64, 64)), "ICO"), "it is an icon: save it as JPEG or PNG"),
    "a cursor": (b"\0\0\2\0\1\0\x20\x20" + bytes(100), "it is an icon"),
    "TGA": (hostile.saved(make_image(), "TGA"), "it is a TGA picture: save it as JPEG or PNG"),
    "TGA, packed": (hostile.saved(make_image(), "TGA", compression="tga_rle"), "it is a TGA picture"),
    "TGA, grey": (hostile.saved(make_image().convert("L"), "TGA"), "it is a TGA picture"),
    "TGA of few colours": (hostile.saved(make_image().convert("P"), "TGA"), "it is a TGA picture"),
    "PCX": (hostile.saved(make_image(), "PCX"), "it is a picture of a kind that is not read here"),
    "PPM": (hostile.saved(make_image(), "PPM"), "it is a PNM picture"),
    "EPS": (hostile.saved(make_image(), "EPS"), "it is a PostScript drawing"),
    "PSD": (b"8BPS\0\1" + bytes(100), "it is a Photoshop file"),
    "a letter": (b"Dear colleague", "it is none of JPEG, PNG, TIFF, BMP and WebP: save it as JPEG or PNG"),
    "nothing": (b"", "it is empty"),
}


WITHOUT_LIBRARIES = {
    "HEIC of an iPhone": (iso(b"heic", b"mif1", b"heic"), "it is a HEIC photo: save it as JPEG or PNG"),
    "HEIC of another brand": (iso(b"mif1", b"heic"), "it is a HEIC photo: save it as JPEG or PNG"),
    "DICOM": (bytes(128) + b"DICM" + bytes(100), "it is a DICOM file: export its image as JPEG or PNG"),
}


@pytest.mark.parametrize("kind", FILES | WITHOUT_LIBRARIES)
def test_a_whole_file_is_called_what_it_is_and_what_to_do_is_said(kind, tmp_path, monkeypatch):
    if kind in WITHOUT_LIBRARIES:
        monkeypatch.setattr(dicom, "is_readable", lambda: False)
        monkeypatch.setattr(images, "reads_heic", lambda: False)
    content, said = (FILES | WITHOUT_LIBRARIES)[kind]
    (tmp_path / "lesion.jpg").write_bytes(content)
    for source, name in ((content, "the file"), (tmp_path / "lesion.jpg", f"'{tmp_path}/lesion.jpg'")):
        with pytest.raises(UnreadableImage) as error:
            read_image(source)
        assert str(error.value).startswith(f"{name} cannot be read as an image: {said}")
        assert str(error.value).endswith(".") and "damaged" not in str(error.value)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
def test_only_what_is_damaged_is_called_damaged(format):
    content = hostile.saved(make_image((200, 200)), format)
    assert read_image(content).size == (200, 200)
    for length in (30, len(content) // 2):
        with pytest.raises(UnreadableImage, match="cannot be read as an image: it is damaged or cut short"):
            read_image(content[:length])


def with_smaller_copy() -> bytes:
    """A TIFF whose second picture says that it is a copy of the first in small."""
    file = io.BytesIO()
    small = make_image((16, 12))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    make_image().save(file, "TIFF", save_all=True, append_images=[small])
    return file.getvalue()


def test_one_picture_with_something_beside_it_is_read():
    phone = pages("MPO")  # a JPEG with others behind it
    assert phone[:2] == b"\xff\xd8"
    big = hostile.saved(Image.fromarray(np.zeros((600, 600), np.uint16)), "TIFF", big_tiff=True)
    for content in (phone, big, with_smaller_copy(), pages("TIFF", 1), pages("WEBP", 1), pages("PNG", 1)):
        assert read_image(content).mode == "RGB"


def test_a_batch_says_the_same(tmp_path):
    for number, (content, _) in enumerate(FILES.values()):
        (tmp_path / f"{number:02}.jpg").write_bytes(content)
    found = [batch._decode(path.read_bytes(), False) for path in sorted(tmp_path.iterdir())]
    for problem, (_, said) in zip(found, FILES.values(), strict=True):
        assert problem.startswith(f"the file cannot be read as an image: {said}")


def test_nothing_is_said_of_what_is_read():
    for format in ("JPEG", "PNG", "TIFF", "WEBP", "BMP"):
        assert formats.other(hostile.saved(make_image(), format)) is None
