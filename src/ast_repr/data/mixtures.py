"""Mixtures of clips of one split, with the labels of all that are mixed.

IRMAS trains on one label per clip and tests on several; its thresholds are chosen on mixtures of
validation clips.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import audio, features, manifest
from .dataset import Clips

COUNT = 400
SIZES = (1, 2, 3)  # clips in a mixture, equally often
GAIN_DB = 6.0  # largest level of a clip below the loudest one
SEED = 20_122

Mixture = list[tuple[manifest.Clip, float]]  # clips of different groups, and their levels in dB


def draw(clips: Sequence[manifest.Clip], count: int = COUNT, seed: int = SEED) -> list[Mixture]:
    """Draw mixtures of clips; they do not depend on the order of `clips`."""
    rng = np.random.default_rng(seed)
    clips = sorted(clips, key=lambda clip: clip.clip)
    mixtures = []
    for number in range(count):
        size = SIZES[number % len(SIZES)]
        mixture = {}  # {group: (clip, level)}
        for index in rng.permutation(len(clips)):
            mixture.setdefault(clips[index].group, (clips[index], -rng.uniform(0, GAIN_DB)))
            if len(mixture) == size:
                break
        mixtures.append(list(mixture.values()))
    return mixtures


def labelled(mixtures: Sequence[Mixture]) -> list[manifest.Clip]:
    """Return each mixture as a clip without audio, with the union of the labels."""
    clips = []
    for number, mixture in enumerate(mixtures):
        labels = {}
        for clip, _ in mixture:
            for name, relevance in clip.labels.items():
                labels[name] = max(relevance, labels.get(name, 0.0))
        first, _ = mixture[0]
        clips.append(replace(first, clip=f"mixture {number}", labels=labels))
    return clips


def load(
    mixtures: Sequence[Mixture], classes: Sequence[str], data: str | Path, feature: Any
) -> Clips:
    """Compute the feature of each mixture, from the sum of the clips at their levels.

    Args:
        data: folder that the clips' paths are relative to.
        feature: from `features.build`.

    Raises:
        AudioError: a clip cannot be decoded.
    """
    window = features.window(feature)
    computed = []
    for mixture in mixtures:
        total = np.zeros(window.samples, np.float32)
        for clip, level in mixture:
            seconds = min(clip.seconds, window.seconds)
            path = Path(data) / clip.audio
            waveform = audio.clip(path, clip.start_s, seconds=seconds, rate=window.sample_rate)
            rms = np.sqrt(np.mean(np.square(waveform))) or 1.0
            total += audio.fit(waveform / rms, window.samples) * np.float32(10 ** (level / 20))
        total *= 0.9 / max(np.abs(total).max(), audio.SILENCE)
        computed.append(feature(torch.from_numpy(total)[None])[0].half())
    return Clips(labelled(mixtures), classes, torch.stack(computed).__getitem__)
