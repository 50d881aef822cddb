"""Decode audio files to waveforms.

Conventions
    waveform: float32, mono, 16 kHz unless another rate is asked for, within +-1, shape (samples,).
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
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import BinaryIO, NamedTuple

import av
import numpy as np
import soxr
from av.container import InputContainer

from . import headers, ogg

SAMPLE_RATE = 16_000  # Hz, of AST's training data
CLIP_SECONDS = 10  # of a clip, unless its corpus says otherwise
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


class Window(NamedTuple):
    """The waveforms of a feature.

    Attributes:
        seconds: length; longer audio is cut into windows, shorter audio is padded with zeros.
        hop_s: seconds from the start of one window to the next.
        sample_rate: in Hz.
    """

    seconds: float = CLIP_SECONDS
    hop_s: float = CLIP_SECONDS
    sample_rate: int = SAMPLE_RATE

    @property
    def samples(self) -> int:
        """Length in samples."""
        return round(self.seconds * self.sample_rate)


class FileWindow(NamedTuple):
    """Window of a file, or the error that ends it.

    Attributes:
        start_s, end_s: in the file, in seconds.
        waveform: (samples,), shorter if the file is; None with an error.
        warnings: lines about the file since the window before.
        error: the reason why the file cannot be read on.
    """

    start_s: float = 0.0
    end_s: float = 0.0
    waveform: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    error: "AudioError | None" = None


class AudioError(ValueError):
    """A file that cannot be decoded to a waveform; the message names the file and the reason."""


def decode(
    path: str | Path,
    start_s: float = 0.0,
    seconds: float | None = None,
    warn: Warn = warnings.warn,
    damaged: bool = False,
    rate: int = SAMPLE_RATE,
) -> np.ndarray:
    """Decode an audio file, or a part of it.

    Args:
        path: the file.
        start_s: offset of the first sample, in seconds.
        seconds: length to read; None reads to the end.
        warn: called with a line that names the file, if it is damaged or its samples exceed +-1.
        damaged: read the file although parts of it are missing.
        rate: of the waveform, in Hz.

    Returns:
        waveform, see Conventions.

    Raises:
        AudioError: the file is missing, empty, not audio, damaged, ends before `start_s`, or has
            non-finite samples.
    """
    return np.concatenate(list(stream(path, start_s, seconds, warn, damaged, rate)))


def stream(
    path: str | Path,
    start_s: float = 0.0,
    seconds: float | None = None,
    warn: Warn = warnings.warn,
    damaged: bool = False,
    rate: int = SAMPLE_RATE,
) -> Iterator[np.ndarray]:
    """Decode like `decode`, in memory that does not grow with the length of the file.

    Yields:
        consecutive parts (samples,) of the waveform, of different lengths, none empty.
    """
    decoder = _Decoder(Path(path), start_s, warn)
    empty = True
    for block in _resample_blocks(_cut(decoder.blocks(), start_s, seconds), rate):
        if decoder.missing and not damaged:
            break
        empty = False
        yield np.clip(block, -1.0, 1.0, out=block)
    if decoder.missing and not damaged:
        raise AudioError(f"{path}: {decoder.damage()}; expected all of it, get the file again")
    if empty:
        raise AudioError(f"{path}: no samples at or after {start_s:g} s")
    if decoder.missing:
        warn(f"{path}: {decoder.damage()}")


def clip(
    path: str | Path,
    start_s: float = 0.0,
    shortest_s: float = SHORTEST_CLIP,
    warn: Warn = warnings.warn,
    seconds: float = CLIP_SECONDS,
    rate: int = SAMPLE_RATE,
) -> np.ndarray:
    """Decode a clip, padded with zeros if the file ends sooner.

    The stages `prepare` and `extract` both use it, so they agree on which clips are usable.

    Args:
        path, start_s, warn, rate: see `decode`.
        shortest_s: least seconds of audio.
        seconds: length of the clip.

    Returns:
        waveform (seconds * rate,).

    Raises:
        AudioError: see `decode`; also for less than `shortest_s` of audio.
    """
    waveform = decode(path, start_s, seconds, warn, rate=rate)
    found_s = len(waveform) / rate
    if found_s < shortest_s:
        where = f" from {start_s:g} s on" if start_s else ""
        raise AudioError(f"{path}: too short: {found_s:.2g} s{where}, expected {shortest_s:g} s")
    return fit(waveform, round(seconds * rate))


def complaint(
    path: str | Path,
    start_s: float = 0.0,
    shortest_s: float = SHORTEST_CLIP,
    warn: Warn = warnings.warn,
    seconds: float = CLIP_SECONDS,
) -> str | None:
    """Return the reason why `clip`, with the same arguments, raises AudioError, or None."""
    try:
        clip(path, start_s, shortest_s, warn, seconds)
    except AudioError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def duration(path: str | Path) -> float:
    """Return the seconds of a file by decoding it, without missing parts."""
    return sum(len(mono) / rate for _, rate, mono in _Decoder(Path(path)).blocks())


def is_silent(waveform: np.ndarray) -> bool:
    """True if a waveform is silent, apart from dither.

    >>> is_silent(np.zeros(9)), is_silent(np.full(9, 3 / 32768)), is_silent(np.full(9, 0.01))
    (True, True, False)
    """
    return bool(np.abs(waveform).max(initial=0.0) < SILENCE)


def windows(
    blocks: Iterable[np.ndarray], hop: int = CLIP_SAMPLES, samples: int = CLIP_SAMPLES
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut consecutive blocks into windows; the last one ends with the audio.

    Args:
        blocks: arrays (..., n).
        hop: samples from the start of one window to the next, at least 1; the last may be closer.
        samples: length of a window.

    Yields:
        (first sample, array (..., samples)); a single shorter window if the audio is shorter.

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
        while start + samples < end:
            yield start, kept[..., start - begin : start - begin + samples]
            start += hop
        kept = kept[..., -samples:]
    if kept is not None:
        yield end - kept.shape[-1], kept


def file_windows(path: str | Path, window: Window, hop: int) -> Iterator[FileWindow]:
    """Cut a file, which may be damaged, into windows `hop` samples apart; see `windows`.

    If the file cannot be read, the last FileWindow holds the error.
    """
    lines = []
    try:
        blocks = stream(path, warn=lines.append, damaged=True, rate=window.sample_rate)
        for start, waveform in windows(blocks, hop, window.samples):
            start_s = start / window.sample_rate
            end_s = start_s + len(waveform) / window.sample_rate
            yield FileWindow(start_s, end_s, waveform, tuple(lines))
            lines.clear()
    except AudioError as error:
        yield FileWindow(warnings=tuple(lines), error=error)


def resample(waveform: np.ndarray, rate: float, new_rate: float) -> np.ndarray:
    """Resample (samples,) float32 from `rate` to `new_rate` Hz; rates may be fractional."""
    return waveform if rate == new_rate else soxr.resample(waveform, rate, new_rate, quality="HQ")


def fit(waveform: np.ndarray, samples: int = CLIP_SAMPLES) -> np.ndarray:
    """Truncate (n,), or pad it with zeros at the end, to (samples,)."""
    return np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))


def _cut(
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


def _resample_blocks(
    blocks: Iterable[tuple[int, np.ndarray]], new_rate: int
) -> Iterator[np.ndarray]:
    """Resample (rate, mono) blocks to `new_rate`, without seams between those of one rate."""
    resampler = None
    last_rate = new_rate
    for rate, mono in blocks:
        if rate != last_rate:
            yield from _flush(resampler)
            last_rate = rate
            resampler = None
            if rate != new_rate:
                resampler = soxr.ResampleStream(rate, new_rate, 1, "float32", "HQ")
        block = mono if resampler is None else resampler.resample_chunk(mono)
        if len(block):
            yield block
    yield from _flush(resampler)


def _flush(resampler: soxr.ResampleStream | None) -> Iterator[np.ndarray]:
    """Yield the samples that a resampler holds back until its input ends."""
    if resampler is not None:
        block = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        if len(block):
            yield block


class _Decoder:
    """Decode a file to mono at its own rate, and note the parts that are missing.

    Args:
        path: the file.
        begin_s: time before which audio may be skipped.
        warn: called with a line that names the file, if its samples exceed +-1.

    Attributes:
        missing: (start in seconds, seconds; 0 if unknown) of each missing part so far.
        end_s: end of the audio decoded so far.
        peak: largest absolute sample of the file, if it may exceed 1.
    """

    def __init__(self, path: Path, begin_s: float = 0.0, warn: Warn | None = None):
        self.path = path
        self.begin_s = begin_s
        self.warn = warn
        self.missing: list[tuple[float, float]] = []
        self.end_s = 0.0
        self.peak = 1.0

    def damage(self) -> str:
        """Describe the missing parts."""
        total_s = sum(seconds for _, seconds in self.missing)
        amount = f"{total_s:.2g} s" if total_s else "a part"
        starts = ", ".join(f"{start_s:.1f} s" for start_s, _ in self.missing[:3])
        others = len(self.missing) - 3
        more = f" and {others} other places" if others > 0 else ""
        return f"damaged: {amount} missing at {starts}{more}"

    def blocks(self) -> Iterator[tuple[float, int, np.ndarray]]:
        """Decode the file a second at a time: (start in seconds, rate, (samples,) float32).

        Blocks end at whole seconds of the file, so that they do not depend on `begin_s`; earlier
        only where the audio or its format ends.
        """
        queue = av.AudioFifo()
        kind = None
        start = 0
        end = 0
        next_second = 0
        for index, frame in self._frames():
            rate = frame.sample_rate
            next_kind = (rate, frame.format.name, frame.layout.nb_channels)
            if index != end or next_kind != kind:
                if start < end:
                    yield self._block(queue.read(), start)
                queue = av.AudioFifo()
                kind = next_kind
                start = index
                end = index
                next_second = index - index % rate + rate
            frame.pts = None  # the queue would insist on timestamps without jitter
            queue.write(frame)
            end += frame.samples
            while end >= next_second:
                yield self._block(queue.read(next_second - start), start)
                start = next_second
                next_second += rate
        if start < end:
            yield self._block(queue.read(), start)

    def _block(self, frame: av.AudioFrame, start: int) -> tuple[float, int, np.ndarray]:
        """Convert a frame that begins at sample `start` to an item of `blocks`."""
        samples = _to_float(frame)
        if self.peak > 1:
            samples /= np.float32(self.peak)
        mono = _downmix(samples)
        if not np.isfinite(mono).all():
            raise AudioError(f"{self.path}: holds samples that are not finite numbers")
        return start / frame.sample_rate, frame.sample_rate, mono

    def _frames(self) -> Iterator[tuple[int, av.AudioFrame]]:
        """Decode the file to frames: (number of the first sample, frame).

        A chained Ogg file is decoded stream by stream, since their rates may differ.
        """
        with _opened(self.path) as file:
            links = ogg.links(file)
            for link in links:
                file.seek(link.begin)
                part = io.BytesIO(file.read(link.end - link.begin)) if len(links) > 1 else file
                known = len(self.missing)
                try:
                    yield from self._frames_of_link(part)
                except AudioError:
                    if link is links[0]:
                        raise
                    link.damaged = True
                if link.damaged and len(self.missing) == known:
                    self.missing.append((self.end_s, 0.0))  # no timestamp tells its length

    def _frames_of_link(self, file: BinaryIO) -> Iterator[tuple[int, av.AudioFrame]]:
        """Decode an open file that begins at `end_s`."""
        with _container(self.path, file) as (container, stream):
            if _is_float_pcm(stream):
                self._find_peak()
            start_s = self.end_s
            skip_s = 0.0
            if _is_seekable(stream):
                skip_s = math.floor(self.begin_s) - start_s - PREROLL
            due_s = None  # timestamp of the next sample
            lost = False
            for frame in _decoded_packets(container, stream, skip_s):
                if frame is None:
                    lost = True
                    continue
                rate = frame.sample_rate
                if rate < LOWEST_RATE:
                    raise AudioError(
                        f"{self.path}: a rate of {rate} Hz, expected at least {LOWEST_RATE}"
                    )
                time_s = frame.time
                late_s = 0.0
                if due_s is not None and time_s is not None and time_s > due_s:
                    late_s = time_s - due_s
                if lost or late_s > JITTER:
                    if self.end_s + late_s >= self.begin_s:
                        self.missing.append((self.end_s, late_s))
                    self.end_s += late_s
                    lost = False
                yield round(self.end_s * rate), frame
                length_s = frame.samples / rate
                self.end_s += length_s
                due_s = None if time_s is None else time_s + length_s
            if lost and self.end_s == start_s:
                raise AudioError(
                    f"{self.path}: not readable as audio (none of its packets can be decoded)"
                )
            if self.end_s < start_s + skip_s:
                return  # the file ends before the wanted part
            left_s = _stated_s(container, stream, file) - (self.end_s - start_s)
            # A packet that is refused at the end is a tag if the audio has its full length.
            if left_s > TOLERANCE or (lost and not left_s < 1 / LOWEST_RATE):
                self.missing.append((self.end_s, max(0.0, left_s)))

    def _find_peak(self) -> None:
        with open(self.path, "rb") as file, _container(self.path, file) as (container, stream):
            for frame in _decoded_packets(container, stream):
                if frame is not None:
                    samples = np.abs(_to_float(frame))
                    peak = samples.max(where=np.isfinite(samples), initial=0.0)
                    self.peak = max(self.peak, float(peak))
        if self.peak > 1 and self.warn:
            self.warn(
                f"{self.path}: samples of up to {self.peak:.6g}, expected at most 1; "
                "all are divided by it"
            )


def _to_float(frame: av.AudioFrame) -> np.ndarray:
    """Return the samples of a frame, (channels, n) float32; full scale of integers becomes 1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T
    if samples.dtype == np.uint8:
        samples = samples.astype(np.int16) - 128
        full_scale = 128
    elif samples.dtype.kind == "i":
        full_scale = 2 ** (8 * samples.dtype.itemsize - 1)
    else:
        full_scale = 1
    samples = samples.astype(np.float32, order="C", copy=False)
    if full_scale > 1:
        samples /= np.float32(full_scale)
    return samples


