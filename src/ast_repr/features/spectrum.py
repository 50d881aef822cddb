"""Spectra, mel filters and changes of tempo and pitch that several features share."""

import math

import numpy as np
import torch
from torch.nn import functional

# Slaney's mel scale: linear below BREAK_HZ, logarithmic above it.
LINEAR_HZ = 200.0 / 3  # per mel
BREAK_HZ = 1000.0
LOG_STEP = math.log(6.4) / 27  # logarithm of the ratio between neighbouring mels
RANGE_DB = 80.0  # of `relative_decibels`
LEAST = 1e-10  # value that counts as silence there


def check_waveforms(name: str, waveforms: torch.Tensor) -> None:
    """Check the shape of a feature's input.

    Args:
        name: of the feature, for the message.

    Raises:
        ValueError: `waveforms` is not two-dimensional.
    """
    if waveforms.ndim != 2:
        raise ValueError(
            f"{name} expects waveforms of shape (B, N), found {tuple(waveforms.shape)}"
        )


def magnitudes(
    waveforms: torch.Tensor, window: torch.Tensor, hop: int, pad_mode: str = "constant"
) -> torch.Tensor:
    """Compute magnitudes of frames centred on multiples of `hop`.

    Args:
        waveforms: (B, N).
        window: (fft,).
        pad_mode: beyond the ends, "constant" for zeros, or "reflect" (N > fft // 2).

    Returns:
        (B, T, fft // 2 + 1).
    """
    spectrum = torch.stft(
        waveforms,
        len(window),
        hop,
        window=window,
        center=True,
        pad_mode=pad_mode,
        return_complex=True,
    )
    return spectrum.abs().transpose(1, 2)


def relative_decibels(values: torch.Tensor) -> torch.Tensor:
    """Return 10 log10 of values (..., T, F) relative to the largest over (T, F), at least -80.

    Silence is at -80 throughout.
    """
    largest = values.amax(dim=(-2, -1), keepdim=True)
    ratios = values.clamp_min(LEAST) / largest.clamp_min(LEAST)
    decibels = 10 * ratios.log10()
    return decibels.masked_fill(largest <= LEAST, -RANGE_DB).clamp_min(-RANGE_DB)


def warp(
    power: torch.Tensor, rates: torch.Tensor, ratios: torch.Tensor, hz: torch.Tensor
) -> torch.Tensor:
    """Change tempo and pitch of spectrograms, by linear interpolation of their powers.

    Of a mel feature these are the powers of its bands, since the spectrogram before the filters is
    not stored; tests/bench/warp.py compares the result with a warp before the filters, and with the
    log-mel of the resampled waveform.

    Args:
        power: (B, C, T, F).
        rates: of tempo, (B,); what follows the end of the audio is silence.
        ratios: of frequencies, (B,); beyond the lowest and the highest bin, these are repeated.
        hz: frequencies of the bins, (F,), increasing.
    """
    frames = torch.arange(power.shape[2]) * rates[:, None]
    bins = torch.from_numpy(np.interp(hz / ratios[:, None], hz, np.arange(len(hz))))
    return _interpolate(_interpolate(power, 2, frames), 3, bins)


def _interpolate(x: torch.Tensor, dim: int, positions: torch.Tensor) -> torch.Tensor:
    """Interpolate (B, C, T, F) along `dim` at positions (B, n); 0 after the last."""
    shape = [len(x), 1, 1, 1]
    shape[dim] = -1
    size = list(x.shape)
    size[dim] = positions.shape[1]
    last = x.shape[dim] - 1
    below = positions.floor().clamp(max=last)
    indices = below.long().view(shape).expand(size).to(x.device)
    lower = x.gather(dim, indices)
    upper = x.gather(dim, (indices + 1).clamp(max=last))
    weights = (positions - below).to(x.dtype).view(shape).to(x.device)
    return torch.where(weights < 1, lower.lerp(upper, weights), 0.0)


