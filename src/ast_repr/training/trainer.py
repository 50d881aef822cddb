"""The epoch loop: step, validate, select, stop, resume.

After each epoch `last.pt` holds all that is needed to resume; a run that was killed and resumed
ends bit-equal, on CPU, to one that was not. The best checkpoint and history.jsonl are copies from
it, and are restored if they differ. Selection on "test" is the paper's protocol: nothing is
validated here, each epoch's checkpoint is kept, and `score.py` evaluates them all. A model without
trainable parameters is kept as epoch 0.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, reduce
from tqdm import tqdm

from .. import atomic, checkpoint, identity, metrics
from ..classifier import probabilities
from ..data.dataset import Batch, Clips, generator
from ..methods import Method
from ..run_folder import RunFolder
from ..settings import Config, Select
from . import optim


@dataclass(frozen=True)
class Plan:
    """Length and settings of the training, as conf/base.yaml explains them."""

    epochs: int
    batch_size: int
    micro_batch: int | None
    patience: int | None
    clip_norm: float | None
    schedule: dict
    select: Select
    seed: int

    @classmethod
    def of(cls, conf: Config) -> "Plan":
        """Return the plan of a run's config."""
        return cls(
            epochs=conf.train.epochs,
            batch_size=conf.train.batch_size,
            micro_batch=conf.train.micro_batch,
            patience=conf.train.patience,
            clip_norm=conf.train.clip_norm,
            schedule=conf.schedule.to_dict(),
            select=conf.select,
            seed=conf.run.seed,
        )


