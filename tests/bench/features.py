"""Features: from audio files to the store

`src/extract.py` itself, start to end and on all cores, against decoding alone: as many processes
that only read each file by soundfile (libsndfile), at its own rate, with no start to pay for. They take
turns. The clips are ten seconds of 44.1 kHz stereo Vorbis, as OpenMIC-2018's; 48 different ones are made
here from decaying harmonic tones and noise, and linked under as many names as there are clips, so all are read from the page cache.
Memory is the highest sum of the proportional shares (PSS) of the extraction's processes, looked at each second.
Then: the straight line through these times, and where one process spends its time on a clip.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
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

SIZES, QUICK_SIZES = (1_000, 2_000, 5_000, 10_000, 20_000), (100, 300)
DIFFERENT = 48
RATE = 44_100
EXTRACT = [
    sys.executable,
    str(record.ROOT / "src" / "extract.py"),
    "--conf-dir",
    str(record.ROOT / "egs" / "openmic" / "conf"),
    "--conf",
    "ast_linear",
]


def main(args):
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        pool = [sound(Path(folder) / "pool" / f"{seed}.ogg", seed) for seed in range(DIFFERENT)]
        rows = [measure(Path(folder) / str(count), pool, count, args.nj) for count in args.clips]
        ratio, memory = rows[-1]["times decoding"], rows[-1]["peak GB"]
        rows[-1] |= {
            "goal": "at most 1.5 times decoding and 2 GB",
            "value": ratio,
            "met": ratio <= 1.5 and memory <= 2,
        }
        record.save("features", [*rows, *lines(rows)] + parts(pool[0], folder))


def measure(data, pool, count, nj):
    """The row of one number of clips; 20,000, which is judged, is measured three times."""
    corpus(data, pool, count)
    peak, repeats = [0], 3 if count == SIZES[-1] else 1
    work = {"decode": partial(decode_all, data, nj), "extract": partial(extract, data, nj, peak)}
    seconds = {
        name: float(np.median(taken))
        for name, taken in record.alternate(work, repeats, warmup=0).items()
    }
    ratio = seconds["extract"] / seconds["decode"]
    for path in data.rglob("*.h5"):
        path.unlink()
    return {
        "clips": count,
        "processes": nj,
        "decode s": seconds["decode"],
        "extract s": seconds["extract"],
        "clips/s": count / seconds["extract"],
        "times decoding": ratio,
        "peak GB": peak[0] / 1e9,
        "goal": None,
        "met": None,
    }


def extract(data, nj, peak):
    """Run the stage from nothing; `peak` gets the largest memory of its processes."""
    for path in data.rglob("*.h5"):
        path.unlink()
    process = subprocess.Popen(
        [*EXTRACT, "--data", data, "--nj", str(nj)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with watched(process.pid, peak):
        if process.wait():
            raise RuntimeError(f"src/extract.py ended with {process.returncode}")


@contextlib.contextmanager
def watched(pid, peak):
    """Meanwhile, keep in peak[0] the largest sum of the memory of a process and its descendants, in bytes."""
    over = threading.Event()

    def watch():
        while not over.wait(1.0):
            peak[0] = max(peak[0], sum(map(memory, tree(pid))))

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    over.set()
    thread.join()


def tree(pid):
    """The process and its descendants."""
    with contextlib.suppress(OSError):
        yield pid
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))


def memory(pid):
    """Bytes of a process, pages that several use counted in proportion; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def decode_all(data, nj):
    paths = sorted((data / "audio").iterdir())
    with get_context("fork").Pool(nj) as pool:
        for _ in pool.imap(decode, paths, chunksize=16):
            pass


def decode(path):
    """All that any extraction has to do: a file's samples, of all channels, at its own rate."""
    return len(soundfile.read(path, dtype="float32")[0])


