"""Pre-train a backbone: by the truth of rendered clips, and by distillation from a teacher.

Three losses: binary cross-entropy of the 175 sounds, if they are known; mean squared error of the
teacher's standardised and bounded embedding; binary cross-entropy of its tags. The teacher's
targets have linear heads, which are dropped afterwards. Augmentation changes log-mels, adds a floor
of noise, and mixes pairs of clips, increasingly often in the first fifth of the training.

Everything random is drawn from the seed and the number of the step, and a checkpoint is written
every few minutes: a run that was killed and resumed ends bit-equal, on CPU, to one that was not.
"""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .. import atomic, backbones, checkpoint
from ..corpora.arrangement import INSTRUMENTS
from ..losses import masked_bce
from . import optim
from .augment import spec_augment
from .pretraining_clips import Batch, Clips

LOSS_WEIGHTS = {"sounds": 10.0, "embedding": 1.0, "tags": 2.0}
WEIGHT_DECAY = 0.05
WARMUP = 0.05  # of the steps
MOST_MIXED = 0.5  # share of clips that are mixed with another one
MIXED_BY = 0.2  # of the steps, when that share is reached
MIX_DB = 10.0  # largest difference between the levels of two clips that are mixed
DB = math.log(10) / 10  # in a log-mel, which is a natural logarithm of energy
EQUALISER_DB = 4.0  # standard deviation at each of EQUALISER_POINTS
EQUALISER_POINTS = 8
LEVEL_DB = 6.0  # standard deviation
FLOOR_DB = (-70.0, -25.0)  # of noise, relative to the mean energy of a clip
FLOOR_TILT_DB = 10.0  # standard deviation of its slope, from the lowest band to the highest
FLOOR_SPREAD = 0.5  # standard deviation of the noise in a cell of the log-mel
CONSTANT_TARGET = 0.01  # standard deviation up to which a target carries nothing: dead units
LARGEST_TARGET = 3.0  # standard deviations; the teacher's embedding has outliers
LONGEST_STRIPE = 96  # frames
WIDEST_STRIPE = 24  # bands
LOG_SECONDS = 60
PROBE_C = 0.1  # inverse regularisation of the logistic regressions


@dataclass(frozen=True)
class Plan:
    """How long and how to train.

    Attributes:
        averaging: decay of the exponential moving average of the weights, which is the result.
        init: sha256 of the file of weights to start from; None: random ones.
    """

    epochs: int
    batch_size: int
    lr: float
    averaging: float = 0.999
    seed: int = 0
    init: str | None = None


class Student(nn.Module):
    """A backbone, and linear heads for the outputs of a teacher."""

    def __init__(self, backbone: nn.Module, train: Clips):
        super().__init__()
        self.backbone = backbone
        embedding = train.embedding.float()
        varying = embedding.std(dim=0) > CONSTANT_TARGET
        embedding = embedding[:, varying]
        self.register_buffer("varying", varying)
        self.register_buffer("embedding_mean", embedding.mean(dim=0))
        self.register_buffer("embedding_std", embedding.std(dim=0))
        self.embedding_head = nn.Linear(backbone.embed_dim, embedding.shape[1])
        self.tags_head = nn.Linear(backbone.embed_dim, train.tags.shape[1])

    def forward(self, log_mel: torch.Tensor) -> backbones.Output:
        """(B, T, F) log-mel -> the backbone's output; zeros pad it, as they pad the feature."""
        padding = self.backbone.frames - log_mel.shape[1]
        padded = functional.pad(log_mel, (0, 0, 0, padding))[:, None]
        return self.backbone((padded - self.backbone.mean) / (2 * self.backbone.std))

    def losses(self, output: backbones.Output, batch: Batch) -> dict[str, torch.Tensor]:
        """Compute the losses of the output for a batch, each a mean over its cells."""
        embedding = batch.embedding[:, self.varying]
        embedding = (embedding - self.embedding_mean) / self.embedding_std
        embedding = embedding.clamp(-LARGEST_TARGET, LARGEST_TARGET)
        cross_entropy = functional.binary_cross_entropy_with_logits
        return {
            "sounds": masked_bce(output.source_logits, batch.truth, ~batch.truth.isnan()),
            "embedding": functional.mse_loss(self.embedding_head(output.embedding), embedding),
            "tags": cross_entropy(self.tags_head(output.embedding), batch.tags),
        }


