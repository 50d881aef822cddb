"""Find padding: the frames of zeros that follow the audio in a log-mel."""

import torch

TOLERANCE = 1e-5  # for rounding


def frame_mask(x: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """Mark the frames of audio: (B, 1, T, F) -> (B, 1, T, 1), 1 for audio and 0 for padding.

    Padding is zero in all bins before normalisation, so it is zero in an un-normalised input, and
    -mean / (2 std) in one normalised by the network's own statistics. Silence has another value
    and counts as audio. In an input normalised otherwise no frame is padding.
    """
    low, high = x.aminmax(dim=-1, keepdim=True)
    zero = -mean / (2 * std)
    padding = (low == 0) & (high == 0) | (low > zero - TOLERANCE) & (high < zero + TOLERANCE)
    return (~padding).to(x.dtype)
