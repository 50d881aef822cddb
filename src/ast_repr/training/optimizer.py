"""Optimisers over the trained parameters, optionally with another learning rate for the head."""

import torch
from torch import nn

from ..registry import unknown

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
        raise ValueError(unknown("optimizer", name, OPTIMIZERS))
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
            "nothing to train: neither the reprogrammer, nor the head, nor the backbone "
            "has trainable parameters"
        )
    try:
        return OPTIMIZERS[name](groups, **options)
    except TypeError as error:
        raise ValueError(f"optimizer {name!r}: {error}") from error
