"""Features: from audio files to the store.

`src/extract.py`, start to end on all cores, against decoding alone: as many processes that only
read each file by soundfile (libsndfile) at its own rate, without a start-up. They take turns. The
clips are ten seconds of 44.1 kHz stereo Vorbis, as OpenMIC-2018's: 48 different ones, decaying
harmonic tones and noise, linked under as many names as there are clips, so all are read from the
page cache. Memory is the highest sum of the proportional shares (PSS) of the extraction's
processes, sampled each second. Then: a straight line fitted to these times, and the parts of one
clip in one process.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import record
import soundfile
import torch

from ast_repr import audio, features, manifest
from ast_repr.data import feature_store
from ast_repr.manifest import Clip

SIZES = (1_000, 2_000, 5_000, 10_000, 20_000)
QUICK_SIZES = (8,)
POOL = 48
RATE = 44_100
CONFS = record.ROOT / "egs" / "openmic" / "conf"
EXTRACT = [sys.executable, record.ROOT / "src" / "extract.py", "--conf-dir", CONFS]


def main(args: argparse.Namespace) -> None:
    """Time extraction and decoding for each number of clips, and save the rows."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        pool = [
            write_sound(Path(folder) / "pool" / f"{seed}.ogg", seed)
            for seed in range(4 if args.quick else POOL)
        ]
        rows = [measure(Path(folder) / str(count), pool, count, args.nj) for count in args.clips]
        last = rows[-1]
        last["goal"] = "at most 1.5 times decoding and 2 GB"
        last["value"] = last["times decoding"]
        last["met"] = last["times decoding"] <= 1.5 and last["peak GB"] <= 2
        if len(rows) > 2:
            rows += [fit_line(rows, "decode s"), fit_line(rows, "extract s")]
        rows += time_parts(pool[0], folder)
    record.save("features", rows)


def measure(data: Path, pool: list[Path], count: int, nj: int) -> dict:
    """Return the row of a number of clips; 20,000, which is judged, is measured three times."""
    write_corpus(data, pool, count)
    peak = [0]
    work = {"decode": partial(decode_all, data, nj), "extract": partial(extract, data, nj, peak)}
    repeats = 3 if count == SIZES[-1] else 1
    seconds = record.alternate(work, repeats, warmup=0)
    decode_s = float(np.median(seconds["decode"]))
    extract_s = float(np.median(seconds["extract"]))
    remove_features(data)
    return {
        "clips": count,
        "processes": nj,
        "decode s": decode_s,
        "extract s": extract_s,
        "clips/s": count / extract_s,
        "times decoding": extract_s / decode_s,
        "peak GB": peak[0] / 1e9,
        "goal": None,
        "met": None,
    }


def remove_features(data: Path) -> None:
    """Remove the shards of the store."""
    for path in data.rglob("*.h5"):
        path.unlink()


