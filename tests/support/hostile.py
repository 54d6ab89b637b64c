"""Files that would bring down a careless server: cut, damaged, lying, bombs, other types, archives with tricks.

    files(folder, 500)  # of every kind some, the same for the same seed

Each is small and quick to write; some are honest pictures in the end, as a random byte may be.
"""

import gzip
import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = {"JPEG": "jpg", "PNG": "png", "TIFF": "tif", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}

NAMES = [
    "../../../../etc/passwd.png",
    "..\\..\\windows\\system32\\evil.png",
    "/etc/cron.d/evil.png",
    "C:\\evil.png",
    "~/authorized_keys.png",
    "line\nbreak\r.png",
    "\x1b[2J\x1b[31mred\x07.png",
    "\u202egnp.exe.png",
    "zero\u200bwidth\ufeff.png",
    '=HYPERLINK("http://localhost").png',
    "@SUM(1+1)*cmd|' /C calc'!A0.png",
    "<img src=x onerror=alert(1)>.png",
    "'; DROP TABLE lesions; --.png",
    "%2e%2e%2fetc%2fpasswd.png",
    "a" * 240 + ".png",
    "e\u0301\u0301\u0301\u0301.png",
    "CON.png",
    " .png ",
    "$(touch evil).png",
]
"""Names that are more than names: paths, control characters, turned lines, formulas, markup, commands."""


def files(folder: Path, n: int, *, seed: int = 0) -> list[Path]:
    """Write n files, of each kind in turn, half of them under a name from `NAMES`; each in a folder of its own."""
    kinds, paths = sorted(KINDS.items()), []
    for number in range(n):
        kind, make = kinds[number % len(kinds)]
        chance = random.Random(f"{seed} {number}")
        name = f"{kind} {number}.{make.ending}"
        if number // len(kinds) % 2:
            stem = chance.choice(NAMES).replace("/", "\u2215").removesuffix(".png")
            name = f"{stem[:200]}.{make.ending}"
        path = folder / f"{number:04}" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(make(chance))
        paths.append(path)
    return paths


KINDS: dict[str, Callable[[random.Random], bytes]] = {}
"""What makes the content of a file of each kind; its attribute `ending` is that of the name."""


def register(name: str, ending: str, make: Callable[[random.Random], bytes]) -> None:
    make.ending = ending
    KINDS[name] = make


def kind(ending: str) -> Callable:
    """Register a function's own name as a kind."""
    return lambda make: register(make.__name__.replace("_", " "), ending, make)


def honest(chance: random.Random, format: str = "PNG", *, size: tuple[int, int] | None = None, **settings) -> bytes:
    """A picture of noise."""
    width, height = size or (chance.randint(20, 200), chance.randint(20, 200))
    noise = np.random.default_rng(chance.getrandbits(32)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return saved(Image.fromarray(noise), format, **settings)


def saved(image: Image.Image, format: str, **settings) -> bytes:
    """The file of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()


# Pictures cut and damaged

for _format, _ending in FORMATS.items():

    def cut(chance: random.Random, format: str = _format) -> bytes:
        content = honest(chance, format)
        return content[: chance.randrange(len(content) // 10, len(content) * 9 // 10)]

    def header(chance: random.Random, format: str = _format) -> bytes:
        return honest(chance, format)[: chance.randint(2, 40)]

    def damaged(chance: random.Random, format: str = _format) -> bytes:
        content = bytearray(honest(chance, format))
        for _ in range(chance.randint(1, 30)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        return bytes(content)

    register(f"cut {_format}", _ending, cut)
    register(f"header of {_format}", _ending, header)
    register(f"damaged {_format}", _ending, damaged)


# Headers that lie, and bombs


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *between: bytes, color: int = 2, bits: int = 8, pixels: bytes | None = None) -> bytes:
    """A black PNG, its rows packed one by one, with chunks before the pixels."""
    if pixels is None:
        row = bytes(1 + (width * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color] * bits + 7) // 8)
        pack = zlib.compressobj(9)
        pixels = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(between) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff(width: int, height: int, *, strips: int = 1, more: tuple = (), data: bytes = b"") -> bytes:
    """An uncompressed grey TIFF that claims so many strips, all at one place."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (277, 1), (278, 1), (279, 1), *more]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries.append(struct.pack("<HHII", 273, 4, strips, 512 if strips > 1 else 600))
    directory = struct.pack("<H", len(entries)) + b"".join(sorted(entries)) + bytes(4)
    return (b"II*\0" + struct.pack("<I", 8) + directory).ljust(512, b"\0") + struct.pack("<I", 600) * strips + data


@kind("bmp")
def bmp_that_claims_too_much(chance: random.Random) -> bytes:
    side = chance.choice([2**31 - 1, -(2**31), 40_000, 0])
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)


