"""Augmentation of log-mels on their device, drawn from a generator so that a run is repeatable."""

import torch


def spec_augment(
    x: torch.Tensor, generator: torch.Generator, time: int = 0, freq: int = 0, fill: float = 0.0
) -> torch.Tensor:
    """Mask one stripe of frames and one of bands in each clip: SpecAugment (Park et al. 2019).

    Args:
        x: (B, C, T, F).
        generator: on the CPU.
        time, freq: longest stripe, in frames and in bands; the length is uniform from 0 to that.
        fill: value of a masked cell. AST's recipe masks with 0 in the un-normalised log-mel.

    Returns:
        (B, C, T, F); `x` itself is not changed.
    """
    if time:
        x = x.masked_fill(_stripes(x, 2, time, generator)[:, None, :, None], fill)
    if freq:
        x = x.masked_fill(_stripes(x, 3, freq, generator)[:, None, None, :], fill)
    return x


def _stripes(x: torch.Tensor, dim: int, longest: int, generator: torch.Generator) -> torch.Tensor:
    """Draw a stripe along `dim` for each clip: (B, size of that dimension) bool."""
    size = x.shape[dim]
    length = torch.randint(min(longest, size) + 1, (len(x), 1), generator=generator)
    first = (torch.rand(len(x), 1, generator=generator) * (size - length + 1)).long()
    place = torch.arange(size)
    return ((place >= first) & (place < first + length)).to(x.device)
