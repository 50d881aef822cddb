"""Optimisers with a separate learning rate for the head, and learning-rate schedules.

Schedules are pure functions of progress, so that a resumed run needs no state for them.
"""

import math

import torch
from torch import nn

from .. import registry

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def build(
    name: str,
    model: nn.Module,
    lr: float | None = None,
    head_lr: float | None = None,
    **options,
) -> torch.optim.Optimizer:
    """Build the optimiser `name` over the trainable parameters of a Reprogrammed.

    Args:
        name: "adam", "adamw" or "sgd".
        model: a Reprogrammed or a HeadOnlyModel.
        lr: learning rate; it has no default.
        head_lr: learning rate of the head, None for the same.
        options: further ones of the optimiser (`betas`, `weight_decay`, `momentum`).

    Raises:
        ValueError: an unknown name or option (the message lists the valid ones), or nothing to
            train.
    """
    if name not in OPTIMIZERS:
        raise ValueError(registry.unknown("optimizer", name, OPTIMIZERS))
    if lr is None:
        raise ValueError(f"optimizer {name!r} needs: lr")
    head = [p for p in model.head.parameters() if p.requires_grad]
    head_ids = {id(p) for p in head}
    rest = [p for p in model.trainable_parameters() if id(p) not in head_ids]
    groups = []
    if rest:
        groups.append({"params": rest, "lr": lr})
    if head:
        groups.append({"params": head, "lr": lr if head_lr is None else head_lr})
    if not groups:
        raise ValueError(
            "nothing to train: no reprogrammer, adapter, head or backbone has trainable parameters"
        )
    try:
        return OPTIMIZERS[name](groups, **options)
    except TypeError as error:
        raise ValueError(f"optimizer {name!r}: {error}") from error


def constant(epoch: float, epochs: int) -> float:
    """1 throughout."""
    return 1.0


def cosine(epoch: float, epochs: int, warmup: float = 0.0, floor: float = 0.0) -> float:
    """Linear rise over `warmup` epochs, then half a cosine down to `floor` at the end."""
    if epoch < warmup:
        return epoch / warmup
    done = (epoch - warmup) / max(epochs - warmup, 1e-9)
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def steps(
    epoch: float, epochs: int, first: int = 5, last: int = 25, gamma: float = 0.85, every: int = 1
) -> float:
    """Multiply by gamma at the start of epoch `first`, counted from 0, and of every `every`-th.

    After `last` the factor stays (Gong et al. 2021, ESC-50).
    """
    return gamma ** max(0, (min(int(epoch), last) - first) // every + 1)


SCHEDULES = {"constant": constant, "cosine": cosine, "steps": steps}


def factor(name: str, epoch: float, epochs: int, **options) -> float:
    """Compute the factor of the learning rate at `epoch` (fractional: epochs done) of `epochs`.

    Raises:
        ValueError: an unknown name or option; the message lists the valid ones.
    """
    keywords = {"epoch": epoch, "epochs": epochs, **options}
    return registry.build("schedule", SCHEDULES, name, keywords)