@dataclass
class Trainer:
    """Train the model of a method into a run folder.

    Attributes:
        method: on `device`; its `step` computes the loss.
        optimizer: of the trainable parameters, with their base learning rates; None if there are
            none.
        augment: function (batch, generator) -> batch.
        about: plain values stored in every checkpoint.
        label: name of the run in printed lines.
        writer: TensorBoard's SummaryWriter.
        group: the processes that share the run; all of them call `fit`, the main one validates and
            writes.
        history: one dict per epoch, as in history.jsonl.
        hashes: {file name: sha256} of the best checkpoint, or of each epoch's.
        best: content of the best checkpoint.
    """

    method: Method
    optimizer: torch.optim.Optimizer | None
    plan: Plan
    run: RunFolder
    device: torch.device
    augment: Callable[[Batch, torch.Generator], Batch] | None = None
    about: dict = field(default_factory=dict)
    label: str = ""
    writer: Any = None
    group: PartialState = field(default_factory=PartialState)
    history: list[dict] = field(default_factory=list, init=False)
    hashes: dict[str, str] = field(default_factory=dict, init=False)
    best: bytes | None = field(default=None, init=False)

    def fit(self, train: Clips, valid: Clips | None) -> list[dict]:
        """Train from the last finished epoch to the plan's end or an early stop.

        Args:
            valid: the validation split; None if the selection is on "test".

        Returns:
            the history.

        Raises:
            ValueError: no epoch of the plan may be selected.
            RuntimeError: nothing to validate on, or a loss that is not finite.
        """
        self._check(valid)
        self._resume()
        while not finished(self.history, self.plan):
            started = time.monotonic()
            entry = self._epoch(train)
            if self.group.is_main_process:
                if valid is not None and len(self.history) >= self.method.first_selectable:
                    entry["valid"] = self.validate(valid)
                entry["seconds"] = round(time.monotonic() - started, 3)
            (entry,) = broadcast_object_list([entry])
            self.history.append(entry)
            if self.group.is_main_process:
                self.save()
                self._report()
        self.group.wait_for_everyone()
        return self.history

    def _check(self, valid):
        if self.optimizer and self.plan.epochs <= self.method.first_selectable:
            raise ValueError(
                f"none of {self.plan.epochs} epochs may be chosen, its method needs more; "
                "raise train.epochs"
            )
        if valid is not None and not valid.mask.any():
            raise RuntimeError(
                f"{self.run}: no clip of the validation split has a label, nothing to choose an "
                "epoch by; give some of its clips labels"
            )

    def _resume(self):
        """Restore the state after the last finished epoch, if there is one."""
        state = read_last(self.run)
        if state is not None:
            self.method.load_resumable_state(state["method"])
            if state["optimizer"] is not None:
                self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"])
            self.history = state["history"]
            self.hashes = state["hashes"]
            self.best = state["best"]
            if self.group.is_main_process:
                restore_copies(self.run, state)
        if self.optimizer:
            for group in self.optimizer.param_groups:
                group.setdefault("base_lr", group["lr"])

    def _epoch(self, train):
        """Train for one epoch, unless nothing is trained; return its entry of the history."""
        if self.optimizer is None:
            return {"epoch": 0, "loss": None, "lr": None}
        epoch = len(self.history)
        clips = self.method.start_epoch(epoch, train, self.optimizer, self.device)
        loss = self.train_epoch(clips, epoch)
        return {"epoch": epoch + 1, "loss": loss, "lr": self.optimizer.param_groups[0]["lr"]}

    def train_epoch(self, train: Clips, epoch: int) -> float:
        """Train on all clips once; return the mean loss over observed cells."""
        self.method.train()
        steps = math.ceil(len(train) / self.plan.batch_size)
        batches = train.shuffled(self.plan.batch_size, self.plan.seed, epoch)
        title = f"epoch {epoch + 1}/{self.plan.epochs}"
        total = 0.0
        cells = 0
        bar = tqdm(batches, title, steps, unit="step", leave=False, disable=None)
        for step, batch in enumerate(bar):
            self._set_learning_rate(epoch + step / steps)
            observed = max(int(batch.mask.sum()), 1)
            total += self.train_step(batch, epoch, step) * observed
            cells += observed
            mean = total / cells * self.group.num_processes  # the others' parts are similar
            bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
        total = reduce(torch.tensor(total, dtype=torch.float64, device=self.device), "sum").item()
        if not math.isfinite(total):
            raise RuntimeError(
                f"the loss of epoch {epoch + 1} is {total}; expected a finite number: "
                "lower optimizer.lr"
            )
        for buffer in self.method.buffers():
            broadcast(buffer)  # BatchNorm's averages, which differ between processes on the CPU
        return total / max(cells, 1)

    def train_step(self, batch: Batch, epoch: int, step: int) -> float:
        """Make one optimiser step, if the loss has a gradient; return this process's part of it."""
        batch = batch.to(self.device)
        if self.augment is not None:  # the whole batch, so that draws do not depend on its parts
            batch = self.augment(batch, generator(self.plan.seed, epoch, step))
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        has_gradient = False
        for part, weight in self.parts(batch):
            loss = self.method.step(part, epoch, batch)["loss"] * weight
            if loss.requires_grad:
                loss.backward()
                has_gradient = True
            total += loss.item()
        if has_gradient:
            self._update()
        return total

    def parts(self, batch: Batch) -> Iterator[tuple[Batch, float]]:
        """Yield the micro-batches of this process, each with the weight of its loss.

        The clips of a micro-batch are distributed over the processes. If that leaves one of them
        without a label, all compute the whole with equal weights: SyncBatchNorm requires the same
        steps of all.
        """
        size = self.group.num_processes
        most = self.plan.micro_batch or len(batch.mask)
        for first in range(0, len(batch.mask), most):
            micro_batch = batch.select(slice(first, first + most))
            shares = [micro_batch.select(slice(rank, None, size)) for rank in range(size)]
            if all(share.mask.any() for share in shares):
                yield shares[self.group.process_index], 1.0
            else:
                yield micro_batch, 1 / size

    def _update(self):
        """Sum the gradients over the processes, clip them and step."""
        parameters = []
        for group in self.optimizer.param_groups:
            parameters += group["params"]
        if self.group.num_processes > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad = reduce(parameter.grad, "sum")
        if self.plan.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.plan.clip_norm)
        self.optimizer.step()
        self.method.after_step()

    def _set_learning_rate(self, epoch: float):
        factor = optim.factor(epoch=epoch, epochs=self.plan.epochs, **self.plan.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor

    def validate(self, valid: Clips) -> dict[str, float | None]:
        """Compute the metrics on the validation split."""
        batches = valid.batches(self.plan.batch_size)
        scores = probabilities(self.method.model_for_eval, batches, self.device)
        values = metrics.evaluate(valid.targets.numpy(), valid.mask.numpy(), scores)
        return {name: values[name] for name in metrics.SUMMARY}

    def save(self) -> None:
        """Write last.pt, history.jsonl, and a checkpoint if the epoch is the best or each is kept.

        The best checkpoint is written after last.pt, from which `restore_copies` can restore it.
        """
        entry = self.history[-1]
        select = self.plan.select
        best_path = self.run.best(select.split, select.metric)
        is_best = select.split == "valid" and best(self.history, select) is entry
        used = {
            "learned": self.method.model_for_eval.trainable_state_dict(),
            "epoch": entry["epoch"],
            "about": self.about,
        }
        if is_best:
            self.best = checkpoint.dump(used)
            self.hashes = {best_path.name: identity.of_bytes(self.best)}
        elif select.split == "test" and len(self.history) > self.method.first_selectable:
            path = self.run.epoch(entry["epoch"])
            checkpoint.save(path, used)
            self.hashes[path.name] = identity.of_file(path)
        checkpoint.save(
            self.run.last,
            {
                "method": self.method.resumable_state(),
                "optimizer": self.optimizer.state_dict() if self.optimizer else None,
                "rng": torch.get_rng_state(),
                "history": self.history,
                "epoch": entry["epoch"],
                "about": self.about,
                "hashes": self.hashes,
                "best": self.best,
            },
        )
        if is_best:
            atomic.write_bytes(best_path, self.best)
        self.run.write_history(self.history)

    def _report(self):
        """Log the last epoch: a line if no progress bar is shown, and TensorBoard's scalars."""
        entry = self.history[-1]
        if entry["loss"] is not None and not sys.stderr.isatty():
            print(f"{self.label}: {describe_epoch(self.history, self.plan)}", flush=True)
        if self.writer is not None:
            scalars = {"loss": entry["loss"], "lr": entry["lr"], **entry.get("valid", {})}
            for name, value in scalars.items():
                if value is not None:
                    self.writer.add_scalar(name, value, entry["epoch"])
            self.writer.flush()


def read_last(run: RunFolder) -> dict | None:
    """Read last.pt; None before the end of the first epoch.

    Raises:
        CheckpointError: it is damaged, or another file.
    """
    if not run.last.is_file():
        return None
    remedy = f"delete the folder {run} and train again"
    state = checkpoint.load(run.last, remedy)
    if not {"history", "about", "method", "hashes"} <= state.keys():
        raise checkpoint.CheckpointError(f"{run.last}: another kind of checkpoint; {remedy}")
    return state


def read_history(folder: str | Path) -> list[dict]:
    """Read the history of a run; empty for a new one."""
    state = read_last(RunFolder(Path(folder)))
    return [] if state is None else state["history"]


def restore_copies(run: RunFolder, state: dict) -> None:
    """Restore history.jsonl and the best checkpoint from last.pt if they differ.

    Raises:
        CheckpointError: the checkpoint of an epoch, which last.pt does not hold, is missing or
            another.
    """
    if not run.has_history(state["history"]):
        run.write_history(state["history"])
    if run.matches(state["hashes"]):
        return
    if state["best"] is None:
        raise checkpoint.CheckpointError(
            f"{run}: {', '.join(state['hashes'])}: some missing or changed since they were "
            "written; delete the folder and train again"
        )
    (name,) = state["hashes"]
    atomic.write_bytes(run.path / name, state["best"])


def describe(history: list[dict], plan: Plan) -> str:
    """Describe the outcome of a run in one line."""
    if plan.select.split == "test":
        return f"{len(history)} epochs, all kept for scoring"
    chosen = best(history, plan.select)
    if chosen is None:
        return f"no epoch of {len(history)} could be chosen; train it again with --overwrite"
    metric = plan.select.metric
    value = chosen["valid"][metric]
    if value is None:
        return (
            f"epoch {chosen['epoch']}, the last: no class of the validation split has labels of "
            f"both kinds, so no epoch has a {metric}"
        )
    return (
        f"best {metric} on validation {value:.3f} "
        f"at epoch {chosen['epoch']} of {history[-1]['epoch']}"
    )


def describe_epoch(history: list[dict], plan: Plan) -> str:
    """Describe the last epoch in one line, with an upper bound of the time left."""
    entry = history[-1]
    parts = [f"epoch {entry['epoch']}/{plan.epochs}", f"loss {entry['loss']:.4f}"]
    metric = plan.select.metric
    value = entry.get("valid", {}).get(metric)
    if value is not None:
        parts.append(f"{metric} {value:.3f}")
    seconds = sum(past["seconds"] for past in history) / len(history)
    left = seconds * (plan.epochs - len(history))
    return f"{', '.join(parts)}, {format_duration(left)} left"


def format_duration(seconds: float) -> str:
    """Format seconds for people.

    >>> [format_duration(seconds) for seconds in (0.04, 12.3, 754, 30000)]
    ['0.0 s', '12.3 s', '13 min', '8.3 h']
    """
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def finished(history: list[dict], plan: Plan) -> bool:
    """Whether the run has reached its last epoch, or validation has stopped improving."""
    if len(history) >= plan.epochs:
        return True
    if history and history[-1]["epoch"] == 0:  # nothing to train
        return True
    return stopped_improving(history, plan)


def stopped_improving(history: list[dict], plan: Plan) -> bool:
    """Whether the last `patience` epochs brought no better value on the validation split."""
    if plan.patience is None or plan.select.split == "test":
        return False
    chosen = best(history, plan.select)
    if chosen is None:
        return False
    return history[-1]["epoch"] - chosen["epoch"] >= plan.patience


def best(history: list[dict], select: Select) -> dict | None:
    """Return the epoch with the best value of the selection's metric on its split.

    It is the earliest of several, and the last epoch if the metric is undefined in all. None if no
    epoch was evaluated on that split.
    """
    sign = 1 if select.mode == "max" else -1
    evaluated = [entry for entry in history if select.split in entry]
    valued = [entry for entry in evaluated if entry[select.split][select.metric] is not None]
    if not valued:
        return evaluated[-1] if evaluated else None
    return max(valued, key=lambda entry: sign * entry[select.split][select.metric])
