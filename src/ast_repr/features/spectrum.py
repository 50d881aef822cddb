"""Spectra and mel filters that several features share."""

import math

import torch

# Slaney's mel scale: linear below BREAK_HZ, logarithmic above it.
LINEAR_HZ = 200.0 / 3  # Slaney's mel scale: linear below BREAK_HZ, this many Hz per mel
BREAK_HZ = 1000.0
LOG_STEP = math.log(6.4) / 27  # above it, the logarithm of the ratio between neighbouring mels


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


def magnitudes(waveforms: torch.Tensor, window: torch.Tensor, hop: int) -> torch.Tensor:
    """Compute magnitudes of frames centred on multiples of `hop`, with zeros beyond the ends.

    Args:
        waveforms: (B, N).
        window: (fft,).

    Returns:
        (B, T, fft // 2 + 1).
    """
    spectrum = torch.stft(
        waveforms,
        len(window),
        hop,
        window=window,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    return spectrum.abs().transpose(1, 2)


def slaney_filters(sample_rate: int, fft: int, bins: int) -> torch.Tensor:
    """Compute Slaney's triangular mel filters up to the Nyquist frequency, each of unit area in Hz.

    Returns:
        float32 (fft // 2 + 1, bins), to be multiplied by a spectrum from the left.
    """
    highest = BREAK_HZ / LINEAR_HZ + math.log(sample_rate / 2 / BREAK_HZ) / LOG_STEP
    mels = torch.linspace(0.0, highest, bins + 2, dtype=torch.float64)
    above = BREAK_HZ * (LOG_STEP * (mels - BREAK_HZ / LINEAR_HZ)).exp()
    edges = torch.where(mels < BREAK_HZ / LINEAR_HZ, LINEAR_HZ * mels, above)
    hz = torch.linspace(0.0, sample_rate / 2, fft // 2 + 1, dtype=torch.float64)[:, None]
    left = edges[:-2]
    centre = edges[1:-1]
    right = edges[2:]
    rising = (hz - left) / (centre - left)
    falling = (right - hz) / (right - centre)
    triangles = torch.minimum(rising, falling).clamp_min(0.0)
    return (triangles * 2 / (right - left)).float()
