"""Which frames are padding: log-mels end in frames of zeros where the sound is over."""

import torch


def heard(x, mean, std):
    """(B, 1, T, F) -> (B, 1, T, 1) of 1 where a frame is sound and 0 where it is padding.

    Padding is zero in all bins before normalisation, so it is zero where nobody normalised, and -mean / (2 std) where
    the network's own statistics did. Silence has another value, and is sound. Normalised otherwise, no frame is padding.
    """
    zero = (x == 0).all(-1, keepdim=True)
    normalised = torch.isclose(x, torch.full_like(x, -mean / (2 * std)), rtol=0, atol=1e-5).all(-1, keepdim=True)
    return (~(zero | normalised)).to(x.dtype)
