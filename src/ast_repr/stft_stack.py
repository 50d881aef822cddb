"""Spectrograms of three resolutions in one tensor (B, 3, frames, 128), one channel per FFT size.

The hop is a quarter of the FFT size, so each size gives the same number of values per second. A
frame of 256 or 512 bins is stored as 2 or 4 rows of 128: rows of all channels are equally far apart
in time, 64 samples.
"""

import torch

SAMPLE_RATE = 22_050
FFTS = (256, 512, 1024)  # samples; the channels in order
BINS = FFTS[0] // 2  # values in a row; the Nyquist frequency is left out
ROWS = tuple(fft // FFTS[0] for fft in FFTS)  # rows of a frame, by channel


def fold(spectrogram: torch.Tensor) -> torch.Tensor:
    """(B, T, F) -> (B, T * F / 128, 128)."""
    return spectrogram.reshape(len(spectrogram), -1, BINS)


def unfold(stack: torch.Tensor) -> list[torch.Tensor]:
    """(B, 3, frames, 128) -> the spectrogram (B, T, F) of each FFT size; frames: multiple of 4."""
    spectrograms = []
    for channel, rows in enumerate(ROWS):
        spectrograms.append(stack[:, channel].reshape(len(stack), -1, rows * BINS))
    return spectrograms


def band(fft: int, lowest_hz: int, highest_hz: int) -> slice:
    """Return the bins of an FFT whose frequencies are from `lowest_hz` to below `highest_hz`.

    >>> [band(1024, 0, 1000), band(512, 1000, 4000), band(256, 4000, 11_025)]
    [slice(0, 47, None), slice(24, 93, None), slice(47, 128, None)]
    """
    edges = []
    for hz in (lowest_hz, highest_hz):
        edges.append(-(-hz * fft // SAMPLE_RATE))  # rounded up
    return slice(*edges)