class Pretraining:
    """Train a student, validate its averaged weights after each epoch, and resume.

    Args:
        student: as it starts.
        train, valid: clips.
        plan: a Plan.
        folder: gets last.pt and history.jsonl.
        checkpoint_s: seconds between checkpoints.
        bf16: compute the steps under bfloat16 autocast; validation is always float32.

    Attributes:
        history: one dict per validation, the first one before training.
    """

    def __init__(
        self,
        student: Student,
        train: Clips,
        valid: Clips,
        plan: Plan,
        folder: Path,
        checkpoint_s: float,
        bf16: bool = False,
    ):
        self.student = student
        self.train = train
        self.valid = valid
        self.plan = plan
        self.folder = folder
        self.checkpoint_s = checkpoint_s
        self.bf16 = bf16
        self.averaged = AveragedModel(
            student, multi_avg_fn=get_ema_multi_avg_fn(plan.averaging), use_buffers=False
        )
        groups = param_groups_weight_decay(student, WEIGHT_DECAY)
        self.optimizer = torch.optim.AdamW(groups, plan.lr)
        self.epoch_steps = len(train) // plan.batch_size
        self.steps = self.epoch_steps * plan.epochs
        self.step = 0
        self.history: list[dict] = []

    def run(self) -> nn.Module:
        """Train to the end from the last checkpoint; return the backbone with averaged weights."""
        self._resume()
        if not self.history:
            self._validate()
        log = _Log(self.step)
        saved = time.monotonic()
        while self.step < self.steps:
            log.add(self._train_step())
            epoch_ends = self.step % self.epoch_steps == 0
            if epoch_ends:
                self._validate()
            if epoch_ends or time.monotonic() - saved > self.checkpoint_s:
                self._save()
                saved = time.monotonic()
            log.print(self.step, self.steps, self.plan.batch_size)
        return self.averaged.module.backbone

    def _train_step(self) -> dict[str, float]:
        epoch, step = divmod(self.step, self.epoch_steps)
        shuffled = np.random.default_rng([self.plan.seed, epoch]).permutation(len(self.train))
        start = step * self.plan.batch_size
        batch = self.train.batch(shuffled[start : start + self.plan.batch_size])
        generator = torch.Generator().manual_seed(self.plan.seed * 2**32 + self.step)
        mixed = MOST_MIXED * min(1.0, self.step / (MIXED_BY * self.steps))
        batch = augment(batch, generator, mixed, self.student.backbone.mean)

        factor = optim.cosine(self.step, self.steps, warmup=WARMUP * self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.lr * factor
        self.student.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            output = self.student(batch.log_mel)
            losses = self.student.losses(output, batch)
        total = sum(LOSS_WEIGHTS[name] * loss for name, loss in losses.items())
        if not total.isfinite():
            raise RuntimeError(
                f"the loss of step {self.step + 1} is {total.item()}; expected a finite number: "
                "lower --lr"
            )
        self.optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.averaged.update_parameters(self.student)
        self.step += 1
        return {name: loss.item() for name, loss in losses.items()}

    def _validate(self) -> None:
        student = self.averaged.module
        entry = {"step": self.step, **validate(student, self.valid, self.plan.batch_size)}
        self.history.append(entry)
        self._write_history()
        print(json.dumps(entry), flush=True)

    def _save(self) -> None:
        state = {
            "plan": asdict(self.plan),
            "clips": self.train.identity,
            "dims": self.student.backbone.dims,
            "step": self.step,
            "history": self.history,
            "student": self.student.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        checkpoint.save(self.folder / "last.pt", state)

    def _resume(self) -> None:
        last = self.folder / "last.pt"
        if not last.is_file():
            return
        state = checkpoint.load(last, "delete it to train from the start")
        expected = {
            "plan": asdict(self.plan),
            "clips": self.train.identity,
            "dims": self.student.backbone.dims,
        }
        for name, value in expected.items():
            if state[name] != value:
                raise ValueError(
                    f"{last}: {name} {state[name]}, expected {value}; use the options that the "
                    "training began with, or delete it to train from the start"
                )
        self.student.load_state_dict(state["student"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.history = state["history"]
        self._write_history()

    def _write_history(self) -> None:
        lines = [json.dumps(entry) + "\n" for entry in self.history]
        atomic.write_text(self.folder / "history.jsonl", "".join(lines))


def augment(batch: Batch, generator: torch.Generator, mixed: float, fill: float) -> Batch:
    """Shift clips in time, change level and frequency response, mix some of them, mask stripes.

    Args:
        generator: on the CPU.
        mixed: share of clips that get the next clip of the batch added: the truth is that of both,
            the teacher's targets are averaged by their shares of the energy.
        fill: value of a masked cell.
    """
    log_mel = batch.log_mel
    clips, frames, bands = log_mel.shape
    shift = torch.randint(frames, (clips, 1), generator=generator)
    order = (torch.arange(frames) + shift) % frames
    log_mel = log_mel.gather(1, order[..., None].expand(-1, -1, bands))

    points = EQUALISER_DB * torch.randn(clips, 1, EQUALISER_POINTS, generator=generator)
    points += LEVEL_DB * torch.randn(clips, 1, 1, generator=generator)
    response = functional.interpolate(points, bands, mode="linear", align_corners=True)
    log_mel = torch.logaddexp(log_mel + DB * response, _noise_floor(log_mel, generator))

    is_mixed = torch.rand(clips, generator=generator) < mixed
    gain = DB * MIX_DB * (2 * torch.rand(clips, generator=generator) - 1)
    loudness = log_mel.flatten(1).logsumexp(dim=1)
    offset = loudness - loudness.roll(1) + gain
    mixture = torch.logaddexp(log_mel, log_mel.roll(1, 0) + offset[:, None, None])
    log_mel = torch.where(is_mixed[:, None, None], mixture, log_mel)
    log_mel = spec_augment(
        log_mel[:, None], generator, time=LONGEST_STRIPE, freq=WIDEST_STRIPE, fill=fill
    )[:, 0]

    share = torch.where(is_mixed, gain.sigmoid(), 0.0)[:, None]  # of the energy that was added
    return Batch(
        log_mel,
        torch.where(is_mixed[:, None], batch.truth.maximum(batch.truth.roll(1, 0)), batch.truth),
        torch.lerp(batch.embedding, batch.embedding.roll(1, 0), share),
        torch.lerp(batch.tags, batch.tags.roll(1, 0), share),
    )


def _noise_floor(log_mel: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw the log-mel of stationary noise for each clip."""
    clips, frames, bands = log_mel.shape
    mean_energy = log_mel.flatten(1).logsumexp(dim=1) - math.log(frames * bands)
    level = torch.empty(clips).uniform_(*FLOOR_DB, generator=generator)
    tilt = FLOOR_TILT_DB * torch.randn(clips, 1, generator=generator)
    slope = DB * tilt * torch.linspace(-0.5, 0.5, bands)
    noise = FLOOR_SPREAD * torch.randn(log_mel.shape, generator=generator)
    return (mean_energy + DB * level)[:, None, None] + slope[:, None] + noise


@torch.no_grad()
def validate(student: Student, clips: Clips, batch_size: int) -> dict[str, float | None]:
    """Compute the losses, the mAP of the sounds, and the mAP of a probe on the embedding."""
    student.eval()
    logits = []
    embeddings = []
    losses = dict.fromkeys(LOSS_WEIGHTS, 0.0)
    for indices in torch.arange(len(clips)).split(batch_size):
        batch = clips.batch(indices)
        output = student(batch.log_mel)
        logits.append(output.source_logits)
        embeddings.append(output.embedding)
        for name, loss in student.losses(output, batch).items():
            losses[name] += loss.item() * len(indices) / len(clips)
    known = clips.known()
    truth = clips.truth[known].numpy()
    return {
        **losses,
        "sounds_map": mean_average_precision(truth, torch.cat(logits)[known].numpy()),
        "probe_map": probe(clips, torch.cat(embeddings).numpy()),
    }


def mean_average_precision(truth: np.ndarray, scores: np.ndarray) -> float | None:
    """Average the AP of the classes (columns) that occur; None if none does."""
    occurring = truth.any(axis=0)
    if not occurring.any():
        return None
    return float(average_precision_score(truth[:, occurring], scores[:, occurring]))


def probe(clips: Clips, embedding: np.ndarray) -> float | None:
    """Compute the mAP of a logistic regression per instrument of the built-in corpus.

    The first half of the clips whose truth is known trains it, the second tests it. An instrument
    occurs if one of its presets does.

    Args:
        clips: N clips.
        embedding: (N, D).
    """
    known = clips.known().numpy()
    truth = clips.truth.numpy()[known]
    embedding = embedding[known]
    half = len(truth) // 2
    scaled = StandardScaler().fit(embedding[:half]).transform(embedding)
    labels = []
    scores = []
    for instrument in INSTRUMENTS.values():
        label = truth[:, list(instrument.programs)].any(axis=1)
        if label[:half].any() and not label[:half].all():
            regression = LogisticRegression(C=PROBE_C, max_iter=1000)
            regression.fit(scaled[:half], label[:half])
            labels.append(label[half:])
            scores.append(regression.decision_function(scaled[half:]))
    if not labels:
        return None
    return mean_average_precision(np.stack(labels, axis=1), np.stack(scores, axis=1))


def log_mel_statistics(clips: Clips, batch_size: int) -> np.ndarray:
    """Compute the mean, deviation and maximum over time of each band: (N, 384)."""
    statistics = []
    for indices in torch.arange(len(clips)).split(batch_size):
        x = clips.batch(indices).log_mel
        statistics.append(torch.cat([x.mean(dim=1), x.std(dim=1), x.amax(dim=1)], dim=1))
    return torch.cat(statistics).numpy()


class _Log:
    """Prints the mean losses about once per minute."""

    def __init__(self, step: int):
        self._restart(step)

    def _restart(self, step: int) -> None:
        self.first_step = step
        self.started = time.monotonic()
        self.totals = dict.fromkeys(LOSS_WEIGHTS, 0.0)

    def add(self, losses: dict[str, float]) -> None:
        for name, loss in losses.items():
            self.totals[name] += loss

    def print(self, step: int, steps: int, batch_size: int) -> None:
        seconds = time.monotonic() - self.started
        if seconds < LOG_SECONDS:
            return
        done = step - self.first_step
        means = [f"{name} {total / done:.4f}" for name, total in self.totals.items()]
        hours = (steps - step) * seconds / done / 3600
        print(
            f"step {step:,} of {steps:,}: {', '.join(means)}; "
            f"{done * batch_size / seconds:.1f} clips/s, {hours:.1f} h left",
            flush=True,
        )
        self._restart(step)
