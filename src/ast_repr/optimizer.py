"""Optimisers over what learns, with a rate of its own for the head where one is given."""

import torch

from .rooms import unknown

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def build(name, model, lr=None, head_lr=None, **options):
    """Build the optimiser `name` over the trainable parameters of a Reprogrammed.

    Args:
        lr: learning rate, which has no default; `head_lr`: the head's, None for the same.
        options: the optimiser's own (`betas`, `weight_decay`, `momentum`).

    Raises:
        ValueError: an unknown name or option (the message lists what there is), no lr, or nothing
            to train.
    """
    if name not in OPTIMIZERS:
        raise ValueError(unknown("optimizer", name, OPTIMIZERS))
    if lr is None:
        raise ValueError(f"optimizer {name!r} needs: lr")
    head = [p for p in model.head.parameters() if p.requires_grad]
    own = {id(p) for p in head}
    rest = [p for p in model.trainable_parameters() if id(p) not in own]
    groups = [
        {"params": rest, "lr": lr},
        {"params": head, "lr": lr if head_lr is None else head_lr},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError(
            "nothing to train: "
            "neither the reprogrammer, nor the head, nor the backbone has trainable parameters"
        )
    try:
        return OPTIMIZERS[name](groups, **options)
    except TypeError as error:
        raise ValueError(f"optimizer {name!r}: {error}") from error