@kind("webp")
def webp_that_claims_too_much(chance: random.Random) -> bytes:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    content = bytearray(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    at = content.index(b"VP8X") + 12
    content[at : at + 6] = chance.choice([b"\xfe\x3f\0\xfe\x3f\0", b"\xff\xff\xff\xff\xff\xff"])
    return bytes(content)


@kind("jpg")
def jpeg_that_claims_too_much(chance: random.Random) -> bytes:
    content = bytearray(honest(chance, "JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\x1f\x40\x1f\x40", b"\0\0\0\0"])
    return bytes(content)


@kind("png")
def text_that_unpacks(chance: random.Random) -> bytes:
    text = zlib.compress(bytes(chance.choice([2_000_000, 100_000_000])), 9)
    return png(8, 8, chunk(b"zTXt", b"a\0\0" + text), chunk(b"iTXt", b"a\0\1\0\0\0" + text))


@kind("png")
def texts_that_unpack(_: random.Random) -> bytes:
    text = zlib.compress(bytes(1_000_000), 9)
    return png(8, 8, *(chunk(b"zTXt", b"a%d\0\0" % i + text) for i in range(100)))


@kind("jpg")
def thousands_of_segments(chance: random.Random) -> bytes:
    content = honest(chance, "JPEG")
    return content[:2] + chance.choice([b"\xff\xfe\0\2", b"\xff\xe1\0\4xx"]) * 50_000 + content[2:]


def scans(content: bytes, more: int) -> bytes:
    """A progressive JPEG whose last scan is there many times more; each costs a pass over all pixels."""
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last[:200] * more + content[-2:]


@kind("bmp")
def bmp_of_short_runs(_: random.Random) -> bytes:
    runs = b"\1\0" * 200_000
    numbers = (54 + 1024 + len(runs), 0, 0, 54 + 1024, 40, 5000, 5000, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", *numbers) + bytes(1024) + runs


@kind("gif")
def thousands_of_frames(chance: random.Random) -> bytes:
    content = saved(Image.new("P", (50, 50)), "GIF")
    frame = content[content.index(b"\x2c\0\0\0\0") : -1]
    return content[:-1] + frame * chance.choice([2_000, 20_000]) + b";"


@kind("webp")
def hundreds_of_frames(_: random.Random) -> bytes:
    frames = [Image.new("RGB", (64, 64), (i, 0, 0)) for i in range(200)]
    return saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])


@kind("jpg")
def metadata_that_lie(chance: random.Random) -> bytes:
    directory = struct.pack("<HHHIII", 1, 0x8769, 4, 2**32 - 1, 8, 8) * chance.randint(1, 500)
    return honest(chance, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + directory)


