"""Excerpts of recorded songs, whose instruments are unknown: music for distillation only.

Each excerpt has its own speed (pitch and tempo), some are two excerpts at once, and all get a floor
of noise, as recordings have one and digital renders do not.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import audio

SHORTEST_S = 20.0  # shorter files are effects rather than music
EXCERPTS_PER_VISIT = 8  # of a song, at one speed, since the whole of it is decoded
RECENT = 64  # excerpts that may be mixed with the next one
SEMITONES = 4.0  # largest change of speed
MIXED_SHARE = 0.3  # of excerpts
MIX_DB = 10.0  # largest difference of level between two excerpts
FLOOR_DB = (-70.0, -25.0)  # of the noise, relative to the excerpt
LEVEL_DB = (-30.0, -1.0)  # of the peak
UNKNOWN = -1  # in place of the truth


def find(folder: Path) -> tuple[Path, ...]:
    """List the audible files of a folder that last at least 20 s, in alphabetical order.

    Raises:
        ValueError: there is none.
    """
    songs = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            try:
                waveform = audio.decode(path, damaged=True)
            except audio.AudioError:
                continue  # covers, licences, playlists
            if len(waveform) >= SHORTEST_S * audio.SAMPLE_RATE and not audio.is_silent(waveform):
                songs.append(path)
    if not songs:
        raise ValueError(f"{folder}: no audio file of at least {SHORTEST_S:g} s that is not silent")
    return tuple(songs)


class Excerpts:
    """Draws excerpts of ten seconds.

    The same calls in the same order give the same excerpts.

    Args:
        files: of the songs.
        classes: number of instruments, all unknown.
        rng: generator of everything random.
    """

    def __init__(self, files: Sequence[Path], classes: int, rng: np.random.Generator):
        self.files = files
        self.truth = np.full(classes, UNKNOWN, np.int8)
        self.rng = rng
        self.next: list[np.ndarray] = []
        self.recent: list[np.ndarray] = []

    def clip(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw the next excerpt.

        Returns:
            waveform float32 (160000,) at 16 kHz, and truth int8 (classes,): -1, unknown.
        """
        rng = self.rng
        while not self.next:
            self.next = self._cut_song(self.files[rng.integers(len(self.files))])
        excerpt = self.next.pop()
        mix = excerpt
        if self.recent and rng.random() < MIXED_SHARE:
            other = self.recent[rng.integers(len(self.recent))]
            mix = excerpt + other * 10 ** (rng.uniform(-MIX_DB, MIX_DB) / 20)
        self.recent = [*self.recent[1 - RECENT :], excerpt]
        noise = rng.standard_normal(len(mix), np.float32) * np.sqrt(np.mean(mix**2))
        mix = mix + noise * 10 ** (rng.uniform(*FLOOR_DB) / 20)
        mix *= 10 ** (rng.uniform(*LEVEL_DB) / 20) / np.abs(mix).max()
        return mix.astype(np.float32), self.truth

    def _cut_song(self, path: Path) -> list[np.ndarray]:
        """Cut excerpts with an RMS of 1 from a song; those that are silent are left out."""
        # Resampled to another rate and read as 16 kHz, it plays faster or slower.
        speed = 2 ** (self.rng.uniform(-SEMITONES, SEMITONES) / 12)
        song = audio.decode(path, damaged=True, rate=round(audio.SAMPLE_RATE / speed))
        last = len(song) - audio.CLIP_SAMPLES
        excerpts = []
        for start in self.rng.integers(last + 1, size=EXCERPTS_PER_VISIT):
            excerpt = song[start : start + audio.CLIP_SAMPLES]
            if not audio.is_silent(excerpt):
                excerpts.append(excerpt / np.sqrt(np.mean(excerpt**2)))
        self.rng.shuffle(excerpts)
        return excerpts
