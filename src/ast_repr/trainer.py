"""The one epoch loop: step, validate, select, stop, resume. It knows neither the corpus nor the row that it runs.

After each epoch `last.pt` holds all that is needed to go on; a run that was killed and resumed ends bit-equal, on CPU,
to one that was not. Selection is one triple (split, metric, mode): it names the best checkpoint,
`best.valid.macro_f1.pt`, and stops the run after `patience` epochs without a better value. Selection on "test" is
the paper's protocol: nothing is validated here, each epoch's checkpoint is kept, and `score.py` looks at them all.
A model of which nothing learns by gradient is kept as it is, as epoch 0.
"""

import fcntl
import json
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from . import checkpoint, files, metrics
from .batches import Batch, generator
from .classifier import probabilities
from .parallel import ALONE
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
    team=ALONE,
):
    """Train until the plan's end, an early stop, or where it was finished before.

    Args:
        method: from `methods`; its `step` gives the loss.
        optimizer: over the trainable parameters of the method's model, with its base learning rates; None where nothing is.
        train, valid: batches.Clips; valid is None where the selection is on "test".
        folder: run folder.
        plan: a Plan.
        device: torch.device, on which the method is already.
        bf16: compute the steps under bfloat16 autocast (validation is always float32).
        augment: function (features, generator) -> features, or None.
        about: plain values stored in every checkpoint.
        team: the processes among which the method's model is spread; each of them calls this, and rank 0 writes.

    Returns:
        history: one dict an epoch, as in history.jsonl.
    """
    folder = Path(folder)
    if optimizer and not any(map(method.selectable, range(plan.epochs))):
        raise ValueError(
            f"none of {plan.epochs} epochs may be chosen, its method needs more; raise train.epochs"
        )
    if valid is not None and not valid.mask.any():
        raise RuntimeError(
            f"{folder}: no clip of the validation split has a label, nothing to choose an epoch by; "
            "give some of its clips labels"
        )
    history = resume(folder, method, optimizer)
    if history and team.rank == 0:
        _write_history(folder, history)
    base_rates = (
        [group.setdefault("base_lr", group["lr"]) for group in optimizer.param_groups]
        if optimizer
        else []
    )
    while not finished(history, plan):
        started, epoch = time.monotonic(), len(history)
        row = {"epoch": 0, "loss": None, "lr": None}
        if optimizer:
            clips = method.start_epoch(epoch, train, optimizer, device)
            loss = _epoch(
                method, optimizer, base_rates, clips, plan, epoch, device, bf16, augment, team
            )
            row = {"epoch": epoch + 1, "loss": loss, "lr": optimizer.param_groups[0]["lr"]}
        if valid is not None and method.selectable(epoch):
            scores = probabilities(method.model_for_eval, valid.batches(plan.batch_size), device)
            found = metrics.evaluate(valid.targets.numpy(), valid.mask.numpy(), scores)
            row["valid"] = {name: found[name] for name in metrics.SUMMARY}
        row["seconds"] = round(time.monotonic() - started, 3)
        history.append(team.agree(row))
        if team.rank == 0:
            _keep(folder, method, optimizer, history, plan, about)
    team.wait()
    return history


def _keep(folder, method, optimizer, history, plan, about):
    """Write what an epoch leaves behind: the checkpoint of its model if that is wanted, last.pt, history.jsonl."""
    row = history[-1]
    used = {
        "learned": method.model_for_eval.learned_state(),
        "epoch": row["epoch"],
        "about": about or {},
    }
    if plan.select["split"] == "test":
        if method.selectable(len(history) - 1):
            checkpoint.save(epoch_path(folder, row["epoch"]), used)
    elif best(history, plan.select) is row:
        checkpoint.save(best_path(folder, plan.select), used)
    checkpoint.save(
        folder / "last.pt",
        {
            "method": method.learned_state(),
            "optimizer": optimizer.state_dict() if optimizer else None,
            "rng": torch.get_rng_state(),
            "history": history,
            "epoch": row["epoch"],
            "about": about or {},
        },
    )
    _write_history(folder, history)


def _epoch(method, optimizer, base_rates, train, plan, epoch, device, bf16, augment, team):
    """One pass over the training clips; returns the mean loss, each batch counting by its observed cells."""
    method.train()
    steps = math.ceil(len(train) / plan.batch_size)
    total, cells, learned = 0.0, 0, [p for group in optimizer.param_groups for p in group["params"]]
    bar = tqdm(
        train.shuffled(plan.batch_size, plan.seed, epoch),
        f"epoch {epoch + 1}/{plan.epochs}",
        steps,
        unit="step",
        leave=False,
    )
    for step, batch in enumerate(bar):
        for group, rate in zip(optimizer.param_groups, base_rates):
            group["lr"] = rate * factor(
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
        team.add_up(learned)
        if plan.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(learned, plan.clip_norm)
        optimizer.step()
        method.after_step()
        bar.set_postfix(loss=f"{total / max(cells, 1):.4f}", refresh=False)
    if not math.isfinite(total):
        raise RuntimeError(
            f"the loss of epoch {epoch + 1} is {total}; expected a finite number: lower optimizer.lr"
        )
    return total / max(cells, 1)


def resume(folder, method, optimizer):
    """Put method and optimiser back to the end of the last finished epoch; returns the history, empty for a new run."""
    if not (folder / "last.pt").is_file():
        return []
    state = checkpoint.load(folder / "last.pt")
    method.load_learned(state["method"])
    if state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    return state["history"]


def read_history(folder):
    """The epochs of a run folder so far, from history.jsonl."""
    path = Path(folder) / "history.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in files.read_text(path).splitlines()]


@contextmanager
def only_user_of(folder):
    """Hold the run folder's lock, making the folder if need be; a second process that wants it gets an error."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f"{folder}: another process is training there; wait for it or stop it"
            ) from error
        yield


def describe(history, plan):
    """What came of a run, in words."""
    if plan.select["split"] == "test":
        return f"{len(history)} epochs, all kept for scoring"
    chosen = best(history, plan.select)
    if chosen is None:
        return f"no epoch of {len(history)} could be chosen; train it anew with --overwrite"
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
    """Whether the run has reached its last epoch, or `patience` epochs have passed without a better one."""
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


def best_path(folder, select):
    """Where the best checkpoint is: the split that chose it is in its name."""
    return Path(folder) / f"best.{select['split']}.{select['metric']}.pt"


def epoch_path(folder, epoch):
    """Where one epoch's checkpoint is, if each is kept."""
    return Path(folder) / f"epoch.{epoch:03d}.pt"


def _split(batch, size):
    if size is None or size >= len(batch.mask):
        return [batch]
    return [Batch(*parts) for parts in zip(*(tensor.split(size) for tensor in batch))]


def _write_history(folder, history):
    files.write_text(folder / "history.jsonl", "".join(json.dumps(row) + "\n" for row in history))
