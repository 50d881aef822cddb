"""Augmentation of batches on their device, drawn from a generator so that a run is repeatable.

Waveforms are not stored, so sums are those of the powers of time-frequency cells. That is the
expectation over the phases, which are unknown; in the sum of two waveforms a cell where both are
equally loud has between no and twice this power. Tempo and pitch are changed by interpolating the
powers, along time and along frequency.
"""

import math
from typing import Any

import numpy as np
import torch

from ..data.dataset import Batch
from ..manifest import PRESENT
from ..settings import Augment

# Random frequency filters, as in the code of Schlüter and Grill.
LOWEST_HZ = 150.0  # of a centre, which is log-uniform up to the highest band
WIDTH = 5.0  # mean of the bell's standard deviation, in semitones
WIDTH_SPREAD = 2.0  # its own standard deviation
LEAST_WIDTH = 1.0

SHIFTS = 5  # of pitch, over which scoring averages, as in Schlüter and Grill


def is_active(settings: Augment) -> bool:
    """Whether anything is augmented."""
    masks = (settings.time, settings.freq, settings.dropout)
    return changes_power(settings) or any(masks) or settings.mixup is not None


def changes_power(settings: Augment) -> bool:
    """Whether more is done than masking and mixup."""
    return settings.mix is not None or any(
        (
            settings.noise,
            settings.gain_db,
            settings.stretch,
            settings.semitones,
            settings.filter_db,
        )
    )


def augment(
    batch: Batch,
    generator: torch.Generator,
    settings: Augment,
    feature: Any,
    fill: float | torch.Tensor,
) -> Batch:
    """Change tempo and pitch, mix, add noise, filter, change levels, mask, interpolate, in order.

    Args:
        generator: on the CPU.
        settings: what is done, and how much.
        feature: of the batch, with `to_power` and `from_power` unless cells are only masked or
            interpolated; with `hz`, its bands' frequencies (F,), if they are filtered.
        fill: value of a masked cell, or one per band.

    Raises:
        ValueError: the feature has no powers, or no frequencies to filter.
    """
    if changes_power(settings) and not hasattr(feature, "to_power"):
        raise ValueError(
            f"augment: the feature {type(feature).__name__} has no powers to mix or to change; "
            "expected only time, freq, dropout and mixup, or another feature"
        )
    if settings.filter_db and not hasattr(feature, "hz"):
        raise ValueError(
            f"augment: filter_db: the bands of {type(feature).__name__} have no frequencies; "
            "expected another feature"
        )
    if settings.stretch or settings.semitones:
        warped = warp(
            batch.features, generator, feature, settings.stretch or 0.0, settings.semitones or 0.0
        )
        batch = batch._replace(features=warped)
    if settings.mix is not None:
        probability = settings.mix.probability
        batch = mix(batch, generator, feature, probability, settings.mix.gain_db)
    if settings.noise or settings.filter_db or settings.gain_db:
        power = feature.to_power(batch.features)
        if settings.noise:
            power = add_noise(power, generator, settings.noise)
        if settings.filter_db:
            power = filter_frequencies(power, generator, feature.hz, settings.filter_db)
        power = power * _gains(power, generator, settings.gain_db)
        batch = batch._replace(features=feature.from_power(power))
    masked = spec_augment(batch.features, generator, settings.time, settings.freq, fill)
    if settings.dropout:
        dropped = torch.rand(masked.shape, generator=generator) < settings.dropout
        masked = torch.where(dropped.to(masked.device), fill, masked)
    batch = batch._replace(features=masked)
    if settings.mixup is not None:
        batch = mixup(batch, generator, settings.mixup.alpha, settings.mixup.missing)
    return batch


