"""Scalogram: magnitudes of the continuous wavelet transform of the whole signal, 100 frames/s."""

import math
from typing import Any

import torch
from torch.nn import functional

from ..audio import CLIP_SECONDS, SAMPLE_RATE
from .spectrogram import Spectrogram
from .spectrum import check_waveforms, relative_decibels

CENTRE = 6.0  # of the Morlet wavelet's spectrum, in radians per unit of time at scale 1
LOWEST_HZ = 40.0
HIGHEST_HZ = SAMPLE_RATE / 2
HOP = 160  # samples per frame
FLOOR = 1e-5  # log(magnitude + FLOOR)
BINS = range(8, 1_025)  # possible numbers of scales
SHORTEST_S = 0.1
LONGEST_S = 1_000.0
# Samples from one value of the transform to the next. Each divides HOP; low scales have few values,
# and 8 is within 1 % of a step of 1, at a quarter of the time.
STEPS = (8, 4, 2, 1)
SCALES_AT_ONCE = 16  # which bounds the memory
REACH = 6.0  # of a wavelet, in units of its scale


class Scalogram(Spectrogram):
    """Logarithms of wavelet magnitudes of 16 kHz waveforms, in frames of 10 ms.

    The wavelet is a complex Morlet with w0 = 6 and unit energy. The frequencies of the scales are
    evenly spaced on a logarithmic axis, between 40 Hz and the Nyquist frequency. A frame is the
    mean magnitude over its 160 samples.

    A clip of ten seconds takes 140 ms of a CPU core, about 25 times as long as its `logmel`. With
    decoding and writing, extraction takes 4.8 times as long, see tests/bench/scalogram.py.

    Args:
        bins: number of scales.
        decibels: relative to the loudest cell of a clip, at least -80, instead of log(x + 1e-5).
        seconds: length of the waveforms.
        hop_s: seconds from one window of a longer clip to the next; default: the length.

    Raises:
        ValueError: `bins` or `seconds` is out of range.
    """

    frames_per_second = SAMPLE_RATE / HOP

    def __init__(
        self,
        bins: int = 96,
        decibels: bool = False,
        seconds: float = CLIP_SECONDS,
        hop_s: float | None = None,
    ):
        super().__init__()
        if bins not in BINS or not SHORTEST_S <= seconds <= LONGEST_S:
            raise ValueError(
                f"scalogram: bins {bins}, seconds {seconds:g}; expected from {BINS[0]} to "
                f"{BINS[-1]} and from {SHORTEST_S} to {LONGEST_S:g}"
            )
        self.bins = bins
        self.decibels = decibels
        self.mean = -41.0 if decibels else -4.2  # over music, roughly
        self.std = 18.0 if decibels else 2.0
        self.seconds = seconds
        self.hop_s = hop_s
        self.frames = round(seconds * SAMPLE_RATE) // HOP
        self.hz = centre_frequencies(bins)
        scales = CENTRE * SAMPLE_RATE / (2 * math.pi * self.hz)  # samples
        # An octave above a wavelet's frequency its spectrum is zero, to float32's precision.
        steps = (SAMPLE_RATE / (2 * self.hz)).log2().floor().exp2().clamp(STEPS[-1], STEPS[0])
        self.register_buffer("scales", scales.float(), persistent=False)
        self.register_buffer("steps", steps, persistent=False)

    def spec(self) -> dict[str, Any]:
        """Return the settings that determine the values."""
        return {
            "feature": "scalogram",
            "version": 1,
            "frames": self.frames,
            "sample_rate": SAMPLE_RATE,
            "hop": HOP,
            "bins": self.bins,
            "decibels": self.decibels,
            "decoder": "FFmpeg",
            "resampler": "soxr HQ",
        }

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, N) float32 waveforms at 16 kHz -> (B, 1, frames, bins) float32.

        Raises:
            ValueError: `waveforms` is not two-dimensional.
        """
        check_waveforms("scalogram", waveforms)
        missing = self.frames * HOP - waveforms.shape[1]
        magnitudes = waveforms.new_empty(len(waveforms), *self.shape)
        for values, waveform in zip(
            magnitudes, functional.pad(waveforms, (0, missing)), strict=True
        ):
            values[0] = self._magnitudes(waveform).T
        return self.from_power(magnitudes.square())

    def to_power(self, values: torch.Tensor) -> torch.Tensor:
        """Return the power of each cell; of decibels, relative to the loudest."""
        if self.decibels:
            return 10 ** (values / 10)
        return (values.exp() - FLOOR).clamp_min(0.0).square()

    def from_power(self, power: torch.Tensor) -> torch.Tensor:
        """Undo `to_power`."""
        if self.decibels:
            return relative_decibels(power)
        return (power.sqrt() + FLOOR).log()

    def _magnitudes(self, waveform: torch.Tensor) -> torch.Tensor:
        """(frames * HOP,) -> mean magnitudes (bins, frames).

        Products of spectra are convolutions of periodic signals; zeros keep the end of the waveform
        apart from its beginning.
        """
        size = fast_size(len(waveform) + math.ceil(REACH * self.scales.max().item()))
        spectrum = torch.fft.rfft(waveform, size)
        radians = 2 * math.pi / size * torch.arange(len(spectrum), device=waveform.device)
        bands = []
        for step in STEPS:
            length = size // step  # the inverse of so many frequencies has every `step`-th value
            omega = radians[:length]
            middle = torch.exp(0.5j * (step - 1) * omega)  # those values are in the middle of steps
            shifted = spectrum[:length] * middle / step
            for scales in self.scales[self.steps == step].split(SCALES_AT_ONCE):
                values = torch.fft.ifft(shifted * morlet(scales[:, None], omega), length).abs()
                frames = values[:, : len(waveform) // step].unflatten(1, (-1, HOP // step))
                bands.append(frames.mean(dim=2))
        return torch.cat(bands)


def morlet(scales: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
    """Compute the Fourier transform of Morlet wavelets of unit energy at frequencies above zero.

    Args:
        scales: in samples; `omega`: in radians per sample.
    """
    gain = (2 * math.pi * scales).sqrt() / math.pi**0.25
    return gain * torch.exp(-0.5 * (scales * omega - CENTRE).square())


def centre_frequencies(bins: int) -> torch.Tensor:
    """Compute the frequencies of the scales in Hz, increasing, float64 (bins,)."""
    ends = math.log(LOWEST_HZ), math.log(HIGHEST_HZ)
    return torch.linspace(*ends, bins + 2, dtype=torch.float64)[1:-1].exp()


def fast_size(samples: int) -> int:
    """Return a size that is no smaller, and is 5, 6, 7 or 8 times a power of two, for FFTs."""
    unit = 2 ** (samples.bit_length() - 3)
    return -(-samples // unit) * unit
