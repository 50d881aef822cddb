"""Run folders as the stage `score` leaves them, and what report.py prints of them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from ast_repr import identity, metrics
from ast_repr.report import published
from ast_repr.report.results import Run
from ast_repr.run_folder import RunFolder

SCRIPT = Path(__file__).parents[1] / "src" / "report.py"
CLASSES = ["accordion", "banjo", "voice"]
CONFS = {"ast_unet": ("unet", 5125), "ast_linear": ("none", 4265), "ast_noise": ("noise", 135_000)}
PUBLISHED = published.Published(
    macro_f1=[80.0, 82.0],
    source="The paper",
    corpus="OpenMIC-2018",
    protocol="chosen on test",
    trainable_parameters=0.018,
)


class StoredRun(Run):
    """A run whose predictions are in memory."""

    def arrays(self, name):
        return self.results["arrays"]


def scores(value, classes=CLASSES):
    one = {
        "macro_f1": value,
        "positive_f1": value - 0.1,
        "absent_f1": value + 0.1,
        "ap": value,
        "auroc": 0.5,
    }
    one |= {"present": 10, "absent": 14}
    summary = {
        "macro_f1": value,
        "positive_f1": value - 0.1,
        "weighted_f1": value,
        "map": value - 0.2,
        "auroc": 0.5,
    }
    return summary | {
        "per_instrument": {
            name: one | {"macro_f1": value + 0.01 * k} for k, name in enumerate(classes)
        }
    }


def make_run(exp, conf="ast_unet", seed=0, value=0.7, example=False, **changes):
    """A run folder with plausible contents; `changes` replace keys of results.json."""
    reprogrammer, trainable = CONFS.get(conf.partition("+")[0], ("cnn", 4285))
    found = {
        "corpus": exp.name,
        "protocol": "clean",
        "backbone": {"name": "tiny", "weights": "pretrained", "sha256": "ab" * 32},
        "conf": conf,
        "seed": seed,
        "norm": "none",
        "feature": "logmel",
        "reprogrammer": reprogrammer,
        "classes": CLASSES,
        "trainable_parameters": trainable,
        "total_parameters": 2_860_000,
        "macs": 2_311_000_000,
        "clip_fraction": 1.0,
        "label_fraction": 1.0,
        "train_clips": 640,
        "selection": {
            "split": "valid",
            "metric": "macro_f1",
            "mode": "max",
            "epoch": 2,
            "value": value,
        },
        "epochs": 3,
        "train_seconds": 93.1,
        "seconds_per_epoch": 31.03,
        "split": "test",
        "clips": 250,
        "observed": 72,
        "threshold": 0.5,
        "metrics": scores(value),
        "constant_baselines": {"always_absent": scores(0.348), "always_present": scores(0.299)},
        "command": f"source run.sh --conf {conf} --seeds {seed}",
        "machine": {
            "device": "4 CPU threads",
            "cores": 4,
            "python": "3.11.7",
            "torch": "2.11.0",
            "platform": "Linux",
        },
        "commit": "abc1234",
    }
    folder = exp / conf / f"seed{seed}"
    folder.mkdir(parents=True)
    lines = (
        {
            "epoch": e,
            "loss": 1 / e,
            "lr": 0.001,
            "seconds": 31.0,
            "valid": {"macro_f1": value - 0.05 / e},
        }
        for e in (1, 2, 3)
    )
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if example:
        before = np.random.default_rng(seed).normal(size=(64, 16)).astype(np.float32)
        np.savez(
            folder / "example.npz",
            before=before,
            after=np.maximum(before, 0),
            clip="000046_3840",
            instruments="banjo, voice",
        )
    RunFolder(folder).write_results(found | changes)
    record_files(folder)
    return folder


def record_files(folder):
    """Store the sha256 of a run's files in its results, as the stage `score` does."""
    run = RunFolder(folder)
    paths = [path for path in (run.history, run.example, run.predictions) if path.is_file()]
    hashes = {path.name: identity.of_file(path) for path in paths}
    run.write_results(run.read_results() | {"files": hashes})


def entries(**names):
    """Entries of published.yaml that only name methods."""
    return {conf: published.Entry(name) for conf, name in names.items()}


def arrays(seed, clips=24, noise=0.6):
    """Labels that are the same for every seed, and scores that lean to them."""
    rng = np.random.default_rng(7)
    targets = rng.random((clips, len(CLASSES))).astype(np.float32)
    mask = rng.random(targets.shape) < 0.7
    scores = np.clip(
        targets + np.random.default_rng(seed).normal(0, noise, targets.shape), 0, 1
    ).astype(np.float32)
    return {
        "clips": np.array([f"{k:06d}_0" for k in range(clips)]),
        "classes": np.array(CLASSES),
        "scores": scores,
        "targets": targets,
        "mask": mask,
    }


def with_truth(found):
    """The same clips, the truth of which is known: labels are wrong in a few cells."""
    wrong = np.random.default_rng(8).random(found["targets"].shape) < 0.1
    return found | {"truth": ((found["targets"] >= 0.5) ^ wrong).astype(np.int8)}


def evaluate_on_truth(found):
    every_cell = np.ones(found["truth"].shape, bool)
    return metrics.evaluate(found["truth"], every_cell, found["scores"], classes=CLASSES)


def scored(exp, conf, seed, found, **changes):
    """A run folder whose results.json is that of its predictions.npz."""
    value = metrics.evaluate(found["targets"], found["mask"], found["scores"], classes=CLASSES)
    if "truth" in found:
        every_cell = np.ones(found["truth"].shape, bool)
        changes["truth"] = {
            "sha256": "ef" * 32,
            "metrics": evaluate_on_truth(found),
            "constant_baselines": metrics.constant_baselines(
                found["truth"], every_cell, classes=CLASSES
            ),
        }
    folder = make_run(exp, conf, seed, metrics=value, clips=len(found["clips"]), **changes)
    np.savez_compressed(folder / "predictions.npz", **found)
    record_files(folder)
    return folder


def run(*args, prelude=""):
    """report.py as a person runs it; `prelude` may ask for what it leaves in sys.modules."""
    code = f"import atexit, runpy, sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); {prelude}"
    code += f"\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=300
    )


def lines_of(text, start):
    """The lines of a table that begin with `start`, split at two spaces or more."""
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in text.splitlines()
        if line.startswith(start)
    ]
