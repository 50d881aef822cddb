"""Lengths that headers state and FFmpeg does not pass on; they tell that a file was cut off."""

import io

UNKNOWN_SIZE = 0x7FFF0000  # bytes; a WAV header with this size or more was written by a pipe


def wav_share(file):
    """The share of a WAV file's samples that is there: 1, or less if the file was cut off.

    Crashed recorders leave the size 0, pipes the largest number; both say nothing.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    riff = file.read(12)
    chunk = file.read(8) if riff[:4] == b"RIFF" and riff[8:] == b"WAVE" else b""
    while len(chunk) == 8:
        stated = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            there = max(size - file.tell(), 1)
            return there / stated if there < stated < UNKNOWN_SIZE else 1.0
        file.seek(stated + stated % 2, io.SEEK_CUR)
        chunk = file.read(8)
    return 1.0


def mp3_frames(file):
    """The number of frames that an MP3's Xing header states, or 0 if it has none."""
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
        place = frame.find(name)
        if place > 0 and frame[place + 7] & 1:
            return int.from_bytes(frame[place + 8 : place + 12], "big")
    return 0
