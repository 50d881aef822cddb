"""Estimate time and memory of a run by timing a few of its steps on random input.

The labels are those of the run's first clips. Time grows with the number of clips; the memory of a
step does not. So the estimate needs the manifest but no features, and leaves nothing behind. It is
made in a separate process, whose peak of memory is then the run's.
"""

import contextlib
import os
import resource
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import PartialState

from .. import devices, distributed, features, processes, registry
from ..data import dataset
from ..run_folder import RunFolder
from ..settings import Config
from . import experiment, trainer
from .trainer import format_duration

STEPS = 4  # of each epoch that is tried, by default
EPOCHS = 2  # the first pays for what is done once


@dataclass(frozen=True)
class Cost:
    """Time and memory of one run.

    Attributes:
        prepare_s: seconds before the first epoch, such as those of computing embeddings, as if
            there were none yet.
        shared_s: of these, those for embeddings that runs of other seeds read as well.
        epoch_s: seconds of an epoch, its validation included.
        epochs: how many there are at most.
        peak_bytes: of the device's memory; on a CPU of the whole process.
        feature_bytes: of all clips' features, which come on top if they are kept there.
    """

    prepare_s: float
    shared_s: float
    epoch_s: float
    epochs: int
    peak_bytes: int
    feature_bytes: int

    @property
    def seconds(self) -> float:
        """Of the whole run, if it is not stopped early."""
        return self.prepare_s + self.epochs * self.epoch_s

    def __str__(self) -> str:
        return (
            f"about {format_duration(self.seconds)} per seed ({format_duration(self.prepare_s)}, "
            f"then {self.epochs} x {format_duration(self.epoch_s)} at most); "
            f"{self.peak_bytes / 1e9:.1f} GB, and {self.feature_bytes / 1e9:.1f} GB of features "
            "if they are kept there"
        )


def estimate(
    conf: Config, context: experiment.RunContext, device: torch.device, steps: int = STEPS
) -> Cost:
    """Estimate the cost of the run that a resolved config describes.

    Args:
        conf: the config, and under "run" what identifies the run.
        context: its features need not be there.
        device: the one that the run would be on.
        steps: of each epoch that is tried.
    """
    with processes.pool(1, remedy="set a smaller train.micro_batch") as pool:
        return pool.submit(_try, conf, context, device, steps, torch.get_num_threads()).result()


def _try(conf, context, device, steps, threads):
    distributed.forget_launch()
    torch.set_num_threads(threads)
    if device.type == "cpu":
        devices.keep_freed_memory()
    feature = features.build(
        **registry.resolve("feature", conf.feature.to_dict(), conf.outside_classes)
    )
    clips_of = experiment.splits_of(context.clips, conf)
    n_clips = sum(map(len, clips_of.values()))
    tried = min(1.0, steps * conf.train.batch_size / max(1, len(clips_of["train"])))
    splits = {}
    for split, clips in clips_of.items():
        clips = clips[: max(1, round(tried * len(clips)))]
        noise = torch.randn(len(clips), *feature.shape).half()
        splits[split] = dataset.Clips(clips, context.classes, noise.__getitem__)
    state = _train_quietly(_shortened(conf), context, splits, device)
    about = state["about"]
    last = state["history"][-1]
    return Cost(
        prepare_s=about["prepare_seconds"] / tried,
        shared_s=about["shared_seconds"] / tried,
        epoch_s=last["seconds"] / tried,
        epochs=conf.train.epochs if last["epoch"] else 1,  # 1 if nothing needs gradients
        peak_bytes=_peak_memory(device),
        feature_bytes=2 * n_clips * int(torch.tensor(feature.shape).prod()),
    )


def _shortened(conf):
    """The config with as few epochs as show what one costs."""
    # None of a method's first stage may be selected.
    epochs = EPOCHS + conf.method.options.get("epochs", 0)
    return replace(conf, train=replace(conf.train, epochs=epochs, patience=None))


def _train_quietly(conf, context, splits, device):
    """Train on splits in memory; return what last.pt holds."""
    context = replace(
        context,
        data=None,
        keep="memory",
        memory={experiment.key(conf, "memory"): (splits, "memory")},
    )
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        group = PartialState(cpu=device.type == "cpu")
        experiment.train(folder, conf, context, group, device)
        return trainer.read_last(RunFolder(folder))


def _peak_memory(device):
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
