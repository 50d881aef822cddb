"""Lengths that WAV and MP3 headers state and FFmpeg does not pass on: they reveal truncation."""

import io
from typing import BinaryIO

UNKNOWN_SIZE = 0x7FFF0000  # bytes; a WAV header with this size or more was written to a pipe


def wav_share(file: BinaryIO) -> float:
    """Return the share of a WAV file's samples that is present: below 1 if it was truncated.

    Crashed recorders leave the size 0, pipes the largest number; both count as complete.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    riff = file.read(12)
    chunk = file.read(8) if riff[:4] == b"RIFF" and riff[8:] == b"WAVE" else b""
    while len(chunk) == 8:
        stated = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            present = max(size - file.tell(), 1)
            return present / stated if present < stated < UNKNOWN_SIZE else 1.0
        file.seek(stated + stated % 2, io.SEEK_CUR)
        chunk = file.read(8)
    return 1.0


def mp3_frames(file: BinaryIO) -> int:
    """Return the number of frames that an MP3's Xing header states, 0 if it has none."""
    file.seek(0)
    tag = file.read(10)
    size = 0
    if tag[:3] == b"ID3":
        for seven_bits in tag[6:]:
            size = size << 7 | seven_bits
        size += len(tag)
    file.seek(size)
    frame = file.read(200)
    for name in (b"Xing", b"Info"):
        position = frame.find(name)
        if position > 0 and frame[position + 7] & 1:
            return int.from_bytes(frame[position + 8 : position + 12], "big")
    return 0
