"""Feeding the model: what a batch costs against the step that uses it

Batches of 16 log-mels (1024 x 128, float16) in the random order of an epoch, as float32 on the device, taken one after the other
with nothing between: what the trainer would wait for if nothing could be read while it computes. From disk it can, one window
of four shards ahead. "Cold": the shards were dropped from the page cache before the epoch, and so come from the disk itself.
The step is the paper's, forward and backward through AST-base behind the U-Net, in the precision that training takes here.
"""

import os
import tempfile
from pathlib import Path

import networks
import numpy as np
import record
import torch
from step import step_of

from ast_repr import devices, manifest
from ast_repr.data import dataset, feature_store
from ast_repr.manifest import Clip

BATCH, GOAL = 16, 3.0  # per cent of a step
SHAPE = (1, 1024, 128)


def main(args):
    where = devices.choose(args.device)
    clips, small = (512, {"depth": 1}) if args.quick else (args.clips, {})
    step = float(np.median(step_seconds(where, small)))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        names = [
            Clip(str(i), str(i), "", 0.0, "train", {networks.CLASSES[i % 20]: 1.0})
            for i in range(clips)
        ]
        fill(folder, names)
        stored = feature_store.Store(folder)
        places = ["memory", "disk, warm", "disk, cold"] + (
            ["device"] if where.type == "cuda" else []
        )
        loaded = {
            place: dataset.load(names, networks.CLASSES, stored, place.partition(",")[0], where)
            for place in places
        }
        work = {
            place: lambda place=place: epoch(
                loaded[place], where, stored.folder if "cold" in place else None
            )
            for place in places
        }
        rows = []
        for place, seconds in record.alternate(work, 1 if args.quick else 3).items():
            share = 100 * np.median(seconds) * BATCH / clips / step
            rows.append(
                {
                    "features in": place,
                    "to": where.type,
                    "clips": clips,
                    **record.spread(seconds * BATCH / clips),
                    "step ms": 1000 * step,
                    "% of the step": float(share),
                    **record.goal(share, most=GOAL, unit=" %"),
                }
            )
    record.save("loader", rows, on=where)


def epoch(clips, where, dropped):
    """Take each batch of an epoch; the shards of the folder `dropped` leave the page cache first."""
    for path in Path(dropped).glob("*.h5") if dropped else ():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for batch in clips.shuffled(BATCH, seed=0, epoch=0):
        batch.to(where)


def step_seconds(where, small):
    """Seconds of some steps of training."""
    model, _ = networks.paper(**small)
    precision = torch.bfloat16 if devices.has_bf16(where) else torch.float32
    return record.alternate({"step": step_of(model.to(where).train(), precision, BATCH, where)}, 5)[
        "step"
    ]


def fill(folder, clips):
    """A store of random numbers, the same in each shard."""
    values = (
        np.random.default_rng(0)
        .normal(-4, 4, (feature_store.SHARD_CLIPS, *SHAPE))
        .astype(np.float16)
    )
    for index, start in enumerate(range(0, len(clips), feature_store.SHARD_CLIPS)):
        made_from = manifest.identities(clips[start : start + feature_store.SHARD_CLIPS], "logmel")
        feature_store.write_shard(folder, index, values[: len(made_from)], made_from, {})


def parse():
    parser = record.parser(__doc__)
    parser.add_argument(
        "--clips", type=int, default=4096, help="clips in the store, 256 KB each (4096)"
    )
    parser.add_argument(
        "--folder",
        help="where the store is made (default: the system's temporary folder, which may not be a disk)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
