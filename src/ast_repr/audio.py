"""Decode audio files to waveforms.

Conventions
    waveform: float32, mono, 16 kHz, within +-1, shape (samples,).
    FFmpeg (PyAV) decodes the first audio stream. The length of a file is that of its decoded
    audio; headers are often wrong. Resampling is soxr's "HQ": a tone above the new Nyquist
    frequency is attenuated by 140 dB.

    Channels are averaged. In each second whose mean keeps less than a thousandth (-30 dB) of the
    channels' power they are in opposite phase, and the strongest channel is taken instead.
    Floating-point PCM may exceed +-1; then the whole file is divided by its peak, with a warning.
    Lossy codecs overshoot a little; their samples are clipped, as players do.

Damage
    Undecodable parts are skipped and counted as missing: packets that a decoder refuses, jumps in
    the timestamps, the rest of the length that a header states, invalid Ogg pages. A damaged file
    is an error or, with `damaged=True`, read with a warning.
    Checksums protect Ogg and FLAC: flipped bits are detected. MP3, AAC and WAV have no reliable
    ones: most flipped bits change the audio a little, undetected.
"""

import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import soxr

from . import headers, ogg

SAMPLE_RATE = 16_000  # Hz, of AST's training data
CLIP_SECONDS = 10
CLIP_SAMPLES = CLIP_SECONDS * SAMPLE_RATE
SHORTEST_CLIP = 0.1  # seconds of audio that a clip must have; the rest is padded
LOWEST_RATE = 4_000  # Hz; less is a broken header rather than a recording of music
SILENCE = 1e-4  # largest peak of silence: -80 dB, above the dither of 16 bits (-84 dB)

CANCELLED = 1e-3  # of the channels' power; a mean that keeps less has lost the signal
JITTER = 0.015  # seconds that timestamps may be late without anything missing; Vorbis has 0.012
TOLERANCE = 0.1  # seconds that a file may be shorter than its header says; AAC's padding
DEMUXER_RETRIES = 100  # times in a row that a demuxer may fail

# In these codecs decoding may begin anywhere if it begins a second early: then no sample depends on
# what was skipped. Others are decoded from their start.
SEEKABLE = ("alac", "flac", "mp3", "pcm_", "wavpack")
PREROLL = 1.0  # seconds
MP3_PADDING = 3  # frames, at most, that an encoder adds before and after the audio
OPTIONS = {
    "protocol_whitelist": "none",  # a playlist may not open other files or addresses
    "max_probe_packets": "1",  # more make opening a WAV file (is it DTS?) slower than decoding it
}

Warn = Callable[[str], None]
Missing = list[tuple[float, float]]  # (start in seconds, seconds; 0 if unknown) of missing parts


class AudioError(ValueError):
    """A file that cannot be decoded to a waveform; the message names the file and the reason."""


def decode(
    path: str | Path,
    start_s: float = 0.0,
    seconds: float | None = None,
    warn: Warn = warnings.warn,
    damaged: bool = False,
) -> np.ndarray:
    """Decode an audio file, or a part of it.

    Args:
        path: the file.
        start_s: offset of the first sample, in seconds.
        seconds: length to read; None reads to the end.
        warn: called with a line that names the file, if it is damaged or its samples exceed +-1.
        damaged: read the file although parts of it are missing.

    Returns:
        waveform, see Conventions.

    Raises:
        AudioError: the file is missing, empty, not audio, damaged, ends before `start_s`, or has
            non-finite samples.
    """
    blocks = list(_waveform(Path(path), start_s, seconds, warn, damaged))
    if not blocks:
        raise AudioError(f"{path}: no samples at or after {start_s:g} s")
    return np.concatenate(blocks)


def stream(
    path: str | Path, warn: Warn = warnings.warn, damaged: bool = False
) -> Iterator[np.ndarray]:
    """Decode a whole file in memory that does not grow with its length; see `decode`.

    Yields:
        consecutive parts (samples,) of the waveform, of different lengths, none empty.
    """
    empty = True
    for block in _waveform(Path(path), 0.0, None, warn, damaged):
        empty = False
        yield block
    if empty:
        raise AudioError(f"{path}: too short: no samples at 16 kHz")


