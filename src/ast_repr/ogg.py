"""Ogg's pages: which of them are damaged, and where a chained file's next stream begins.

FFmpeg drops a page with a wrong checksum without an error, and takes a chained file for one stream.
A page (RFC 3533, section 6) begins with "OggS" and carries a CRC-32 of all its bytes.
"""

import zlib
from dataclasses import dataclass

CAPTURE = b"OggS"
HEADER_BYTES = 27  # before the table of segment sizes
CHECKSUM = slice(22, 26)
FIRST_PAGE = 0x02  # flags of the pages that a stream begins and ends with
LAST_PAGE = 0x04
LARGEST_PAGE = HEADER_BYTES + 255 + 255 * 255  # bytes


@dataclass
class Link:
    """One of the streams that follow each other in a chained file; most files have just one.

    Attributes:
        begin, end: its place in the file, in bytes.
        damaged: whether some of it is no valid page.
    """

    begin: int
    end: int
    damaged: bool = False


def is_ogg(file):
    """Whether a binary file begins as Ogg does; its position is back at the start afterwards."""
    file.seek(0)
    start = file.read(len(CAPTURE))
    file.seek(0)
    return start == CAPTURE


def links(file):
    """List the Links of a binary file for which `is_ogg` holds."""
    size = file.seek(0, 2)
    found = [Link(0, size)]
    in_headers, ended, foreign = True, False, False
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
            found[-1].damaged = True
        if begins and not in_headers:
            found[-1].end = position
            found.append(Link(position, size))
        in_headers, ended, foreign = begins, bool(data[5] & LAST_PAGE), False
        position += length
    if foreign and not ended:  # what follows the last page is a tag
        found[-1].damaged = True
    return found


def _page_bytes(data):
    """The length of the page that `data` begins with, or 0 if that is no whole and valid one."""
    if len(data) < HEADER_BYTES or data[:4] != CAPTURE:
        return 0
    segments = data[HEADER_BYTES : HEADER_BYTES + data[26]]
    length = HEADER_BYTES + len(segments) + sum(segments)
    if len(segments) < data[26] or len(data) < length:
        return 0
    page = bytearray(data[:length])
    page[CHECKSUM] = bytes(4)
    return length if _checksum(page) == data[CHECKSUM] else 0


def _checksum(page):
    """The four bytes of a page's CRC: zlib's, but bits in the other order and nothing inverted."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return reflected.to_bytes(4, "big").translate(_REVERSED)


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
