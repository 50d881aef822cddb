"""Learning-rate schedules as pure functions of progress, so that a resumed run needs no state for them."""

import math

from .rooms import unknown


def constant(epoch, epochs):
    """1 throughout."""
    return 1.0


def cosine(epoch, epochs, warmup=0.0, floor=0.0):
    """Linear rise over `warmup` epochs, then half a cosine down to `floor` at the end."""
    if epoch < warmup:
        return epoch / warmup
    done = (epoch - warmup) / max(epochs - warmup, 1e-9)
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def steps(epoch, epochs, first=5, last=25, gamma=0.85, every=1):
    """x gamma at the start of epoch number `first`, counted from 0, and at every `every`-th from there to `last` (Gong et al. 2021, ESC-50)."""
    return gamma ** max(0, (min(int(epoch), last) - first) // every + 1)


SCHEDULES = {"constant": constant, "cosine": cosine, "steps": steps}


def factor(name, epoch, epochs, **options):
    """Factor of the learning rate at `epoch` (fractional: epochs done so far) of `epochs`.

    Raises:
        ValueError: an unknown name; the message lists what there is.
        TypeError: an unknown option.
    """
    if name not in SCHEDULES:
        raise ValueError(unknown("schedule", name, SCHEDULES))
    return SCHEDULES[name](epoch, epochs, **options)
