"""Prediction and training against peers: transformers' pipeline and Trainer, and a CNN.

All is computed on one thread, so on an idle machine CPU time and wall clock are about the same, and
other load affects CPU time less. Compared variants take turns in one process, which keeps freed
memory (see "One training step"). There are two tables:

1. **predictor**: files of ten seconds of 44.1 kHz stereo Vorbis, as in "Features", from file to
   probabilities of twenty classes (the shipped AST has its own); times are per clip. This project's
   decoder reads the files for all. AST-base has the same random weights, and must give the same
   probabilities, in this project's `inference` and in transformers' pipeline for audio
   classification. In bfloat16 the pipeline's weights are converted; the others run under autocast.
   The pipeline computes its log-mels by `ASTFeatureExtractor`, clip by clip, with torchaudio if
   that is installed. EfficientAT (Schmid et al. 2023) itself is not installable from the index. Its
   mn10 is a MobileNetV3-Large of width 1, so torchvision's stands for it, with random weights and
   one input channel, on this project's log-mel. Multiply-accumulates are those of the network.
2. **trainer**: an epoch of steps as in "One training step", on random log-mels in memory, by this
   project's trainer and by transformers' `Trainer`, in the precision that `train.py` takes by
   default: the same U-Net, frozen AST-base and linear head, masked BCE, AdamW. The learning rate is
   0, so both must have the same loss. transformers' neither saves nor logs; this project's also
   writes its checkpoint.

In both, this project computes the last block for the two pooled tokens only, transformers for all.
"""

import argparse
import copy
import tempfile
import time
from functools import partial
from pathlib import Path

import networks
import numpy as np
import record
import step
import torch
import transformers
from embeddings import PLAN, random_clips
from features import write_sound
from prediction import predict
from torch import nn
from torchvision.models import mobilenet_v3_large

from ast_repr import audio, devices, features, inference, losses, methods
from ast_repr.classifier import Reprogrammed, multiply_accumulates
from ast_repr.data import dataset
from ast_repr.run_folder import RunFolder
from ast_repr.settings import Select
from ast_repr.training import optim, trainer

CLIPS = 8
BATCH = 4
CPU = torch.device("cpu")
OURS = "this project, AST-base"
SHIPPED = "this project, the shipped small AST"
PIPELINE = "transformers' pipeline, AST-base"
CNN = "MobileNetV3-Large (EfficientAT's mn10 is of this kind)"
OUR_TRAINER = "this project's trainer"
THEIR_TRAINER = "transformers' Trainer"
# Of the probabilities. This project rounds log-mels to float16, as in its store.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2}


