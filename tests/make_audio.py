"""Audio for tests: sounds, and files of any format that FFmpeg writes."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def music(seconds, rate, channels=2, seed=0):
    """Decaying harmonic tones over a little noise: (samples, channels) within +-0.9."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate)) / rate
    sound = 0.02 * rng.standard_normal((len(time_s), channels))
    for number, hz in enumerate((220, 331, 523, 880, 1471, 3000), 1):
        decay = np.exp(-((time_s * number) % 1.3) * 3)
        sound += (0.1 * np.sin(2 * np.pi * hz * time_s) * decay)[:, None]
    return np.clip(sound, -0.9, 0.9)


def encode(path, sound, rate, codec, bit_rate=None, container=None, options=None, **settings):
    """Write (samples, channels) with one of FFmpeg's encoders; `settings`: attributes of it."""
    channels = sound.shape[1]
    layout = {1: "mono", 2: "stereo"}[channels]
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(sound.T, np.float32), "fltp", layout
        )
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        form = stream.codec_context.format or stream.codec.audio_formats[0]
        size = stream.codec_context.frame_size or 4096
        resampler = av.AudioResampler(form.name, layout, rate, size)
        for resampled in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(resampled))
        output.mux(stream.encode(None))
    return path


def mp3_with_cover(path: Path, seconds: float) -> Path:
    """Write an MP3 without a length in its header, whose large cover misleads estimates of it."""
    options = {"write_xing": "0", "id3v2_version": "0"}
    encode(path, music(seconds, 22_050, 1), 22_050, "libmp3lame", 32_000, options=options)
    picture = b"\0image/jpeg\0\3\0" + b"\xff\xd8" + bytes(80_000)
    frame = b"APIC" + struct.pack(">IH", len(picture), 0) + picture
    size = bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\3\0\0" + size + frame + path.read_bytes())
    return path


def piped_flac(path: Path, seconds: float) -> Path:
    """Write a FLAC file as a pipe leaves it: its header knows neither length nor MD5."""
    encode(path, music(seconds, 22_050, 1), 22_050, "flac")
    data = bytearray(path.read_bytes())
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])
    data[26:42] = bytes(16)
    path.write_bytes(data)
    return path