def shift_pitch(batch: Batch, feature: Any, semitones: float) -> Batch:
    """Change the pitch of all clips of a batch by the same number of semitones.

    Raises:
        ValueError: the feature has no powers.
    """
    if not hasattr(feature, "to_power"):
        raise ValueError(
            f"test_augment: the feature {type(feature).__name__} has no powers to shift; "
            "expected test_augment: null, or another feature"
        )
    ratios = torch.full((len(batch.features),), 2 ** (semitones / 12))
    power = feature.to_power(batch.features)
    shifted = feature.warp(power, torch.ones_like(ratios), ratios)
    return batch._replace(features=feature.from_power(shifted))


def warp(
    x: torch.Tensor,
    generator: torch.Generator,
    feature: Any,
    stretch: float,
    semitones: float,
) -> torch.Tensor:
    """Change the tempo and the pitch of each clip, independently of each other.

    Args:
        x: (B, C, T, F), values of the feature.
        generator: on the CPU.
        feature: with `to_power`, `from_power` and `warp`.
        stretch: the rate of tempo is uniform from 1 - `stretch` to 1 + `stretch`.
        semitones: the change of pitch is uniform from -`semitones` to `semitones`.
    """
    rates = 1 + stretch * _symmetric(len(x), generator)
    ratios = 2 ** (semitones / 12 * _symmetric(len(x), generator))
    return feature.from_power(feature.warp(feature.to_power(x), rates, ratios))


def mix(
    batch: Batch, generator: torch.Generator, feature: Any, probability: float, gain_db: float
) -> Batch:
    """Add the next clip of the batch to some clips; the labels become those of both.

    Both clips are made equally loud, then one is amplified by -`gain_db` to `gain_db`. The sum has
    the level of the first, so that it does not tell how many clips there are. A class is observed
    if it is in both clips, or present in one; its relevance is the larger one.

    Args:
        generator: on the CPU.
        feature: of the batch, with `to_power` and `from_power`.
        probability: of a clip to be mixed.
    """
    device = batch.features.device
    is_mixed = (torch.rand(len(batch.mask), generator=generator) < probability).to(device)
    power = feature.to_power(batch.features)
    loudness = power.sum(dim=(1, 2, 3), keepdim=True)
    others = power.roll(1, 0) * loudness / loudness.roll(1, 0).clamp_min(torch.finfo().tiny)
    gain = _gains(power, generator, gain_db)
    features = feature.from_power((power + gain * others) / (1 + gain))

    targets = torch.where(batch.mask, batch.targets, 0.0)
    targets = targets.maximum(targets.roll(1, 0))
    mask = batch.mask & batch.mask.roll(1, 0) | (targets >= PRESENT)
    return Batch(
        torch.where(is_mixed[:, None, None, None], features, batch.features),
        torch.where(is_mixed[:, None], targets, batch.targets),
        torch.where(is_mixed[:, None], mask, batch.mask),
    )


def mixup(batch: Batch, generator: torch.Generator, alpha: float, missing: str) -> Batch:
    """Interpolate each clip with the next one of the batch (Zhang et al. 2018).

    That is done to features, targets and what a teacher computed. The share of the clip itself is
    the larger one of l and 1 - l, with l of the distribution Beta(`alpha`, `alpha`).

    Args:
        generator: on the CPU.
        missing: "ignored": a cell counts with the shares of the clips in which it is observed, so
            that the binary cross-entropy is that of both labels, each with its share; or
            "negative": the logical OR of the masks, as in the code of EAsT, so that a missing label
            counts as absent beside an observed one.
    """
    seed = torch.randint(2**62, (), generator=generator).item()
    drawn = np.random.default_rng(seed).beta(alpha, alpha, len(batch.mask))
    shares = torch.from_numpy(np.maximum(drawn, 1 - drawn)).to(batch.features)

    def interpolate(tensor: torch.Tensor) -> torch.Tensor:
        share = shares.view(-1, *[1] * (tensor.ndim - 1))
        return share * tensor + (1 - share) * tensor.roll(1, 0)

    observed = torch.where(batch.mask, batch.targets, 0.0)
    mixed = batch._replace(targets=observed, mask=batch.mask.float()).map(interpolate)
    if missing == "negative":
        return mixed._replace(mask=mixed.mask > 0)
    return mixed._replace(targets=mixed.targets / mixed.mask.where(mixed.mask > 0, 1.0))


