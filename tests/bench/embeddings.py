"""Rows that need no gradient through AST: taught on what AST says once, against computing it anew

What the heads of AST-BS (768 numbers a clip), of the source-label mapping (527) and of a forest on AST's embeddings cost at the paper's size:
20,000 clips, random ones here, 30 epochs of batches of 16 by the trainer itself with validation on a tenth as many; a forest is fitted at once, 100 trees
an instrument. An epoch without the cache would pass all clips through AST-base again, in float32 as the cache is filled: measured on a sample of
32 clips and multiplied, as the row says.
"""

import tempfile
import time
from pathlib import Path

import networks
import numpy as np
import record
import torch

from ast_repr import devices, methods
from ast_repr.classifier import HeadOnlyModel, build_model
from ast_repr.data import dataset
from ast_repr.manifest import Clip
from ast_repr.run_folder import RunFolder
from ast_repr.settings import Select
from ast_repr.training import optim, trainer

PLAN = {
    "batch_size": 16,
    "micro_batch": None,
    "patience": None,
    "clip_norm": 1.0,
    "schedule": {"name": "cosine", "warmup": 1},
    "select": Select("valid", "macro_f1", "max"),
    "seed": 0,
}
HEADS = {
    "AST-BS": ({"name": "embedding"}, 768),
    "source-label mapping": ({"name": "labelmap", "kind": "linear"}, 527),
    "forest on embeddings": ({"name": "forest", "trees": 100, "max_depth": 8}, 768),
}


def main(args):
    where = devices.choose(args.device)
    count, epochs, sample, small = (
        (1000, 3, 4, {"depth": 1}) if args.quick else (20_000, 30, 32, {})
    )
    model, spec = networks.paper("none", **small)
    computing = compute(model.to(where).eval(), sample, where)
    anew = float(np.median(computing)) * count
    rows = []
    for name, (head, width) in HEADS.items():
        probe = HeadOnlyModel(build_model(networks.CLASSES, **spec | {"head": head}))
        taught = fit if hasattr(probe.head, "fit") else teach
        seconds = taught(
            probe, readings(count, width, 0), readings(count // 10, width, 1), epochs, where
        )
        ratio = (anew + np.median(seconds)) / np.median(seconds)
        rows.append(
            {
                "row": name,
                "numbers a clip": width,
                "clips": f"{count:,}",
                "on": where.type,
                "epochs": len(seconds),
                **record.spread(seconds, "s"),
                "all epochs s": float(seconds.sum()),
                "times less than computing anew": float(ratio),
                **record.goal(float(ratio), least=100, unit=" times"),
            }
        )
    record.save(
        "embeddings",
        [
            *rows,
            {
                "computing anew": f"AST-base, {sample} clips measured",
                "on": where.type,
                **record.spread(computing),
                "per": "clip",
                f"{count:,} clips s (multiplied)": anew,
            },
        ],
        on=where,
    )


def compute(model, sample, where):
    """Seconds that AST takes for a clip, as the cache is filled."""
    log_mels = torch.randn(sample, 1, 1024, 128)

    @torch.no_grad()
    def anew():
        model.head_input(log_mels.to(where))

    return record.alternate({"": anew}, 3)[""] / sample


def teach(probe, train, valid, epochs, where):
    """Seconds of each epoch of the head's training."""
    with tempfile.TemporaryDirectory() as folder:
        method = methods.build("supervised", model=probe).to(where)
        history = trainer.Trainer(
            method,
            optim.build("adamw", probe, lr=0.005),
            trainer.Plan(epochs=epochs, **PLAN),
            RunFolder(Path(folder)),
            where,
        ).fit(train, valid)
    return np.array([row["seconds"] for row in history])


def fit(probe, train, valid, epochs, where):
    """Seconds that the head takes to be fitted, as the only epoch."""
    started, batch = time.perf_counter(), train.batch(torch.arange(len(train)))
    probe.head.fit(batch.features, batch.targets, batch.mask, 0)
    return np.array([time.perf_counter() - started])


def readings(count, width, seed):
    """Clips with random numbers for what a head reads, and labels of which a tenth are observed."""
    rng = np.random.default_rng(seed)
    labels = [
        {networks.CLASSES[k]: float(rng.random()) for k in rng.choice(20, 2, replace=False)}
        for _ in range(count)
    ]
    clips = [Clip(f"{seed}-{i}", str(i), "", 0.0, "train", own) for i, own in enumerate(labels)]
    return dataset.Clips(
        clips,
        networks.CLASSES,
        torch.from_numpy(rng.standard_normal((count, width), np.float32)).__getitem__,
    )


if __name__ == "__main__":
    main(record.parser(__doc__).parse_args())
