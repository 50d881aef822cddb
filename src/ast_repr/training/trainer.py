"""The one epoch loop: step, validate, select, stop, resume. It knows neither corpus nor row.

After each epoch `last.pt` holds all that is needed to resume; a run that was killed and resumed
ends bit-equal, on CPU, to one that was not. It is the truth about a run: the best checkpoint and
history.jsonl are copies of what it holds, and are written again from it where they differ.
Selection is one triple (split, metric, mode): it names the best checkpoint,
`best.valid.macro_f1.pt`, and stops the run after `patience` epochs without a better value.
Selection on "test" is the paper's protocol: nothing is validated here, each epoch's checkpoint is
kept, and `score.py` looks at them all; last.pt then holds the sha256 of each.
A model of which nothing learns by gradient is kept as it is, as epoch 0.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from .. import atomic, checkpoint, identity, metrics
from ..classifier import probabilities
from ..data.dataset import Batch, generator
from ..distributed.process_group import SINGLE_PROCESS
from ..run_folder import RunFolder
from .schedule import factor


@dataclass(frozen=True)
class Plan:
    """How long and how: see conf/base.yaml for what each means."""

    epochs: int
    batch_size: int
    micro_batch: int | None
    patience: int | None
    clip_norm: float | None
    schedule: dict
    select: dict
    seed: int

    @classmethod
    def of(cls, conf):
        """The plan of a run's resolved config."""
        settings = {
            key: conf["train"][key]
            for key in ("epochs", "batch_size", "micro_batch", "patience", "clip_norm")
        }
        return cls(
            schedule=conf["schedule"], select=conf["select"], seed=conf["run"]["seed"], **settings
        )


@dataclass
class Kept:
    """The checkpoints of a run, beside that of its last epoch.

    Attributes:
        hashes: {file name: sha256}, the best one's or each epoch's.
        best: the bytes of the best one's file, None where there is none.
    """

    hashes: dict[str, str] = field(default_factory=dict)
    best: bytes | None = None


def fit(
    method,
    optimizer,
    train,
    valid,
    folder,
    plan,
    device,
    bf16=False,
    augment=None,
    about=None,
    group=SINGLE_PROCESS,
):
    """Train until the plan's end, an early stop, or where it was finished before.

    Args:
        method: from `methods`; its `step` gives the loss.
        optimizer: over the trainable parameters of the method's model, with its base learning
            rates; None if there are none.
        train, valid: dataset.Clips; valid is None where the selection is on "test".
        folder: run folder.
        plan: a Plan.
        device: torch.device, on which the method is already.
        bf16: compute the steps under bfloat16 autocast (validation is always float32).
        augment: function (features, generator) -> features, or None.
        about: plain values stored in every checkpoint.
        group: the processes among which the method's model is spread; each of them calls this, and
            rank 0 writes.

    Returns:
        history: one dict an epoch, as in history.jsonl.
    """
    run = RunFolder(Path(folder))
    if optimizer and not any(map(method.selectable, range(plan.epochs))):
        raise ValueError(
            f"none of {plan.epochs} epochs may be chosen, its method needs more; raise train.epochs"
        )
    if valid is not None and not valid.mask.any():
        raise RuntimeError(
            f"{run}: no clip of the validation split has a label, nothing to choose an epoch by; "
            "give some of its clips labels"
        )
    state = read_last(run)
    history, kept = resume(state, method, optimizer)
    if state is not None and group.rank == 0:
        mend(run, state)
    base_rates = (
        [
            param_group.setdefault("base_lr", param_group["lr"])
            for param_group in optimizer.param_groups
        ]
        if optimizer
        else []
    )
    while not finished(history, plan):
        started, epoch = time.monotonic(), len(history)
        row = {"epoch": 0, "loss": None, "lr": None}
        if optimizer:
            clips = method.start_epoch(epoch, train, optimizer, device)
            loss = _epoch(
                method, optimizer, base_rates, clips, plan, epoch, device, bf16, augment, group
            )
            row = {"epoch": epoch + 1, "loss": loss, "lr": optimizer.param_groups[0]["lr"]}
        if valid is not None and method.selectable(epoch):
            scores = probabilities(method.model_for_eval, valid.batches(plan.batch_size), device)
            found = metrics.evaluate(valid.targets.numpy(), valid.mask.numpy(), scores)
            row["valid"] = {name: found[name] for name in metrics.SUMMARY}
        row["seconds"] = round(time.monotonic() - started, 3)
        history.append(group.broadcast(row))
        if group.rank == 0:
            _keep(run, method, optimizer, history, plan, about, kept)
    group.barrier()
    return history


