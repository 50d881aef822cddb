"""Which frames are padding: log-mels end in frames of zeros where the sound is over."""

ROUNDING = 1e-5


def heard(x, mean, std):
    """(B, 1, T, F) -> (B, 1, T, 1) of 1 where a frame is sound and 0 where it is padding.

    Padding is zero in all bins before normalisation, so it is zero where nobody normalised, and -mean / (2 std) where
    the network's own statistics did. Silence has another value, and is sound. Normalised otherwise, no frame is padding.
    """
    low, high = x.aminmax(dim=-1, keepdim=True)
    zero = -mean / (2 * std)
    padding = (low == 0) & (high == 0) | (low > zero - ROUNDING) & (high < zero + ROUNDING)
    return (~padding).to(x.dtype)
