"""Augmentation of log-mels on the device they are on, drawn from a generator so that a run can be repeated."""

import torch


def mask_stripes(x, generator, time=0, freq=0, fill=0.0):
    """SpecAugment (Park et al. 2019): hide one stripe of frames and one of bands in each clip.

    Args:
        x: (B, C, T, F).
        generator: a CPU torch.Generator.
        time, freq: longest stripe, in frames and in bands; a stripe's length is uniform from 0 to that.
        fill: value that a hidden cell gets. AST's recipe hides with 0 in the un-normalised log-mel.

    Returns:
        (B, C, T, F); `x` itself is not changed.
    """
    for dim, longest in ((2, time), (3, freq)):
        if not longest:
            continue
        size = x.shape[dim]
        length = torch.randint(min(longest, size) + 1, (len(x), 1), generator=generator)
        first = (torch.rand(len(x), 1, generator=generator) * (size - length + 1)).long()
        place = torch.arange(size)
        hidden = ((place >= first) & (place < first + length)).to(x.device)
        x = x.masked_fill(hidden[:, None, :, None] if dim == 2 else hidden[:, None, None, :], fill)
    return x