def extract(data: Path, nj: int, peak: list[int], conf: str = "ast_linear") -> None:
    """Run the stage from scratch; peak[0] becomes the largest memory of its processes, bytes."""
    remove_features(data)
    process = subprocess.Popen(
        [*EXTRACT, "--conf", conf, "--data", data, "--nj", str(nj)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while True:
        try:
            code = process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            peak[0] = max(peak[0], sum(map(memory, descendants(process.pid))))
            continue
        if code:
            raise RuntimeError(f"src/extract.py ended with {code}")
        return


def descendants(pid: int) -> Iterator[int]:
    """Yield the process and its descendants."""
    with contextlib.suppress(OSError):
        yield pid
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from descendants(int(child))


def memory(pid: int) -> int:
    """Return the bytes of a process, shared pages in proportion; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def decode_all(data: Path, nj: int) -> None:
    """Decode all files of the corpus in `nj` processes."""
    paths = sorted((data / "audio").iterdir())
    with get_context("fork").Pool(nj) as pool:
        for _ in pool.imap(decode, paths, chunksize=16):
            pass


def decode(path: Path) -> int:
    """Decode all channels of a file at its own rate, and return the number of samples."""
    return len(soundfile.read(path, dtype="float32")[0])


def fit_line(rows: list[dict], key: str) -> dict:
    """Return the row of the straight line through the seconds of a column."""
    count = np.array([row["clips"] for row in rows])
    seconds = np.array([row[key] for row in rows])
    slope, start = np.polyfit(count, seconds, 1)
    residual = np.abs(start + slope * count - seconds).max() / seconds.max()
    return {
        "linear in clips": key,
        "start s": float(start),
        "ms per clip": 1000 * float(slope),
        "largest residual, % of the longest": 100 * float(residual),
    }


def time_parts(path: Path, folder: str) -> list[dict]:
    """Return a row per part of one clip's extraction, in one process."""
    torch.set_num_threads(1)
    feature = features.build("logmel")
    scalogram = features.build("scalogram")
    mono = soundfile.read(path, dtype="float32")[0].mean(axis=1)
    waveform = torch.from_numpy(audio.fit(audio.resample(mono, RATE, audio.SAMPLE_RATE)))[None]
    log_mel = feature(waveform)[0]
    size = feature_store.SHARD_CLIPS
    shard = np.stack([log_mel.half().numpy()] * size)
    made_from = {str(i): "" for i in range(size)}
    work = {
        "decode and average the channels": partial(audio.duration, path),
        "resample": partial(audio.resample, mono, RATE, audio.SAMPLE_RATE),
        "log-mel": partial(feature, waveform),
        "scalogram, instead of the log-mel": partial(scalogram, waveform),
        "to float16": log_mel.half,
    }
    seconds = record.alternate(work, 30)
    write = partial(feature_store.write_shard, folder, 0, shard, made_from, {})
    seconds["write"] = record.alternate({"write": write}, 3)["write"] / size
    return [{"part of a clip": name, **record.spread(taken)} for name, taken in seconds.items()]


def write_corpus(data: Path, pool: list[Path], count: int) -> None:
    """Write a manifest of `count` clips whose audio files are links to those of the pool."""
    (data / "audio").mkdir(parents=True)
    clips = []
    for index in range(count):
        name = f"{index:06d}"
        os.link(pool[index % len(pool)], data / "audio" / f"{name}.ogg")
        clips.append(Clip(name, name, f"audio/{name}.ogg", 0.0, "train", {"tone": 1.0}))
    manifest.write(data, manifest.with_hashes(data, clips), ["tone"])


def write_sound(path: Path, seed: int) -> Path:
    """Write ten seconds of stereo Vorbis, decaying harmonic tones over noise; return the path."""
    seconds = audio.CLIP_SECONDS
    rng = np.random.default_rng(seed)
    samples = seconds * RATE
    harmonics = np.arange(1, 11)[:, None]
    mix = 0.02 * rng.standard_normal((samples, 2))
    for start in np.sort(rng.integers(0, samples - RATE, 4 * seconds)):
        t = np.arange(min(2 * RATE, samples - start)) / RATE
        waves = np.sin(2 * np.pi * rng.uniform(80, 1000) * harmonics * t) / harmonics
        tone = waves.sum(axis=0) * np.exp(-t * rng.uniform(1, 6))
        mix[start : start + len(t)] += tone[:, None] * rng.uniform(0, 1, 2)
    mix *= 0.5 / np.abs(mix).max()
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", RATE, 2, "VORBIS", format="OGG") as file:
        for start in range(0, samples, RATE):  # libsndfile crashes on long blocks of Vorbis
            file.write(mix[start : start + RATE])
    return path


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = record.parser(__doc__, device=False)
    parser.add_argument("--clips", type=int, nargs="+", metavar="N", help="numbers of clips")
    parser.add_argument("--nj", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--folder", help="folder for clips and features, 6 GB (default: temporary)")
    args = parser.parse_args()
    if args.clips is None:
        args.clips = QUICK_SIZES if args.quick else SIZES
    return args


if __name__ == "__main__":
    main(parse())