def lines(rows):
    """Rows: the straight line through the seconds, and how far the most distant of them is from it."""
    count = np.array([row["clips"] for row in rows])
    for key in ("decode s", "extract s"):
        seconds = np.array([row[key] for row in rows])
        slope, start = np.polyfit(count, seconds, 1)
        apart = np.abs(start + slope * count - seconds).max() / seconds.max()
        yield {
            "linear in clips": key,
            "start s": float(start),
            "ms per clip": 1000 * float(slope),
            "largest distance, % of the longest": 100 * float(apart),
        }


def parts(path, folder):
    """Rows: milliseconds that one process spends on a clip, in each thing that it does."""
    torch.set_num_threads(1)
    feature = features.build("logmel")
    mono = sum(soundfile.read(path, dtype="float32")[0].T) / 2
    waveform = torch.from_numpy(audio.fit(audio.resample(mono, RATE, audio.SAMPLE_RATE)))[None]
    log_mel = feature(waveform)[0]
    shard = np.stack([log_mel.half().numpy()] * feature_store.SHARD_CLIPS)
    made_from = {str(i): "" for i in range(feature_store.SHARD_CLIPS)}
    work = {
        "decode and average the channels": partial(audio.duration, path),
        "resample": partial(audio.resample, mono, RATE, audio.SAMPLE_RATE),
        "log-mel": partial(feature, waveform),
        "to float16": lambda: log_mel.half().numpy(),
    }
    taken = record.alternate(work, 30)
    taken["write"] = (
        record.alternate(
            {"": partial(feature_store.write_shard, folder, 0, shard, made_from, {})}, 3
        )[""]
        / feature_store.SHARD_CLIPS
    )
    return [{"part of a clip": name, **record.spread(seconds)} for name, seconds in taken.items()]


def corpus(data, pool, count):
    """A manifest of `count` clips whose audio are links to the files of the pool."""
    (data / "audio").mkdir(parents=True)
    clips = []
    for index in range(count):
        name = f"{index:06d}"
        os.link(pool[index % len(pool)], data / "audio" / f"{name}.ogg")
        clips.append(Clip(name, name, f"audio/{name}.ogg", 0.0, "train", {"tone": 1.0}))
    manifest.write(data, manifest.with_hashes(data, clips), ["tone"])


def sound(path, seed, seconds=audio.CLIP_SECONDS, rate=RATE):
    """Write a stereo Ogg file of harmonic tones that decay, over some noise; returns its path."""
    rng, time_s = np.random.default_rng(seed), np.arange(seconds * rate) / rate
    mix = 0.02 * rng.standard_normal((len(time_s), 2))
    for start in np.sort(rng.integers(0, len(time_s) - rate, 4 * seconds)):
        t = time_s[: min(2 * rate, len(time_s) - start)]
        harmonics = np.arange(1, 11)
        tone = (
            np.sin(2 * np.pi * rng.uniform(80, 1000) * harmonics[:, None] * t) / harmonics[:, None]
        ).sum(axis=0)
        mix[start : start + len(t)] += (tone * np.exp(-t * rng.uniform(1, 6)))[
            :, None
        ] * rng.uniform(0, 1, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", rate, 2, "VORBIS", format="OGG") as file:
        for start in range(
            0, len(mix), rate
        ):  # libsndfile crashes where a long Vorbis file is written at once
            file.write(0.5 * mix[start : start + rate] / np.abs(mix).max())
    return path


def parse():
    parser = record.parser(__doc__, device=False)
    parser.add_argument(
        "--clips",
        type=int,
        nargs="+",
        metavar="N",
        help=f"numbers of clips (default: {' '.join(map(str, SIZES))})",
    )
    parser.add_argument(
        "--nj",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes (default: one per core)",
    )
    parser.add_argument(
        "--folder",
        help="where the clips and features are made, about 6 GB (default: the system's temporary folder)",
    )
    args = parser.parse_args()
    args.clips = args.clips or (QUICK_SIZES if args.quick else SIZES)
    return args


if __name__ == "__main__":
    main(parse())
