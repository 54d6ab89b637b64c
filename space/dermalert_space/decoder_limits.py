"""Find out what a picture asks of its decoder, before it is decoded: some small files ask for hours, or for gigabytes.

Pillow bounds the pixels and the texts of a file, but not the parts that it is made of, each of which takes its time and
memory however short it is: megabytes of them are a few kilobytes in an archive.
"""

import re
import struct

MAX_SCANS = 100
"""Of a progressive JPEG, which has about ten: each is a pass over all pixels, and takes a few bytes to ask for."""

MAX_PASSES = 1_300_000_000
"""Scans of a progressive JPEG times its pixels: ten are usual, and the largest picture may have twice as many."""

MAX_SEGMENTS = 2_000
"""Of a JPEG: tables, metadata and scans; a profile of colours may have 255."""

MAX_CHUNKS = 30_000
"""Of a PNG: some programs write one every 8 kB."""

MAX_STRIPS = 65_536
"""Of a TIFF: one a row, or tiles."""

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # of a JPEG's segment; the others have no length
_FRAMES = {bytes([0xFF, number]) for number in range(0xC0, 0xD0) if number not in (0xC4, 0xC8, 0xCC)}  # say the size
_STRIPS = {273, 324}  # the tags that say where a TIFF's strips and tiles lie


def asks_too_much(content: bytes) -> bool:
    """Whether a file is made of more parts than pictures are; False of what is no picture."""
    if content.startswith(b"\xff\xd8"):
        return _jpeg(content)
    if content.startswith(b"\x89PNG"):
        return _png(content)
    if content.startswith((b"II", b"MM")):
        return _tiff(content)
    # Runs of a compressed bitmap, which hardly any program writes, are drawn one by one.
    return content.startswith(b"BM") and content[30:31] in (b"\1", b"\2") and len(content) > 5_000_000


def _jpeg(content: bytes) -> bool:
    scans, pixels, at = 0, 0, 2
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER.search(content, at)
        if marker is None or marker[0] == b"\xff\xd9":  # the end; behind it lies what the decoder does not read
            return scans > MAX_SCANS or scans * pixels > MAX_PASSES
        scans += marker[0] == b"\xff\xda"
        if marker[0] in _FRAMES:
            height, width = struct.unpack(">HH", content[marker.end() + 3 : marker.end() + 7].ljust(4, b"\0"))
            pixels = max(pixels, height * width)
        at = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
    return True


def _png(content: bytes) -> bool:
    at = 8
    for _ in range(MAX_CHUNKS):
        if at >= len(content):
            return False
        at += 12 + int.from_bytes(content[at : at + 4])
    return True


def _tiff(content: bytes) -> bool:
    order = "<" if content.startswith(b"I") else ">"
    # Where the table of tags lies, how many it has, and each of them: tag, type, count, value.
    where, number, entry = ("8xQ", "Q", "HHQQ") if b"\x2b" in content[2:4] else ("4xI", "H", "HHII")
    try:
        (at,) = struct.unpack_from(order + where, content)
        (tags,) = struct.unpack_from(order + number, content, at)
        at += struct.calcsize(order + number)
        entries = content[at : at + min(tags, 65_535) * struct.calcsize(order + entry)]
        return any(
            tag in _STRIPS and count > MAX_STRIPS for tag, _, count, _ in struct.iter_unpack(order + entry, entries)
        )
    except struct.error:  # cut short, as Pillow will find too
        return False