def clip(
    path: str | Path,
    start_s: float = 0.0,
    shortest_s: float = SHORTEST_CLIP,
    warn: Warn = warnings.warn,
) -> np.ndarray:
    """Decode a clip of ten seconds, padded with zeros if the file ends sooner.

    The stages `prepare` and `extract` both use it, so they agree on which clips are usable.

    Args:
        path, start_s, warn: see `decode`.
        shortest_s: least seconds of audio.

    Returns:
        waveform (160000,).

    Raises:
        AudioError: see `decode`; also for less than `shortest_s` of audio.
    """
    waveform = decode(path, start_s, CLIP_SECONDS, warn)
    seconds = len(waveform) / SAMPLE_RATE
    if seconds < shortest_s:
        where = f" from {start_s:g} s on" if start_s else ""
        raise AudioError(f"{path}: too short: {seconds:.2g} s{where}, expected {shortest_s:g} s")
    return fit(waveform)


def complaint(
    path: str | Path,
    start_s: float = 0.0,
    shortest_s: float = SHORTEST_CLIP,
    warn: Warn = warnings.warn,
) -> str | None:
    """Return the reason why `clip`, with the same arguments, raises AudioError, or None."""
    path = Path(path)
    try:
        clip(path, start_s, shortest_s, warn)
    except AudioError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def duration(path: str | Path) -> float:
    """Return the seconds of a file by decoding it, without missing parts."""
    return sum(len(mono) / rate for _, rate, mono in _seconds(Path(path), 0.0, [], None))


def is_silent(waveform: np.ndarray) -> bool:
    """True if a waveform is silent, apart from dither.

    >>> is_silent(np.zeros(9)), is_silent(np.full(9, 3 / 32768)), is_silent(np.full(9, 0.01))
    (True, True, False)
    """
    return bool(np.abs(waveform).max(initial=0.0) < SILENCE)


