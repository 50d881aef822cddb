"""A head by itself: what it reads where nothing before it changes, and its training on that.

It is trained before the loop, or without one.
"""

import time
from dataclasses import replace

import torch

from .. import checkpoint, methods
from ..classifier import HeadOnlyModel
from . import optimizer, trainer


def read(model, splits, spec, cache, device, label):
    """What the head reads of the clips of some splits.

    Args: as for `cache.read`; `cache` is an embedding_cache.EmbeddingCache, `splits` is {split: dataset.Clips}.

    Returns:
        ({split: dataset.Clips whose features are what the head reads}, seconds that it took, or had
        taken for the run that computed it).
    """
    found = {
        split: cache.read(model, own, spec, device, f"{label}: embed {split}")
        for split, own in splits.items()
    }
    seconds = sum(seconds for _, seconds in found.values())
    return {
        split: splits[split].with_features(tensor) for split, (tensor, _) in found.items()
    }, seconds


def train(run, model, splits, plan, conf, device):
    """Train the head alone on what it reads, and leave the model with its best epoch.

    `probe_first` in the conf has its epochs, batch_size, patience and lr; schedule, seed and
    optimiser are the run's. Supervised, soft targets, in float32, without augmentation.

    Args:
        run: RunFolder of this training.

    Returns:
        the seconds it took, when it did.
    """
    run.path.mkdir(exist_ok=True)
    own, probe = dict(conf["train"]["probe_first"]), HeadOnlyModel(model)
    rates = {"lr": own.pop("lr"), "head_lr": None}
    history = trainer.fit(
        methods.build("supervised", model=probe),
        optimizer.build(model=probe, **(conf["optimizer"] | rates)),
        splits["train"],
        splits.get("valid"),
        run.path,
        replace(plan, **own),
        device,
    )
    if "valid" in splits:  # else the last is kept
        model.load_trainable_state_dict(checkpoint.load(run.best(plan.select))["learned"])
    return sum(row["seconds"] for row in history)


def fit(head, clips, seed):
    """Fit a head that learns at once, on everything that it reads; returns the seconds it took."""
    started, batch = time.monotonic(), clips.batch(torch.arange(len(clips)))
    head.fit(batch.features, batch.targets, batch.mask, seed)
    return time.monotonic() - started
