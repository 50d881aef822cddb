"""What a run would take: a few of its steps are made, and what they took is scaled.

They are made on noise with the labels of the run's first clips. Time grows with the number of
clips; the memory of a step does not. So the estimate needs the manifest but no features, and leaves
nothing behind. It is made in a process of its own, whose peak of memory is then the run's.
"""

import contextlib
import os
import resource
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .. import devices, features, processes, registry
from ..data import dataset
from ..distributed import process_group
from ..run_folder import RunFolder
from . import experiment, trainer

STEPS = 4  # of each epoch that is tried, unless asked for otherwise
EPOCHS = 2  # the first pays for what is done once


@dataclass(frozen=True)
class Cost:
    """What one run would take.

    Attributes:
        prepare_s: seconds before the first epoch, such as those of computing embeddings, as if
            there were none yet.
        shared_s: of these, those for embeddings that runs of other seeds read as well.
        epoch_s: seconds of an epoch, its validation included.
        epochs: how many there are at most.
        peak_bytes: of the device's memory; on a CPU of the whole process.
        feature_bytes: of all clips' features, which come on top where they are kept there.
    """

    prepare_s: float
    shared_s: float
    epoch_s: float
    epochs: int
    peak_bytes: int
    feature_bytes: int

    @property
    def seconds(self):
        """Of the whole run, if it is not stopped early."""
        return self.prepare_s + self.epochs * self.epoch_s


def estimate(conf, context, device, steps=STEPS):
    """The Cost of the run that a resolved config describes.

    Args:
        conf: the config, and under "run" what identifies the run.
        context: experiment.RunContext; its features need not be there.
        device: the one that the run would be on.
        steps: of each epoch that is tried.
    """
    with processes.pool(1) as process:
        return process.submit(_try, conf, context, device, steps, torch.get_num_threads()).result()


def _try(conf, context, device, steps, threads):
    torch.set_num_threads(threads)
    if device.type == "cpu":
        devices.keep_freed_memory()
    feature = features.build(**registry.resolve("feature", conf["feature"], registry.outside(conf)))
    size = conf["train"]["batch_size"]
    splits = experiment.splits_of(context.clips, conf)
    share = min(1.0, steps * size / len(splits["train"]))
    few = {split: own[: max(1, round(share * len(own)))] for split, own in splits.items()}
    noise = {split: torch.randn(len(own), *feature.shape).half() for split, own in few.items()}
    tried = {
        split: dataset.Clips(own, context.classes, noise[split].__getitem__)
        for split, own in few.items()
    }
    epochs = EPOCHS + conf["method"].get(
        "epochs", 0
    )  # of a method's first stage, none of which may be chosen
    short = conf | {"train": conf["train"] | {"epochs": epochs, "patience": None}}
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
    ):
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            context = replace(
                context,
                data=None,
                keep="memory",
                memory={experiment.key(conf, "memory"): (tried, "memory")},
            )
            experiment.train(Path(folder), short, context, process_group.SINGLE_PROCESS, device)
        state = trainer.read_last(RunFolder(Path(folder)))
    history, about = state["history"], state["about"]
    return Cost(
        prepare_s=about["prepare_seconds"] / share,
        shared_s=about["shared_seconds"] / share,
        epoch_s=history[-1]["seconds"] / share,
        epochs=conf["train"]["epochs"]
        if history[-1]["epoch"]
        else 1,  # one in which nothing is learned by gradient
        peak_bytes=torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        feature_bytes=2 * sum(map(len, splits.values())) * int(torch.tensor(feature.shape).prod()),
    )
