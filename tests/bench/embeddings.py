"""Methods that need no gradient through AST: training on cached embeddings.

Time of training the heads of AST-BS (768 values per clip), of source-label mapping (527) and of a
forest on AST's embeddings at the paper's size: 20,000 random clips, 30 epochs of batches of 16 by
the trainer with validation on a tenth as many; a forest is fitted once, 100 trees per instrument.
Without the cache each epoch would pass all clips through AST-base again: measured in float32, on a
sample of 32 clips, and multiplied.
"""

import argparse
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
    "AST-BS": ({"name": "embedding"}, "embed_dim"),
    "source-label mapping": ({"name": "labelmap", "kind": "linear"}, "n_source"),
    "forest on embeddings": ({"name": "forest", "trees": 100, "max_depth": 8}, "embed_dim"),
}


def main(args: argparse.Namespace) -> None:
    """Time a pass through AST-base and the epochs of each head, and save the rows."""
    device = devices.choose(args.device)
    count = 200 if args.quick else 20_000
    epochs = 3 if args.quick else 30
    sample = 4 if args.quick else 32
    model, spec = networks.paper("none", **(networks.QUICK if args.quick else {}))
    clip_s = time_backbone(model.to(device).eval(), sample, device)
    uncached_s = float(np.median(clip_s)) * count
    rows = []
    for name, (head, size) in HEADS.items():
        width = spec["backbone"]["options"][size]
        model = HeadOnlyModel(build_model(networks.CLASSES, **spec | {"head": head}))
        train = random_clips(count, (width,), seed=0)
        valid = random_clips(count // 10, (width,), seed=1)
        if hasattr(model.head, "fit"):
            seconds = fit_head(model, train)
        else:
            seconds = train_head(model, train, valid, epochs, device)
        epoch_s = float(np.median(seconds))
        ratio = (uncached_s + epoch_s) / epoch_s
        row = {"method": name, "values per clip": width, "clips": count, "on": device.type}
        row |= {"epochs": len(seconds), **record.spread(seconds, "s")}
        row |= {"all epochs s": float(seconds.sum()), "times faster than uncached": ratio}
        rows.append(row | record.goal(ratio, least=100, unit=" times"))
    row = {"uncached": f"AST-base, {sample} clips measured", "on": device.type}
    row |= {**record.spread(clip_s), "per": "clip"}
    rows.append(row | {f"{count:,} clips s (multiplied)": uncached_s})
    record.save("embeddings", rows, on=device)


def time_backbone(model: torch.nn.Module, sample: int, device: torch.device) -> np.ndarray:
    """Return the seconds per clip of what fills the cache, three times."""
    log_mels = torch.randn(sample, 1, 1024, 128)

    @torch.no_grad()
    def embed():
        model.head_input(log_mels.to(device))

    return record.alternate({"embed": embed}, 3)["embed"] / sample


def train_head(
    model: HeadOnlyModel,
    train: dataset.Clips,
    valid: dataset.Clips,
    epochs: int,
    device: torch.device,
) -> np.ndarray:
    """Return the seconds of each epoch of training."""
    method = methods.build("supervised", model=model).to(device)
    adamw = optim.build("adamw", model, lr=0.005)
    plan = trainer.Plan(epochs=epochs, **PLAN)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        history = trainer.Trainer(method, adamw, plan, run, device).fit(train, valid)
    return np.array([row["seconds"] for row in history])


def fit_head(model: HeadOnlyModel, train: dataset.Clips) -> np.ndarray:
    """Return the seconds of the only epoch of a head that is fitted at once."""
    batch = train.batch(torch.arange(len(train)))
    start = time.perf_counter()
    model.head.fit(batch, None, 0)
    return np.array([time.perf_counter() - start])


def random_clips(count: int, shape: tuple[int, ...], seed: int) -> dataset.Clips:
    """Make clips of random features, of whose labels a tenth is observed."""
    rng = np.random.default_rng(seed)
    clips = []
    for index in range(count):
        labels = {networks.CLASSES[k]: float(rng.random()) for k in rng.choice(20, 2, False)}
        clips.append(Clip(f"{seed}-{index}", str(index), "", 0.0, "train", labels))
    features = torch.from_numpy(rng.standard_normal((count, *shape), np.float32))
    return dataset.Clips(clips, networks.CLASSES, features.__getitem__)


if __name__ == "__main__":
    main(record.parser(__doc__).parse_args())
