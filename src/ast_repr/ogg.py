"""Ogg pages: find damaged ones, and the streams of a chained file.

FFmpeg drops a page with a wrong checksum without an error, and takes a chained file for one stream.
A page (RFC 3533, section 6) begins with "OggS" and carries a CRC-32 of all its bytes.
"""

import io
import zlib
from dataclasses import dataclass
from typing import BinaryIO

CAPTURE = b"OggS"
HEADER_BYTES = 27  # before the table of segment sizes
SERIAL = slice(14, 18)
CHECKSUM = slice(22, 26)
FIRST_PAGE = 0x02  # flag of a stream's first page
LAST_PAGE = 0x04
LARGEST_PAGE = HEADER_BYTES + 255 + 255 * 255  # bytes


@dataclass
class Link:
    """One stream of a chained file; most files have only one.

    Attributes:
        begin, end: byte range in the file.
        damaged: True if it contains anything but valid pages.
    """

    begin: int
    end: int
    damaged: bool = False


def links(file: BinaryIO) -> list[Link]:
    """List the streams of a binary file; a file that is not Ogg counts as one."""
    start = file.read(len(CAPTURE))
    size = file.seek(0, io.SEEK_END)
    if start != CAPTURE:
        return [Link(0, size)]
    streams = [Link(0, size)]
    in_headers = True
    ended = False
    foreign = False  # bytes that are no valid page, since the last one
    position = 0
    while position < size:
        file.seek(position)
        data = file.read(LARGEST_PAGE)
        length = _page_bytes(data)
        if length == 0:
            foreign = True
            following = data.find(CAPTURE, 1)
            # The last three bytes may be the beginning of a capture pattern.
            position += following if following > 0 else max(len(data) - 3, 1)
            continue
        begins = bool(data[5] & FIRST_PAGE)
        if foreign and not (ended and begins):
            streams[-1].damaged = True
        if begins and not in_headers:
            streams[-1].end = position
            streams.append(Link(position, size))
        in_headers = begins
        ended = bool(data[5] & LAST_PAGE)
        foreign = False
        position += length
    if foreign and not ended:  # after the last page it would be a tag
        streams[-1].damaged = True
    return streams


def with_serial(data: bytes, serial: int) -> bytes:
    """Replace the stream's serial number in each page of a valid Ogg file."""
    pages = []
    position = 0
    while position < len(data):
        page = bytearray(data[position : position + _page_bytes(data[position:])])
        position += len(page)
        page[SERIAL] = serial.to_bytes(4, "little")
        page[CHECKSUM] = bytes(4)
        page[CHECKSUM] = _checksum(page)
        pages.append(page)
    return b"".join(pages)


def _page_bytes(data: bytes) -> int:
    """Return the length of the page at the start of `data`, 0 if it is incomplete or invalid."""
    if len(data) < HEADER_BYTES or data[:4] != CAPTURE:
        return 0
    segments = data[HEADER_BYTES : HEADER_BYTES + data[26]]
    length = HEADER_BYTES + len(segments) + sum(segments)
    if len(segments) < data[26] or len(data) < length:
        return 0
    page = bytearray(data[:length])
    page[CHECKSUM] = bytes(4)
    return length if _checksum(page) == data[CHECKSUM] else 0


def _checksum(page: bytearray) -> bytes:
    """Compute a page's CRC: zlib's with the bits in reverse order and no inversion."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return reflected.to_bytes(4, "big").translate(_REVERSED)


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