def slaney_edges(
    sample_rate: int, bins: int, lowest_hz: float = 0.0, highest_hz: float | None = None
) -> torch.Tensor:
    """Compute the edges of `slaney_filters` in Hz, float64 (bins + 2,).

    A filter rises from its edge to the next, its centre, and falls to the one after.

    Args:
        lowest_hz: lower edge of the first filter, at most 1 kHz.
        highest_hz: upper edge of the last, at least 1 kHz; None: the Nyquist frequency.
    """
    highest_hz = sample_rate / 2 if highest_hz is None else highest_hz
    highest = BREAK_HZ / LINEAR_HZ + math.log(highest_hz / BREAK_HZ) / LOG_STEP
    mels = torch.linspace(lowest_hz / LINEAR_HZ, highest, bins + 2, dtype=torch.float64)
    above = BREAK_HZ * (LOG_STEP * (mels - BREAK_HZ / LINEAR_HZ)).exp()
    return torch.where(mels < BREAK_HZ / LINEAR_HZ, LINEAR_HZ * mels, above)


def slaney_filters(
    sample_rate: int,
    fft: int,
    bins: int,
    lowest_hz: float = 0.0,
    highest_hz: float | None = None,
) -> torch.Tensor:
    """Compute Slaney's triangular mel filters, each of unit area in Hz.

    Args:
        lowest_hz, highest_hz: see `slaney_edges`.

    Returns:
        float32 (fft // 2 + 1, bins), to be multiplied by a spectrum from the left.
    """
    edges = slaney_edges(sample_rate, bins, lowest_hz, highest_hz)
    hz = torch.linspace(0.0, sample_rate / 2, fft // 2 + 1, dtype=torch.float64)[:, None]
    left = edges[:-2]
    centre = edges[1:-1]
    right = edges[2:]
    rising = (hz - left) / (centre - left)
    falling = (right - hz) / (right - centre)
    triangles = torch.minimum(rising, falling).clamp_min(0.0)
    return (triangles * 2 / (right - left)).float()


def htk_filters(
    sample_rate: int, fft: int, bins: int, lowest_hz: float, highest_hz: float
) -> torch.Tensor:
    """Compute triangular mel filters on HTK's mel scale, as Kaldi and VGGish do.

    Neighbouring triangles overlap by half, have equal widths in mel and a height of 1.

    Args:
        lowest_hz, highest_hz: lower edge of the first filter, and upper edge of the last.

    Returns:
        float32 (fft // 2 + 1, bins), the right factor of a product with a spectrum.
    """
    lowest, half_width = _htk_grid(bins, lowest_hz, highest_hz)
    numbers = torch.arange(bins)
    left = lowest + numbers * half_width
    centre = lowest + (numbers + 1.0) * half_width
    right = lowest + (numbers + 2.0) * half_width

    hz = sample_rate / fft * torch.arange(fft // 2)  # Kaldi leaves out the Nyquist frequency
    mel = 1127.0 * (1.0 + hz / 700.0).log()[:, None]
    rising = (mel - left) / (centre - left)
    falling = (right - mel) / (right - centre)
    filters = torch.minimum(rising, falling).clamp_min(0.0)
    return functional.pad(filters, (0, 0, 0, 1))


def htk_centres(bins: int, lowest_hz: float, highest_hz: float) -> torch.Tensor:
    """Compute the centres of `htk_filters` in Hz, float64 (bins,)."""
    lowest, half_width = _htk_grid(bins, lowest_hz, highest_hz)
    mel = lowest + torch.arange(1, bins + 1, dtype=torch.float64) * half_width
    return 700.0 * ((mel / 1127.0).exp() - 1.0)


def _htk_grid(bins: int, lowest_hz: float, highest_hz: float) -> tuple[float, float]:
    """Return the lower edge of the first filter and half the width of each, in mel."""
    lowest = 1127.0 * math.log(1.0 + lowest_hz / 700.0)
    highest = 1127.0 * math.log(1.0 + highest_hz / 700.0)
    return lowest, (highest - lowest) / (bins + 1)