def main(args: argparse.Namespace) -> None:
    """Time predictors and trainers, and save the rows."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    devices.choose("cpu")
    count = 2 if args.quick else CLIPS
    repeats = 1 if args.quick else 3
    with tempfile.TemporaryDirectory() as folder:
        paths = [write_sound(Path(folder) / f"{seed}.ogg", seed) for seed in range(count)]
        rows = compare_predictors(networks.QUICK if args.quick else {}, paths, repeats)
    rows += compare_trainers(step.SMALL if args.quick else step.BASE, count, repeats)
    record.save("peers", rows)


def compare_predictors(dims: dict, paths: list[Path], repeats: int) -> list[dict]:
    """Make the rows of the predictors."""
    ours, spec = networks.paper("none", n_source=len(networks.CLASSES), **dims)
    reference = step.transformers_ast(ours)
    reference.config.id2label = dict(enumerate(networks.CLASSES))
    cnn = mobilenet_v3_large(num_classes=len(networks.CLASSES)).eval()
    cnn.features[0][0] = nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False)
    log_mel = features.build("logmel")
    about = {"spec": spec, "classes": networks.CLASSES}
    about |= {"feature": {"name": "logmel"}, "backbone_sha256": ""}
    work = {}
    for precision in step.precisions(CPU):
        name = "float32" if precision == torch.float32 else "auto"
        model = copy.deepcopy(ours).eval()
        predictor = inference.TorchPredictor(model, about, precision=name)
        shipped = inference.load(precision=name)
        pipeline = transformers.pipeline(
            "audio-classification",
            copy.deepcopy(reference).eval().to(precision),
            feature_extractor=transformers.ASTFeatureExtractor(),
            device=CPU,
        )
        work |= {
            (OURS, precision): partial(predict, predictor, paths, BATCH),
            (PIPELINE, precision): partial(predict_by_pipeline, pipeline, paths),
            (CNN, precision): partial(predict_by_cnn, cnn, log_mel, precision, paths),
            (SHIPPED, precision): partial(predict, shipped, paths, BATCH),
        }
    counts = {
        OURS: multiply_accumulates(ours, log_mel.shape),
        PIPELINE: multiply_accumulates(step.Fronted(nn.Identity(), reference), log_mel.shape),
        CNN: multiply_accumulates(cnn, log_mel.shape),
        SHIPPED: multiply_accumulates(shipped.model, shipped.feature.shape),
    }
    found = {key: np.stack(predictor()) for key, predictor in work.items()}  # the warm-up too
    for precision in step.precisions(CPU):
        difference = np.abs(found[PIPELINE, precision] - found[OURS, precision]).max()
        if difference > TOLERANCE[precision]:
            raise RuntimeError(
                f"{PIPELINE} in {step.text(precision)} is another network: "
                f"its probabilities differ from this project's by {difference}"
            )
    seconds = record.alternate(work, repeats, warmup=0, clock=both_clocks)
    rows = []
    for (name, precision), taken in seconds.items():
        times = np.median(taken[:, 0]) / np.median(seconds[OURS, precision][:, 0])
        row = {"predictor": name, "precision": step.text(precision)}
        row |= {"10^9 multiply-accumulates": counts[name] / 1e9}
        row |= cpu_and_wall(taken / len(paths), "ms")
        rows.append(row | {"times this project's AST-base": float(times)})
    return rows


def cpu_and_wall(seconds: np.ndarray, unit: str) -> dict:
    """Return both times (repeats, 2) of `both_clocks` as columns of a row."""
    cpu, wall = seconds.T
    columns = {f"CPU {key}": value for key, value in record.spread(cpu, unit).items()}
    return columns | {f"wall clock {unit}": record.spread(wall, unit)[unit]}


def both_clocks() -> np.ndarray:
    """Return the CPU time of the process, and the time on the clock."""
    return np.array([time.process_time(), time.perf_counter()])


def predict_by_pipeline(pipeline: transformers.Pipeline, paths: list[Path]) -> list[list[float]]:
    """Return the probabilities (K,) of each file."""
    waveforms = (audio.clip(path) for path in paths)
    probabilities = []
    for found in pipeline(waveforms, batch_size=BATCH, function_to_apply="sigmoid"):
        scores = {entry["label"]: entry["score"] for entry in found}
        probabilities.append([scores[name] for name in networks.CLASSES])
    return probabilities


@torch.no_grad()
def predict_by_cnn(
    cnn: nn.Module, log_mel: nn.Module, precision: torch.dtype, paths: list[Path]
) -> list[np.ndarray]:
    """Return the probabilities (K,) of each file."""
    probabilities = []
    for start in range(0, len(paths), BATCH):
        waveforms = np.stack([audio.clip(path) for path in paths[start : start + BATCH]])
        batch = log_mel(torch.from_numpy(waveforms))
        with step.autocast(CPU, precision):
            logits = cnn(batch)
        probabilities += list(logits.float().sigmoid().numpy())
    return probabilities


def compare_trainers(dims: dict, count: int, repeats: int) -> list[dict]:
    """Make the rows of the trainers."""
    models = step.contestants(dims, CPU)
    clips = random_clips(count, (1, step.FRAMES, step.BINS), seed=0)
    precision = step.precisions(CPU)[-1]
    models[step.OURS].bf16 = precision == torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        theirs = their_trainer(models["transformers"], clips, precision, folder)
        work = {
            OUR_TRAINER: partial(train, models[step.OURS], clips),
            THEIR_TRAINER: lambda: theirs.train().training_loss,
        }
        loss = {name: epoch() for name, epoch in work.items()}  # the warm-up too
        if abs(loss[THEIR_TRAINER] - loss[OUR_TRAINER]) > step.TOLERANCE[precision]:
            raise RuntimeError(f"the trainers have different networks, of the losses {loss}")
        seconds = record.alternate(work, repeats, warmup=0, clock=both_clocks)
    rows = []
    for name, taken in seconds.items():
        cpu_s, wall_s = np.median(taken, axis=0)
        times = float(cpu_s / np.median(seconds[OUR_TRAINER][:, 0]))
        row = {"trainer": name, "precision": step.text(precision), "clips": count, "batch": BATCH}
        row |= cpu_and_wall(taken, "s")
        row |= {"clips/s of CPU time": float(count / cpu_s), "clips/s": float(count / wall_s)}
        row |= {"times this project's": times, "goal": None, "met": None}
        if name == THEIR_TRAINER:
            row |= record.goal(times, least=step.AGAINST["transformers"]["cpu"], unit="x")
        rows.append(row)
    return rows


def train(model: Reprogrammed, clips: dataset.Clips) -> float:
    """Train for an epoch by this project's trainer, and return the mean loss."""
    method = methods.build("supervised", model=model, targets="soft")
    adamw = optim.build("adamw", model, lr=0.0)
    values = {"batch_size": BATCH, "select": Select("test", "macro_f1", "max")}
    plan = trainer.Plan(epochs=1, **PLAN | values)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        ours = trainer.Trainer(method, adamw, plan, run, CPU, label=OUR_TRAINER)
        history = ours.fit(clips, None)
    return history[0]["loss"]


class MaskedTrainer(transformers.Trainer):
    """transformers' Trainer with masked BCE as its loss."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        logits = model(inputs["features"])
        return losses.masked_bce(logits.float(), inputs["targets"], inputs["mask"])


def their_trainer(
    model: nn.Module, clips: dataset.Clips, precision: torch.dtype, folder: str
) -> MaskedTrainer:
    """Make transformers' trainer of an epoch; PLAN's clipping of gradients is its default."""
    settings = transformers.TrainingArguments(
        folder,
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        learning_rate=0.0,
        bf16=precision == torch.bfloat16,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    examples = []
    for row in range(len(clips)):
        example = clips.batch(row)
        examples.append({key: getattr(example, key) for key in ("features", "targets", "mask")})
    return MaskedTrainer(model, settings, train_dataset=examples)


if __name__ == "__main__":
    main(record.parser(__doc__, device=False).parse_args())