@kind("jpg")
def turned_in_no_known_way(chance: random.Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = chance.choice([0, 9, 99, 65535])
    exif[0x010E] = "Patient: Jane Doe"
    return honest(chance, "JPEG", exif=exif.tobytes())


@kind("jpg")
def second_picture_out_of_reach(chance: random.Random) -> bytes:
    content = bytearray(
        saved(Image.new("RGB", (40, 40)), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    )
    at = content.index(b"MPF\0")
    for i in range(at + 12, at + 60):
        content[i] = chance.randrange(256)
    return bytes(content)


# Other types

_OTHERS: dict[str, tuple[str, bytes]] = {
    "nothing": ("jpg", b""),
    "one byte": ("png", b"\x89"),
    "zeros": ("jpg", bytes(100_000)),
    "white space": ("jpg", b" \r\n\t" * 1000),
    "letter": ("jpg", b"This is a letter, not a picture.\n" * 100),
    "table": ("csv", b"file,label\na.jpg,nevus\n"),
    "web page": ("jpg", b"<!doctype html><script>fetch('http://127.0.0.1/')</script>"),
    "drawing": ("svg", b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script></svg>'),
    "drawing that reads files": (
        "svg",
        b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg">&x;</svg>',
    ),
    "a billion laughs": (
        "svg",
        b'<!DOCTYPE l [<!ENTITY a "ha">'
        + b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
        + b"]><svg>&j;</svg>",
    ),
    "PostScript": (
        "eps",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) (w) file closefile\nshowpage\n",
    ),
    "document": (
        "pdf",
        b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\ntrailer<</Root 1 0 R>>",
    ),
    "program": ("jpg", b"\x7fELF\2\1\1" + bytes(500)),
    "script": ("png", b"#!/bin/sh\ntouch /tmp/evil\n"),
    "pickle": ("jpg", pickle.dumps({"a": 1})),
    "weights": ("jpg", struct.pack("<Q", 2**60) + b"{}"),
    "JSON of many brackets": ("json", b"[" * 100_000),
    "JSON": ("json", json.dumps({"path": "/etc/passwd"}).encode()),
    "gzip bomb": ("gz", gzip.compress(bytes(10_000_000), mtime=0)),
    "tape": ("tar", b"../../evil".ljust(257, b"\0") + b"ustar\0" + bytes(700)),
    "seven-zip": ("7z", b"7z\xbc\xaf\x27\x1c" + bytes(100)),
    "rar": ("zip", b"Rar!\x1a\x07\x01\0" + bytes(100)),
    "DICOM": ("dcm", bytes(128) + b"DICM" + bytes(500)),
    "HEIC": ("heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)),
    "AVIF": ("avif", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(200)),
    "video": ("mp4", b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(200)),
    "metafile": ("wmf", b"\xd7\xcd\xc6\x9a\0\0" + bytes(200)),
    "font": ("ttf", b"\0\1\0\0" + bytes(200)),
}
for _name, (_ending, _content) in _OTHERS.items():
    register(_name, _ending, lambda _, content=_content: content)

# Pictures that Pillow would open and that are not read.
for _format, _ending in {
    "ICO": "ico",
    "JPEG2000": "jp2",
    "PCX": "pcx",
    "TGA": "tga",
    "PPM": "ppm",
    "EPS": "eps",
}.items():
    register(f"picture as {_format}", _ending, lambda chance, format=_format: honest(chance, format))


# Archives


def archive(members: dict[str, bytes], **settings) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", settings.pop("compression", zipfile.ZIP_DEFLATED)) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, file.compression)
    return buffer.getvalue()


def with_flags(content: bytes, *, flags: int = 0, size: int | None = None) -> bytes:
    """An archive whose every member has these flags, and claims to have so many bytes."""
    edited = bytearray(content)
    for signature, flags_at, size_at in ((b"PK\3\4", 6, 22), (b"PK\1\2", 8, 24)):
        at = edited.find(signature)
        while at >= 0:
            edited[at + flags_at] |= flags
            if size is not None:
                edited[at + size_at : at + size_at + 4] = struct.pack("<I", size)
            at = edited.find(signature, at + 4)
    return bytes(edited)


@kind("zip")
def archive_of_bad_and_good(chance: random.Random) -> bytes:
    bad = {name: KINDS[name](chance) for name in chance.sample([*_OTHERS, "cut PNG", "cut JPEG"], 5)}
    return archive(bad | {"good.png": honest(chance)})


@kind("zip")
def archive_cut(chance: random.Random) -> bytes:
    content = archive({f"{i}.png": honest(chance) for i in range(3)})
    return content[: chance.randrange(4, len(content))]


@kind("zip")
def archive_damaged(chance: random.Random) -> bytes:
    content = bytearray(archive({f"{i}.png": honest(chance) for i in range(3)}))
    for _ in range(chance.randint(1, 60)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


@kind("zip")
def archive_in_archive(chance: random.Random) -> bytes:
    inner = archive({"a.png": honest(chance)})
    for depth in range(chance.randint(1, 20)):
        inner = archive({f"{depth}.zip": inner})
    return inner


@kind("zip")
def archive_of_one_member_often(chance: random.Random) -> bytes:
    """Many entries that all lie at the same place, as in the best of bombs."""
    content = archive({"a.png": honest(chance)})
    start = content.index(b"PK\1\2")
    end = content.index(b"PK\5\6")
    entries = content[start:end] * 300
    return content[:start] + entries + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 300, 300, len(entries), start, 0)


@kind("zip")
def archive_with_a_link(_: random.Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        link = zipfile.ZipInfo("link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        file.writestr(link, "/etc/passwd")
    return buffer.getvalue()


OF_ONE_LINE: dict[str, dict[str, Callable]] = {
    "png": {
        "millions of pixels": lambda c: png(
            *c.choice([(8000, 7000), (4000, 4000), (3_000_000, 16), (16, 3_000_000)]), color=c.choice([0, 2, 6])
        ),
        "png that claims too much": lambda c: png(
            *c.choice([(60_000, 60_000), (2**31 - 1, 2**31 - 1), (8001, 8000), (2**31 - 1, 1), (0, 0)]), pixels=b""
        ),
        "profile that unpacks": lambda _: png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000_000), 9))),
        "thousands of chunks": lambda _: png(8, 8, chunk(b"abCd", b"") * 50_000),
        "one pixel or few": lambda c: honest(
            c, size=c.choice([(1, 1), (3, 3), (1, 3), (3, 1), (4, 4), (1, 5000), (5000, 1), (3, 500)])
        ),
        "in a rare mode": lambda c: saved(Image.new(c.choice(["1", "LA", "L", "I;16", "RGBA", "P"]), (30, 30)), "PNG"),
        "picture with a page behind": lambda c: honest(c) + b"<script>alert(1)</script>",
    },
    "gif": {
        "gif that claims too much": lambda _: (
            b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + b"\x2c" + bytes(9) + b"\2\0;"
        )
    },
    "tif": {
        "tiff that claims too much": lambda c: tiff(
            *c.choice([(2**32 - 1, 2**32 - 1), (2**31, 1), (9000, 9000), (0, 5)])
        ),
        "tiff with too many strips": lambda _: tiff(8, 8, strips=300_000),
        "tiff that goes in circles": lambda c: tiff(
            8, 8, more=((330, 8), (34665, 8), (c.choice([34853, 700]), 8)), data=bytes(200)
        ),
        "tiff deflated": lambda _: saved(Image.new("L", (7000, 7000)), "TIFF", compression="tiff_adobe_deflate"),
        "tiff of fractions": lambda c: saved(
            Image.new("F", (30, 30), c.choice([float("nan"), float("inf"), 0.5])), "TIFF"
        ),
        "tiff of odd numbers": lambda c: saved(Image.new("I", (30, 30), c.choice([-1, 2**31 - 1, 70_000])), "TIFF"),
    },
    "jpg": {
        "thousands of scans": lambda c: scans(honest(c, "JPEG", size=(1000, 1000), progressive=True), 3000),
        "random bytes": lambda c: c.randbytes(c.randint(1, 100_000)),
        "picture with an archive behind": lambda c: honest(c, "JPEG") + archive({"../evil.sh": b"#!/bin/sh\n"}),
    },
    "psd": {"layers": lambda _: b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 30_000, 30_000, 8, 3) + bytes(100)},
    "zip": {
        "empty archive": lambda _: archive({}),
        "archive that slips": lambda c: archive({name: honest(c, size=(20, 20)) for name in c.sample(NAMES, 6)}),
        "archive locked": lambda c: with_flags(archive({"locked.png": honest(c)}), flags=1),
        "archive packed otherwise": lambda c: archive(
            {"a.png": honest(c)}, compression=c.choice([zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
        ),
        "archive bomb": lambda c: archive({"bomb.bmp": bytes(c.choice([20_000_000, 250_000_000]))}),
        "archive that claims less": lambda c: with_flags(
            archive({"bomb.bmp": bytes(20_000_000)}), size=c.choice([0, 1000])
        ),
        "archive that claims more": lambda c: with_flags(
            archive({"a.png": honest(c)}), size=c.choice([2**32 - 2, 150_000_000, 900_000])
        ),
        "archive of thousands": lambda c: archive({f"{i}.png": b"" for i in range(c.choice([500, 2000]))}),
        "archive of folders": lambda _: archive({f"{'deep/' * i}": b"" for i in range(1, 200)}),
    },
    "docx": {
        "office document": lambda _: archive({"[Content_Types].xml": b"<Types/>", "word/document.xml": b"<document/>"})
    },
}
for _ending, _kinds in OF_ONE_LINE.items():
    for _name, _make in _kinds.items():
        register(_name, _ending, _make)