def add_noise(power: torch.Tensor, generator: torch.Generator, largest: float) -> torch.Tensor:
    """Add noise of the same expected power to all cells (B, C, T, F) but those of padding.

    A clip's amplitude of noise is uniform from 0 to `largest`, relative to the clip's. The power of
    a cell is exponentially distributed, as in the spectrum of white noise.
    """
    amplitude = largest * torch.rand(len(power), 1, 1, 1, generator=generator)
    noise = torch.empty(power.shape).exponential_(generator=generator) * amplitude.square()
    mean = power.mean(dim=(1, 2, 3), keepdim=True)
    return torch.where(power > 0, power + mean * noise.to(power.device), power)


def filter_frequencies(
    power: torch.Tensor, generator: torch.Generator, hz: torch.Tensor, most_db: float
) -> torch.Tensor:
    """Amplify or attenuate each clip around a random frequency (Schlüter and Grill 2015).

    The gain in decibels is a Gaussian bell on a logarithmic axis of frequency.

    Args:
        power: (B, C, T, F).
        generator: on the CPU.
        hz: frequencies of the bands, (F,), increasing.
        most_db: the gain at the centre is uniform from -`most_db` to `most_db`.
    """
    count = len(power)
    peaks_db = most_db * _symmetric(count, generator)
    octaves = math.log2(hz[-1] / LOWEST_HZ) * torch.rand(count, generator=generator)
    widths = WIDTH + WIDTH_SPREAD * torch.randn(count, generator=generator)
    semitones = 12 * ((hz / LOWEST_HZ).log2() - octaves[:, None])  # from the centre, (B, F)
    bells = torch.exp(-0.5 * (semitones / widths.clamp_min(LEAST_WIDTH)[:, None]).square())
    gains = 10 ** (peaks_db[:, None] * bells / 10)
    return power * gains[:, None, None, :].to(power)


def _gains(power: torch.Tensor, generator: torch.Generator, most_db: float) -> torch.Tensor:
    """Draw a gain of power for each clip, (B, 1, 1, 1), from -`most_db` to `most_db` decibels."""
    gain_db = most_db * _symmetric(len(power), generator)[:, None, None, None]
    return (10 ** (gain_db / 10)).to(power.device)


def _symmetric(count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw numbers (count,) that are uniform from -1 to 1."""
    return 2 * torch.rand(count, generator=generator) - 1


def spec_augment(
    x: torch.Tensor,
    generator: torch.Generator,
    time: int = 0,
    freq: int = 0,
    fill: float | torch.Tensor = 0.0,
) -> torch.Tensor:
    """Mask one stripe of frames and one of bands in each clip: SpecAugment (Park et al. 2019).

    Args:
        x: (B, C, T, F).
        generator: on the CPU.
        time, freq: longest stripe, in frames and in bands; the length is uniform from 0 to that.
        fill: value of a masked cell, or one per band. AST's recipe masks with 0 in the
            un-normalised log-mel.

    Returns:
        (B, C, T, F); `x` itself is not changed.
    """
    if time:
        x = torch.where(_stripes(x, 2, time, generator)[:, None, :, None], fill, x)
    if freq:
        x = torch.where(_stripes(x, 3, freq, generator)[:, None, None, :], fill, x)
    return x


def _stripes(x: torch.Tensor, dim: int, longest: int, generator: torch.Generator) -> torch.Tensor:
    """Draw a stripe along `dim` for each clip: (B, size of that dimension) bool."""
    size = x.shape[dim]
    length = torch.randint(min(longest, size) + 1, (len(x), 1), generator=generator)
    first = (torch.rand(len(x), 1, generator=generator) * (size - length + 1)).long()
    place = torch.arange(size)
    return ((place >= first) & (place < first + length)).to(x.device)