def windows(
    blocks: Iterable[np.ndarray], hop: int = CLIP_SAMPLES
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut consecutive blocks into windows of ten seconds; the last one ends with the audio.

    Args:
        blocks: arrays (..., n).
        hop: samples from the start of one window to the next, at least 1; the last may be closer.

    Yields:
        (first sample, array (..., 160000)); a single shorter window if the audio is shorter.

    >>> [(start, part.shape) for start, part in windows([np.zeros(170_000), np.zeros(230_000)])]
    [(0, (160000,)), (160000, (160000,)), (240000, (160000,))]
    """
    kept = None
    end = 0
    start = 0
    for block in blocks:
        kept = block if kept is None else np.concatenate([kept, block], axis=-1)
        end += block.shape[-1]
        begin = end - kept.shape[-1]
        while start + CLIP_SAMPLES < end:
            yield start, kept[..., start - begin : start - begin + CLIP_SAMPLES]
            start += hop
        kept = kept[..., -CLIP_SAMPLES:]
    if kept is not None:
        yield end - kept.shape[-1], kept


def resample(waveform: np.ndarray, rate: float, new_rate: float) -> np.ndarray:
    """Resample (samples,) float32 from `rate` to `new_rate` Hz; rates may be fractional."""
    return waveform if rate == new_rate else soxr.resample(waveform, rate, new_rate, quality="HQ")


def fit(waveform: np.ndarray, samples: int = CLIP_SAMPLES) -> np.ndarray:
    """Truncate (n,), or pad it with zeros at the end, to (samples,)."""
    return np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))


# From decoded frames to the waveform; the last step comes first.


def _waveform(
    path: Path, start_s: float, seconds: float | None, warn: Warn, damaged: bool
) -> Iterator[np.ndarray]:
    """Yield the waveform of a part of a file in non-empty blocks."""
    missing: Missing = []
    blocks = _part(_seconds(path, start_s, missing, warn), start_s, seconds)
    for block in _resampled(blocks):
        if missing and not damaged:
            break
        yield np.clip(block, -1.0, 1.0, out=block)
    if missing and not damaged:
        raise AudioError(f"{path}: {_describe(missing)}; expected all of it, get the file again")
    if missing:
        warn(f"{path}: {_describe(missing)}")


def _describe(missing: Missing) -> str:
    total_s = sum(seconds for _, seconds in missing)
    amount = f"{total_s:.2g} s" if total_s else "a part"
    starts = ", ".join(f"{start_s:.1f} s" for start_s, _ in missing[:3])
    more = f" and {len(missing) - 3} other places" if len(missing) > 3 else ""
    return f"damaged: {amount} missing at {starts}{more}"


def _resampled(blocks: Iterable[tuple[int, np.ndarray]]) -> Iterator[np.ndarray]:
    """Resample (rate, mono) blocks to 16 kHz, without seams between those of one rate."""
    resampler = None
    last_rate = SAMPLE_RATE
    for rate, mono in blocks:
        if rate != last_rate:
            yield from _flushed(resampler)
            last_rate = rate
            resampler = None
            if rate != SAMPLE_RATE:
                resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ")
        block = mono if resampler is None else resampler.resample_chunk(mono)
        if len(block):
            yield block
    yield from _flushed(resampler)


def _flushed(resampler: soxr.ResampleStream | None) -> Iterator[np.ndarray]:
    """Yield the samples that a resampler holds back until its input ends."""
    if resampler is not None:
        block = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        if len(block):
            yield block


def _part(
    blocks: Iterable[tuple[float, int, np.ndarray]], start_s: float, seconds: float | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut (start in seconds, rate, mono) blocks to `seconds` from `start_s` on: (rate, mono)."""
    left_s = sys.maxsize if seconds is None else seconds
    for block_s, rate, mono in blocks:
        first = round(start_s * rate) - round(block_s * rate)
        mono = mono[max(first, 0) :][: round(left_s * rate)]
        if len(mono):
            yield rate, mono
        left_s -= len(mono) / rate
        if round(left_s * rate) == 0:
            return


def _seconds(
    path: Path, begin_s: float, missing: Missing, warn: Warn | None
) -> Iterator[tuple[float, int, np.ndarray]]:
    """Decode a file to mono, a second at a time: (start in seconds, rate, (samples,) float32).

    Audio before `begin_s` may be skipped, and missing parts are appended to `missing`. Blocks end
    at whole seconds of the file, so that they do not depend on `begin_s`; earlier only where the
    audio or its format ends.
    """
    queue = av.AudioFifo()
    kind = None
    start = 0
    end = 0
    for index, frame, peak in _frames(path, begin_s, missing, warn):
        next_kind = (frame.sample_rate, frame.layout.name, frame.format.name, peak)
        if next_kind != kind or index != end:
            if start < end:
                yield _block(queue.read(), start, kind, path)
            queue = av.AudioFifo()
            kind = next_kind
            start = index
            end = index
        frame.pts = None  # the queue would insist on timestamps without jitter
        queue.write(frame)
        end += frame.samples
        rate = frame.sample_rate
        while start // rate < end // rate:
            count = rate - start % rate
            yield _block(queue.read(count), start, kind, path)
            start += count
    if start < end:
        yield _block(queue.read(), start, kind, path)


def _block(
    frame: av.AudioFrame, start: int, kind: tuple, path: Path
) -> tuple[float, int, np.ndarray]:
    """Convert a frame that begins at sample `start` to an item of `_seconds`."""
    rate, _, _, peak = kind
    samples = _to_float(frame)
    if peak > 1:
        samples /= np.float32(peak)
    return start / rate, rate, _downmix(samples, path)


def _to_float(frame: av.AudioFrame) -> np.ndarray:
    """Return the samples of a frame, (channels, n) float32; full scale of integers becomes 1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T
    if samples.dtype == np.uint8:
        samples = samples.astype(np.int16) - 128
        full_scale = 128.0
    elif samples.dtype.kind == "i":
        full_scale = 2.0 ** (8 * samples.dtype.itemsize - 1)
    else:
        full_scale = 1.0
    samples = samples.astype(np.float32, order="C")
    if full_scale != 1:
        samples /= np.float32(full_scale)
    return samples


def _downmix(samples: np.ndarray, path: Path) -> np.ndarray:
    """Average (channels, n) to (n,), or take the strongest channel if they cancel."""
    mono = samples[0]
    if len(samples) > 1:
        mono = reduce(np.add, samples) / len(samples)  # samples.mean(axis=0) takes far longer
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: holds samples that are not finite numbers")
    if len(samples) > 1:
        powers = [np.dot(channel, channel) for channel in samples]
        if np.dot(mono, mono) < CANCELLED * np.mean(powers):
            return samples[np.argmax(powers)]
    return mono


# Decoding by FFmpeg.


def _frames(
    path: Path, begin_s: float, missing: Missing, warn: Warn | None
) -> Iterator[tuple[int, av.AudioFrame, float]]:
    """Decode a file to (number of the first sample, frame, peak of the file if it may exceed 1).

    A chained Ogg file is decoded stream by stream, since their rates may differ.
    """
    with _opened(path) as file:
        if not ogg.is_ogg(file):
            yield from _decoded(path, file, 0.0, begin_s, missing, warn)
            return
        links = ogg.links(file)
        end_s = 0.0
        for link in links:
            file.seek(link.begin)
            part = io.BytesIO(file.read(link.end - link.begin)) if len(links) > 1 else file
            known = len(missing)
            try:
                for index, frame, peak in _decoded(path, part, end_s, begin_s, missing, warn):
                    end_s = (index + frame.samples) / frame.sample_rate
                    yield index, frame, peak
            except AudioError:
                if link is links[0]:
                    raise
                link.damaged = True
            if link.damaged and len(missing) == known:
                missing.append((end_s, 0.0))  # no timestamp tells how long the last page was


def _decoded(
    path: Path, file: BinaryIO, start_s: float, begin_s: float, missing: Missing, warn: Warn | None
) -> Iterator[tuple[int, av.AudioFrame, float]]:
    """Decode an open file that begins at `start_s`; see `_frames` and `_seconds`."""
    with _container(path, file) as (container, stream):
        peak = _peak(path) if _is_float_pcm(stream) else 1.0
        if peak > 1 and warn:
            warn(f"{path}: samples of up to {peak:.6g}, expected at most 1; all are divided by it")
        skip_s = math.floor(begin_s) - start_s - PREROLL if _is_seekable(stream) else 0.0
        position_s = start_s  # of the next sample
        due_s = None  # timestamp of the next sample
        lost = False
        for frame in _decoded_packets(container, stream, skip_s):
            if frame is None:
                lost = True
                continue
            rate = frame.sample_rate
            time_s = frame.time
            if rate < LOWEST_RATE:
                raise AudioError(f"{path}: a rate of {rate} Hz, expected at least {LOWEST_RATE}")
            late_s = 0.0 if time_s is None or due_s is None else max(time_s - due_s, 0.0)
            if lost or late_s > JITTER:
                if position_s + late_s >= begin_s:
                    missing.append((position_s, late_s))
                position_s += late_s
                lost = False
            yield round(position_s * rate), frame, peak
            length_s = frame.samples / rate
            position_s += length_s
            due_s = None if time_s is None else time_s + length_s
        if lost and position_s == start_s:
            raise AudioError(f"{path}: not readable as audio (none of its packets can be decoded)")
        if position_s < start_s + skip_s:
            return  # the file ends before the wanted part
        left_s = _stated_s(container, stream, file) - (position_s - start_s)
        # A packet that is refused at the end is a tag if the audio has its full length.
        if left_s > TOLERANCE or (lost and not left_s < 1 / LOWEST_RATE):
            missing.append((position_s, max(0.0, left_s)))


def _decoded_packets(
    container: Any, stream: av.AudioStream, skip_s: float
) -> Iterator[av.AudioFrame | None]:
    """Yield the frames of a stream, and None in place of refused or skipped ones.

    Packets that end before `skip_s`, counted from the first sample, are not decoded.
    """
    first_s = None  # timestamp of the first sample
    skipped = False
    for packet in _packets(container, stream):
        if packet is None:
            yield None
            continue
        if skip_s > 0 and first_s is not None and _end_s(packet) < first_s + skip_s:
            skipped = True
            continue
        try:
            frames = packet.decode()
        except av.FFmpegError:
            yield None
            continue
        for frame in frames:
            if skipped:
                yield None
                skipped = False
            if first_s is None:
                first_s = frame.time
            yield frame


@contextmanager
def _container(path: Path, file: BinaryIO) -> Iterator[tuple[Any, av.AudioStream]]:
    """Open a file with FFmpeg: (container, its first audio stream)."""
    try:
        container = av.open(file, options=OPTIONS)
    except av.FFmpegError as error:
        raise AudioError(
            f"{path}: not readable as audio ({error.strerror}); expected a format that FFmpeg reads"
        ) from error
    with container:
        if not container.streams.audio:
            raise AudioError(f"{path}: not readable as audio (a file of another kind)")
        stream = container.streams.audio[0]
        context = stream.codec_context
        if context is None:
            raise AudioError(f"{path}: not readable as audio (unknown codec); convert it to FLAC")
        context.thread_count = 1  # callers work on many files at once
        if context.codec.lossless and not context.name.startswith("pcm_"):
            context.options = {"err_detect": "crccheck+explode"}
        yield container, stream


def _packets(container: Any, stream: av.AudioStream) -> Iterator[av.Packet | None]:
    """Yield the packets of a stream, and None in place of those that the demuxer refuses."""
    failures = 0
    while failures < DEMUXER_RETRIES:
        try:
            for packet in container.demux(stream):
                failures = 0
                yield packet
            return
        except av.FFmpegError:
            failures += 1
            yield None


def _end_s(packet: av.Packet) -> float:
    """Return the timestamp at which a packet ends, infinity if unknown."""
    if packet.pts is None or packet.duration is None:
        return math.inf
    return float((packet.pts + packet.duration) * packet.time_base)


def _is_seekable(stream: av.AudioStream) -> bool:
    """True if decoding may begin anywhere and timestamps are exact to the sample."""
    if not stream.rate or not stream.codec_context.name.startswith(SEEKABLE):
        return False
    ticks_per_sample = 1 / (stream.time_base * stream.rate)
    return ticks_per_sample.denominator == 1


def _stated_s(container: Any, stream: av.AudioStream, file: BinaryIO) -> float:
    """Return the seconds that the header states, or slightly less; NaN if it states none."""
    if container.format.name == "mp3":
        frames = headers.mp3_frames(file)
        samples = 1152 if stream.rate >= 32_000 else 576
        return (frames - MP3_PADDING) * samples / stream.rate if frames else math.nan
    if container.format.name == "matroska,webm":
        alone = len(container.streams) == 1 and container.duration is not None
        return container.duration / av.time_base if alone else math.nan
    exact = stream.codec_context.codec.lossless or container.format.name.startswith("mov,")
    if not exact or stream.duration is None:
        return math.nan  # FFmpeg's estimate from the size of the file
    seconds = float(stream.duration * stream.time_base)
    return seconds / headers.wav_share(file) if container.format.name == "wav" else seconds


def _is_float_pcm(stream: av.AudioStream) -> bool:
    """True if samples are stored as floating-point numbers, not merely decoded to such."""
    context = stream.codec_context
    known = context.codec.lossless and context.format is not None
    return known and context.format.name.startswith(("flt", "dbl"))


def _peak(path: Path) -> float:
    """Return the largest finite absolute sample of a file."""
    peak = 0.0
    with open(path, "rb") as file, _container(path, file) as (container, stream):
        for frame in _decoded_packets(container, stream, 0.0):
            if frame is not None:
                samples = np.abs(_to_float(frame))
                peak = max(peak, samples.max(where=np.isfinite(samples), initial=0.0))
    return float(peak)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file; OSErrors become an AudioError."""
    try:
        if path.is_symlink() and not path.exists():
            raise AudioError(f"{path}: a link to a file that is not there ({os.readlink(path)})")
        if path.exists() and not os.access(path, os.R_OK):
            raise AudioError(f"{path}: may not be read; change its permissions")
        if path.is_dir():
            raise AudioError(f"{path}: a folder, expected an audio file or a folder with some")
        if not path.is_file():
            raise AudioError(f"{path}: no such audio file")
        if path.stat().st_size == 0:
            raise AudioError(f"{path}: the file is empty (0 bytes)")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise AudioError(f"{path}: not readable ({error.strerror or error})") from error
