"""Train only the head, on cached inputs of it: before the loop, or without one."""

import time
from dataclasses import replace

import torch
from accelerate import PartialState
from torch import nn

from .. import checkpoint, methods
from ..classifier import HeadOnlyModel, Reprogrammed
from ..data.dataset import Clips
from ..run_folder import RunFolder
from ..settings import ProbeFirst
from . import optim
from .embedding_cache import EmbeddingCache
from .trainer import Plan, Trainer


def embed(
    model: Reprogrammed,
    splits: dict[str, Clips],
    spec: dict,
    cache: EmbeddingCache,
    device: torch.device,
    label: str,
) -> tuple[dict[str, Clips], float]:
    """Compute the head's input for the clips of some splits, or read it from the cache.

    Args: as for `EmbeddingCache.read`.

    Returns:
        the splits with the head's input as their features, and the seconds that it took, or had
        taken for the run that computed it.
    """
    embedded = {}
    total = 0.0
    for split, clips in splits.items():
        inputs, seconds = cache.read(model, clips, spec, device, f"{label}: embed {split}")
        embedded[split] = clips.with_features(inputs)
        total += seconds
    return embedded, total


def probe(
    run: RunFolder,
    model: Reprogrammed,
    splits: dict[str, Clips],
    plan: Plan,
    optimizer: dict,
    settings: ProbeFirst,
    device: torch.device,
    group: PartialState,
) -> float:
    """Train the head alone first (LP-FT, Kumar et al. 2022); leave the model with its best epoch.

    Supervised, present or absent as targets, in float32, without augmentation.

    Args:
        run: folder of this training.
        splits: from `embed`.
        plan: of the whole run.
        optimizer: keywords of `optim.build`.
        settings: in place of the run's.
        group: the processes that share it.

    Returns:
        the seconds it took when it was trained.
    """
    head = HeadOnlyModel(model)
    trainer = Trainer(
        methods.build("supervised", model=head),
        optim.build(model=head, **optimizer | {"lr": settings.lr, "head_lr": None}),
        replace(
            plan,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            patience=settings.patience,
        ),
        run,
        device,
        label=f"{run}",
        group=group,
    )
    run.path.mkdir(exist_ok=True)
    history = trainer.fit(splits["train"], splits.get("valid"))
    if "valid" in splits:  # otherwise the last is kept
        model.load_trainable_state_dict(
            checkpoint.load(run.best(plan.select.split, plan.select.metric))["learned"]
        )
    return sum(entry["seconds"] for entry in history)


def fit(head: nn.Module, splits: dict[str, Clips], seed: int) -> float:
    """Fit a head that is not trained by gradients; return the seconds it took.

    Args:
        splits: from `embed`.
    """
    started = time.monotonic()
    whole = {name: clips.whole() for name, clips in splits.items()}
    head.fit(whole["train"], whole.get("valid"), seed)
    return time.monotonic() - started
