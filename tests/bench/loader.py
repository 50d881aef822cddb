"""Feeding the model: time of a batch against the step that uses it.

Batches of 16 log-mels (1024 x 128, float16) in the random order of an epoch, as float32 on the
device, one after another: the time that the trainer would wait if it could not read while it
computes. From disk it reads ahead, one window of four shards. "Cold": the shards were dropped from
the page cache before the epoch. The step is the paper's, forward and backward through AST-base
behind the U-Net, in the precision of training.
"""

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

import networks
import numpy as np
import record
import torch
from step import step_of

from ast_repr import devices, manifest
from ast_repr.data import dataset, feature_store
from ast_repr.manifest import Clip

BATCH = 16
GOAL = 3.0  # per cent of a step
SHAPE = (1, 1024, 128)


def main(args: argparse.Namespace) -> None:
    """Time the batches and the step, and save the rows."""
    device = devices.choose(args.device)
    count = 64 if args.quick else args.clips
    repeats = 1 if args.quick else 5
    step_s = time_step(device, networks.QUICK if args.quick else {}, repeats)
    places = ["memory", "disk, warm", "disk, cold"]
    if device.type == "cuda":
        places.append("device")
    clips = []
    for index in range(count):
        labels = {networks.CLASSES[index % len(networks.CLASSES)]: 1.0}
        clips.append(Clip(str(index), str(index), "", 0.0, "train", labels))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        write_store(folder, clips)
        store = feature_store.Store(folder)
        work = {}
        for place in places:
            keep = place.partition(",")[0]
            loaded = dataset.load(clips, networks.CLASSES, store, keep, device)
            dropped = store.folder if place == "disk, cold" else None
            work[place] = partial(take_epoch, loaded, device, dropped)
        seconds = record.alternate(work, repeats)
    rows = []
    for place in places:
        batch_s = seconds[place] * BATCH / count
        share = 100 * float(np.median(batch_s)) / step_s
        row = {"features in": place, "to": device.type, "clips": count}
        row |= record.spread(batch_s)
        row |= {"step ms": 1000 * step_s, "% of the step": share}
        rows.append(row | record.goal(share, most=GOAL, unit=" %"))
    record.save("loader", rows, on=device)


def take_epoch(clips: dataset.Clips, device: torch.device, dropped: Path | None) -> None:
    """Take each batch of an epoch; the shards in `dropped` leave the page cache first."""
    if dropped is not None:
        for path in Path(dropped).glob("*.h5"):
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for batch in clips.shuffled(BATCH, seed=0, epoch=0):
        batch.to(device)


def time_step(device: torch.device, dims: dict, repeats: int) -> float:
    """Return the median seconds of a training step."""
    model, _ = networks.paper(**dims)
    precision = torch.bfloat16 if devices.has_bf16(device) else torch.float32
    step = step_of(model.to(device).train(), precision, BATCH, device)
    return float(np.median(record.alternate({"step": step}, repeats)["step"]))


def write_store(folder: str, clips: list[Clip]) -> None:
    """Write a store of random numbers, the same in each shard."""
    size = feature_store.SHARD_CLIPS
    values = np.random.default_rng(0).normal(-4, 4, (size, *SHAPE)).astype(np.float16)
    for index, start in enumerate(range(0, len(clips), size)):
        made_from = manifest.identities(clips[start : start + size], "logmel")
        feature_store.write_shard(folder, index, values[: len(made_from)], made_from, {})


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = record.parser(__doc__)
    parser.add_argument("--clips", type=int, default=4096, help="clips in the store, 256 KB each")
    parser.add_argument("--folder", help="folder for the store, on a disk (default: temporary)")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
