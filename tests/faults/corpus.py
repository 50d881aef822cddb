"""Small inputs: a corpus in OpenMIC-2018's layout, own data, a backbone and a song.

All are made of tones and noise. Each class is a tone in a separate octave, so that a network can
learn it.
"""

import csv
import json
from pathlib import Path

import numpy as np
import soundfile

from ast_repr import backbones
from ast_repr.backbones import weights
from ast_repr.corpora import sounds

CLASSES = ("bass", "flute", "piano", "voice")
RATE = 16_000  # Hz
SECONDS = 10
CLIPS_PER_ARTIST = 4
TEST_SHARE = 4  # each fourth artist is of the test split
TONES = (110.0, 1_760.0, 440.0, 880.0)  # Hz, of the classes


def make(root: Path, clips: int, seed: int = 0) -> None:
    """Write a corpus of `clips` clips in OpenMIC-2018's layout."""
    rng = np.random.default_rng(seed)
    labels = [("sample_key", "instrument", "relevance", "num_responses")]
    metadata = [("track_id", "artist_id", "sample_key")]
    splits = {"train": [], "test": []}
    for number in range(clips):
        key = f"{number:06d}_0"
        artist = number // CLIPS_PER_ARTIST
        splits["test" if artist % TEST_SHARE == TEST_SHARE - 1 else "train"].append((key,))
        metadata.append((number, artist, key))
        present = rng.random(len(CLASSES)) < 0.5
        folder = root / "audio" / key[:3]
        folder.mkdir(parents=True, exist_ok=True)
        write_sound(folder / f"{key}.ogg", rng, present)
        for name in rng.choice(CLASSES, 3, replace=False):
            there = present[CLASSES.index(name)]
            relevance = round(0.5 * there + 0.5 * float(rng.random()) * 0.98, 5)
            labels.append((key, name, relevance, 3))
    indices = {name: index for index, name in enumerate(CLASSES)}
    (root / "class-map.json").write_text(json.dumps(indices), encoding="utf-8")
    write_csv(root / "openmic-2018-aggregated-labels.csv", labels)
    write_csv(root / "openmic-2018-metadata.csv", metadata)
    (root / "partitions").mkdir()
    for split, rows in splits.items():
        write_csv(root / "partitions" / f"split01_{split}.csv", rows)


def write_sound(
    path: Path, rng: np.random.Generator, present: np.ndarray, seconds: float = SECONDS
) -> None:
    """Write the tones of the classes that are `present`, in noise.

    The format follows from the path's suffix: .ogg, .flac, .wav or .mp3.
    """
    time = np.arange(round(RATE * seconds)) / RATE
    sound = 0.02 * rng.standard_normal(len(time))
    for tone, there in zip(TONES, present, strict=True):
        if there:
            phase = 2 * np.pi * rng.random()
            pitch = tone * 2 ** (rng.integers(12) / 12)
            sound += 0.1 * rng.uniform(0.4, 1.0) * np.sin(2 * np.pi * pitch * time + phase)
    soundfile.write(path, sound.astype(np.float32), RATE)


def write_backbone(path: Path) -> None:
    """Write a tiny AST that reads whole clips, with the class names of the shipped one."""
    dims = {"embed_dim": 32, "depth": 1, "num_heads": 2, "stride": 16, "frames": 1024, "mels": 128}
    network = backbones.build("ast", n_source=len(sounds.CLASSES), **dims)
    weights.save(network, path, sounds.CLASSES)


def write_teacher(path: Path) -> None:
    """Write musicnn with random weights."""
    tags = [f"tag {number}" for number in range(50)]
    weights.save(backbones.build("musicnn"), path, tags)


def write_own_data(folder: Path) -> Path:
    """Write twelve short files and a CSV about them, as own data; returns the CSV."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("path", "group", "split", *CLASSES)]
    for number in range(12):
        present = np.arange(len(CLASSES)) % 2 == number % 2
        write_sound(folder / f"{number}.wav", rng, present, seconds=1.0)
        split = ("train", "train", "valid", "valid", "test", "test")[number % 6]
        rows.append((f"{number}.wav", f"song {number}", split, *present.astype(int)))
    write_csv(folder / "songs.csv", rows)
    return folder / "songs.csv"


def write_csv(path: Path, rows: list[tuple]) -> None:
    """Write rows as a CSV with Unix line ends."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