def _keep(run, method, optimizer, history, plan, about, kept):
    """Write what an epoch leaves behind: last.pt, and the checkpoint of its model if it is wanted.

    The best checkpoint comes after last.pt, which holds it too: if the process is killed in
    between, `mend` writes it.
    """
    row = history[-1]
    is_best = False
    used = {
        "learned": method.model_for_eval.trainable_state_dict(),
        "epoch": row["epoch"],
        "about": about or {},
    }
    if plan.select["split"] == "test":
        if method.selectable(len(history) - 1):
            path = run.epoch(row["epoch"])
            checkpoint.save(path, used)
            kept.hashes[path.name] = identity.of_file(path)
    elif best(history, plan.select) is row:
        is_best = True
        kept.best = checkpoint.dump(used)
        kept.hashes = {run.best(plan.select).name: identity.of_bytes(kept.best)}
    checkpoint.save(
        run.last,
        {
            "method": method.resumable_state(),
            "optimizer": optimizer.state_dict() if optimizer else None,
            "rng": torch.get_rng_state(),
            "history": history,
            "epoch": row["epoch"],
            "about": about or {},
            "hashes": kept.hashes,
            "best": kept.best,
        },
    )
    if is_best:
        atomic.write_bytes(run.best(plan.select), kept.best)
    run.write_history(history)


def _epoch(method, optimizer, base_rates, train, plan, epoch, device, bf16, augment, group):
    """One pass over the training clips.

    Returns:
        the mean loss, each batch counting by its observed cells.
    """
    method.train()
    steps = math.ceil(len(train) / plan.batch_size)
    total, cells, learned = (
        0.0,
        0,
        [p for param_group in optimizer.param_groups for p in param_group["params"]],
    )
    bar = tqdm(
        train.shuffled(plan.batch_size, plan.seed, epoch),
        f"epoch {epoch + 1}/{plan.epochs}",
        steps,
        unit="step",
        leave=False,
    )
    for step, batch in enumerate(bar):
        for param_group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            param_group["lr"] = rate * factor(
                epoch=epoch + step / steps, epochs=plan.epochs, **plan.schedule
            )
        observed = int(batch.mask.sum())
        batch = batch.to(device)
        if augment is not None:  # before the split, so that what is drawn does not depend on it
            batch = batch._replace(
                features=augment(batch.features, generator(plan.seed, epoch, step))
            )
        optimizer.zero_grad(set_to_none=True)
        taught = False
        for part in _split(batch, plan.micro_batch):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = method.step(part, epoch, batch)["loss"]
            if loss.requires_grad:
                loss.backward()
                taught = True
            total += loss.item() * max(observed, 1)
        cells += max(observed, 1)
        if not taught:
            continue
        group.all_reduce_gradients(learned)
        if plan.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(learned, plan.clip_norm)
        optimizer.step()
        method.after_step()
        bar.set_postfix(loss=f"{total / max(cells, 1):.4f}", refresh=False)
    if not math.isfinite(total):
        raise RuntimeError(
            f"the loss of epoch {epoch + 1} is {total}; expected a finite number: "
            "lower optimizer.lr"
        )
    return total / max(cells, 1)


def read_last(run: RunFolder) -> dict | None:
    """What last.pt holds; None for a run that has not finished an epoch.

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
    """The epochs of a run so far."""
    state = read_last(RunFolder(Path(folder)))
    return [] if state is None else state["history"]


def resume(state, method, optimizer):
    """Put method and optimiser back to the end of the last finished epoch.

    Args:
        state: from `read_last`.

    Returns:
        (history, Kept), both empty for a new run.
    """
    if state is None:
        return [], Kept()
    method.load_resumable_state(state["method"])
    if state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    return state["history"], Kept(state["hashes"], state["best"])


def mend(run: RunFolder, state: dict) -> None:
    """Write history.jsonl and the best checkpoint again where they are not what last.pt holds.

    Raises:
        CheckpointError: the checkpoint of an epoch, which last.pt does not hold, is not that of
            this run.
    """
    if not run.has_history(state["history"]):
        run.write_history(state["history"])
    if run.matches(state["hashes"]):
        return
    if state["best"] is None:
        raise checkpoint.CheckpointError(
            f"{run}: {', '.join(state['hashes'])} are not all there as this run has written them; "
            "delete the folder and train again"
        )
    (name,) = state["hashes"]
    atomic.write_bytes(run.path / name, state["best"])


def describe(history, plan):
    """What came of a run, in words."""
    if plan.select["split"] == "test":
        return f"{len(history)} epochs, all kept for scoring"
    chosen = best(history, plan.select)
    if chosen is None:
        return f"no epoch of {len(history)} could be chosen; train it again with --overwrite"
    metric = plan.select["metric"]
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


def finished(history, plan):
    """Whether the run has reached its last epoch, or `patience` epochs brought no better one."""
    if len(history) >= plan.epochs or history and history[-1]["epoch"] == 0:
        return True
    if (
        plan.patience is None
        or plan.select["split"] == "test"
        or (chosen := best(history, plan.select)) is None
    ):
        return False
    return history[-1]["epoch"] - chosen["epoch"] >= plan.patience


def best(history, select):
    """The epoch of the history that is best by the selection's metric on the validation split.

    It is the earliest of several, and the last one if the metric has no value in any epoch, for
    want of labels of both kinds. None if no epoch was validated.
    """
    sign = 1 if select["mode"] == "max" else -1
    validated = [row for row in history if "valid" in row]
    valued = [row for row in validated if row["valid"][select["metric"]] is not None]
    if not valued:
        return validated[-1] if validated else None
    return max(valued, key=lambda row: sign * row["valid"][select["metric"]])


def _split(batch, size):
    if size is None or size >= len(batch.mask):
        return [batch]
    return [Batch(*parts) for parts in zip(*(tensor.split(size) for tensor in batch), strict=True)]