def _downmix(samples: np.ndarray) -> np.ndarray:
    """Average (channels, n) to (n,), or take the strongest channel if they cancel."""
    if len(samples) == 1:
        return samples[0]
    mono = reduce(np.add, samples) / len(samples)  # samples.mean(axis=0) takes far longer
    powers = [np.dot(channel, channel) for channel in samples]
    if np.dot(mono, mono) < CANCELLED * np.mean(powers):
        return samples[np.argmax(powers)]
    return mono


def _decoded_packets(
    container: InputContainer, stream: av.AudioStream, skip_s: float = 0.0
) -> Iterator[av.AudioFrame | None]:
    """Yield the frames of a stream, and None in place of refused or skipped ones.

    Packets that end before `skip_s`, counted from the first sample, are not decoded.
    """
    decode_packet = stream.codec_context.decode
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
            frames = decode_packet(packet)
        except av.FFmpegError:
            yield None
            continue
        if frames and skipped:
            yield None
            skipped = False
        if frames and first_s is None:
            first_s = frames[0].time
        yield from frames


def _packets(container: InputContainer, stream: av.AudioStream) -> Iterator[av.Packet | None]:
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


@contextmanager
def _container(path: Path, file: BinaryIO) -> Iterator[tuple[InputContainer, av.AudioStream]]:
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


