"""Mixtures of recordings of one split, with the labels of all that are mixed.

IRMAS trains on one label per clip and tests on several; its thresholds are chosen on mixtures of
validation clips. A mixture lasts as long as all clips of a recording and is cut into windows, whose
scores are combined as those of a test clip: probabilities that are averaged over several windows
are less extreme than those of one.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import audio, features, manifest
from .dataset import Clips

COUNT = 300
SIZES = (1, 2, 3)  # recordings in a mixture, equally often
MOST_CLIPS = 3  # of a recording, one after the other
GAIN_DB = 6.0  # largest level of a recording below the loudest possible one
SEED = 20_122
SETTINGS = [COUNT, SIZES, MOST_CLIPS, GAIN_DB, SEED]  # that determine the mixtures

Mixture = list[tuple[list[manifest.Clip], float]]  # clips of each recording, and its level in dB


def draw(clips: Sequence[manifest.Clip], count: int = COUNT, seed: int = SEED) -> list[Mixture]:
    """Draw mixtures of recordings, the groups of `clips`, whose order does not matter."""
    rng = np.random.default_rng(seed)
    groups = {}
    for clip in sorted(clips, key=lambda clip: clip.clip):
        groups.setdefault(clip.group, []).append(clip)
    recordings = [groups[name][:MOST_CLIPS] for name in sorted(groups)]
    mixtures = []
    for number in range(count):
        size = min(SIZES[number % len(SIZES)], len(recordings))
        mixture = []
        for index in rng.choice(len(recordings), size, replace=False):
            mixture.append((recordings[index], -rng.uniform(0, GAIN_DB)))
        mixtures.append(mixture)
    return mixtures


def labelled(mixtures: Sequence[Mixture]) -> list[manifest.Clip]:
    """Return each mixture as a clip without audio, with the union of the labels."""
    clips = []
    for number, mixture in enumerate(mixtures):
        labels = {}
        for recording, _ in mixture:
            for clip in recording:
                for name, relevance in clip.labels.items():
                    labels[name] = max(relevance, labels.get(name, 0.0))
        (first, *_), _ = mixture[0]
        clips.append(replace(first, clip=f"mixture {number}", labels=labels))
    return clips


def load(
    mixtures: Sequence[Mixture], classes: Sequence[str], data: str | Path, feature: Any
) -> tuple[Clips, list[int]]:
    """Compute the feature of the windows of each mixture.

    Args:
        data: folder that the clips' paths are relative to.
        feature: from `features.build`.

    Returns:
        the windows, those of a mixture in a row, and the number of each mixture's.

    Raises:
        AudioError: a clip cannot be decoded.
    """
    window = features.window(feature)
    hop = round(window.hop_s * window.sample_rate)
    clips = []
    computed = []
    counts = []
    for mixture, clip in zip(mixtures, labelled(mixtures), strict=True):
        waveform = mix(mixture, data, window.sample_rate)
        parts = []
        for _, part in audio.windows([waveform], hop, window.samples):
            parts.append(audio.fit(part, window.samples))
        computed.append(feature(torch.from_numpy(np.stack(parts))).half())
        counts.append(len(parts))
        clips += [clip] * len(parts)
    return Clips(clips, classes, torch.cat(computed).__getitem__), counts


def mix(mixture: Mixture, data: str | Path, rate: int) -> np.ndarray:
    """Add up the recordings of a mixture at their levels; shorter ones are repeated.

    Args:
        data: folder that the clips' paths are relative to.
        rate: of the waveform in Hz.

    Returns:
        waveform (samples,) float32 with a peak of 0.9.

    Raises:
        AudioError: a clip cannot be decoded.
    """
    waveforms = []
    for recording, level in mixture:
        parts = []
        for clip in recording:
            path = Path(data) / clip.audio
            parts.append(audio.clip(path, clip.start_s, seconds=clip.seconds, rate=rate))
        waveform = np.concatenate(parts)
        rms = np.sqrt(np.mean(np.square(waveform))) or 1.0
        waveforms.append(waveform * np.float32(10 ** (level / 20) / rms))
    longest = max(map(len, waveforms))
    total = np.sum([np.resize(waveform, longest) for waveform in waveforms], axis=0)
    return total * np.float32(0.9 / max(np.abs(total).max(), audio.SILENCE))
