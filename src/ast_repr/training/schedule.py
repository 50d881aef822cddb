"""Learning-rate schedules as pure functions of progress: a resumed run needs no state for them."""

import math

from ..registry import unknown


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
        ValueError: an unknown name; the message lists the valid ones.
        TypeError: an unknown option.
    """
    if name not in SCHEDULES:
        raise ValueError(unknown("schedule", name, SCHEDULES))
    return SCHEDULES[name](epoch, epochs, **options)