def _is_seekable(stream: av.AudioStream) -> bool:
    """True if decoding may begin anywhere and timestamps are exact to the sample."""
    if not stream.rate or not stream.codec_context.name.startswith(SEEKABLE):
        return False
    ticks_per_sample = 1 / (stream.time_base * stream.rate)
    return ticks_per_sample.denominator == 1


def _is_float_pcm(stream: av.AudioStream) -> bool:
    """True if samples are stored as floating-point numbers, not merely decoded to such."""
    context = stream.codec_context
    known = context.codec.lossless and context.format is not None
    return known and context.format.name.startswith(("flt", "dbl"))


def _stated_s(container: InputContainer, stream: av.AudioStream, file: BinaryIO) -> float:
    """Return the seconds that the header states, or slightly less; NaN if it states none."""
    name = container.format.name
    if name == "mp3":
        frames = headers.mp3_frames(file)
        samples = 1152 if stream.rate >= 32_000 else 576
        return (frames - MP3_PADDING) * samples / stream.rate if frames else math.nan
    if name == "matroska,webm":
        alone = len(container.streams) == 1 and container.duration is not None
        return container.duration / av.time_base if alone else math.nan
    exact = stream.codec_context.codec.lossless or name.startswith("mov,")
    if not exact or stream.duration is None:
        return math.nan  # FFmpeg's estimate from the size of the file
    seconds = float(stream.duration * stream.time_base)
    return seconds / headers.wav_share(file) if name == "wav" else seconds


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file; OSErrors become an AudioError."""
    try:
        if path.is_dir():
            raise AudioError(f"{path}: a folder, expected an audio file or a folder with some")
        if path.is_symlink() and not path.exists():
            raise AudioError(f"{path}: a link to a file that is not there ({path.readlink()})")
        if not path.is_file():
            raise AudioError(f"{path}: no such audio file")
        if path.stat().st_size == 0:
            raise AudioError(f"{path}: the file is empty (0 bytes)")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise AudioError(f"{path}: not readable ({error.strerror or error})") from error
