"""Estimate time and memory of a run by timing a few of its steps on random features.

Time is scaled to the number of clips; the memory of a step does not depend on it. The run is tried
in a separate process, whose peak of memory is measured.
"""

import contextlib
import math
import os
import resource
import tempfile
from dataclasses import dataclass, replace

import torch
from accelerate import PartialState

from .. import distributed, features, processes
from ..data import dataset, windows
from ..settings import Config
from . import experiment, trainer
from .trainer import format_duration

STEPS = 4  # of each epoch that is tried, by default
EPOCHS = 2  # the first is slower


@dataclass(frozen=True)
class Cost:
    """Time and memory of one run.

    Attributes:
        prepare_s: seconds before the first epoch, without any cached embeddings.
        shared_s: its part for embeddings, which other seeds share.
        epoch_s: seconds of an epoch with its validation.
        epochs: largest number of epochs.
        peak_bytes: of the device's memory; on a CPU of the whole process.
        feature_bytes: of all clips' features, in addition if they are kept there.
    """

    prepare_s: float
    shared_s: float
    epoch_s: float
    epochs: int
    peak_bytes: int
    feature_bytes: int

    @property
    def seconds(self) -> float:
        """Seconds of the whole run without an early stop."""
        return self.prepare_s + self.epochs * self.epoch_s

    def __str__(self) -> str:
        return (
            f"about {format_duration(self.seconds)} per seed ({format_duration(self.prepare_s)}, "
            f"then {self.epochs} x {format_duration(self.epoch_s)} at most); "
            f"{self.peak_bytes / 1e9:.1f} GB, and {self.feature_bytes / 1e9:.1f} GB of features "
            "if they are kept there"
        )


class Trial(experiment.Experiment):
    """A run on the first clips, with random features, of as few epochs as show the cost of one.

    Attributes:
        clips: all clips by split.
        tried: fraction of them that it uses.
    """

    def __init__(self, steps: int, *args):
        super().__init__(*args)
        clips = windows.of_clips(self.context.clips, features.window(self.feature))
        self.clips = experiment.splits_of(clips, self.conf)
        fraction = self.conf.train.clip_fraction
        self.clips["train"] = self.clips["train"][: round(fraction * len(self.clips["train"]))]
        needed = steps * self.plan.batch_size
        self.tried = min(1.0, needed / max(1, len(self.clips["train"])))

    def load_splits(self) -> tuple[dict[str, dataset.Clips], str]:
        """Return the first clips of each split with noise for features."""
        splits = {}
        for split, clips in self.clips.items():
            clips = clips[: max(1, round(self.tried * len(clips)))]
            noise = torch.randn(len(clips), *self.feature.shape).half()
            splits[split] = dataset.Clips(clips, self.context.classes, noise.__getitem__)
        return splits, "memory"

    def build_trainer(self, trainee, method, augment_fn, about) -> trainer.Trainer:
        """Build a trainer that ends after a few epochs that may be selected."""
        epochs = method.first_selectable + EPOCHS
        self.plan = replace(self.plan, epochs=epochs, patience=None)
        return super().build_trainer(trainee, method, augment_fn, about)


def estimate(
    conf: Config, context: experiment.RunContext, device: torch.device, steps: int = STEPS
) -> Cost:
    """Estimate the cost of the run that a resolved config describes.

    Args:
        conf: the config of a run.
        context: its features need not exist.
        device: the one that the run would be on.
        steps: of each epoch that is tried.
    """
    with processes.pool(1, remedy="set a smaller train.micro_batch") as pool:
        return pool.submit(_try, conf, context, device, steps, torch.get_num_threads()).result()


def _try(conf, context, device, steps, threads):
    distributed.forget_launch()
    torch.set_num_threads(threads)
    if device.type == "cpu":
        processes.keep_freed_memory()
    group = PartialState(cpu=device.type == "cpu")
    context = replace(context, data=None)
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
    ):
        trial = Trial(steps, folder, conf, context, group, device)
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            trial.train()
        state = trainer.read_last(trial.run)
    about = state["about"]
    last = state["history"][-1]
    return Cost(
        prepare_s=about["prepare_seconds"] / trial.tried,
        shared_s=about["shared_seconds"] / trial.tried,
        epoch_s=last["seconds"] / trial.tried,
        epochs=conf.train.epochs if last["epoch"] else 1,  # 1 if nothing needs gradients
        peak_bytes=_peak_memory(device),
        feature_bytes=2 * sum(map(len, trial.clips.values())) * math.prod(trial.feature.shape),
    )


def _peak_memory(device):
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
