"""Stage `score`: predictions on the test split, and what they are worth, for each conf and seed.

Writes predictions.npz and results.json into the run folder, and one clip before and after the reprogrammer. A run is
scored again only if its checkpoint is newer than its results. Where the selection is on test (the paper's protocol),
each epoch is looked at, and the best becomes best.test.<metric>.pt.
"""

import subprocess
from pathlib import Path

import numpy as np
import torch

from ast_repr import (
    batches,
    checkpoint,
    command,
    config,
    embeddings,
    features,
    files,
    inference,
    manifest,
    metrics,
    rooms,
    store,
    trainer,
)
from ast_repr import device as devices
from ast_repr.classifier import Probe, probabilities

SPLIT = "test"
BATCH = 16


def main(args):
    clips, classes = manifest.read(args.data)
    device, memory = devices.choose(args.device), {}
    for name, conf in command.confs(args, features.lacking(args.data, clips)).items():
        # A run may name the classes that the configs of this command name, whatever is in its files.
        allow = rooms.outside(conf) | set(args.allow_class)
        for seed in args.seeds:
            folder = Path(args.exp) / name / f"seed{seed}"
            history = trainer.read_history(folder)
            if not history and args.conf == "all" and not folder.is_dir():
                print(f"{folder}: left out in training")
                continue
            if not history:
                raise ValueError(f"{folder}: no trained run; run the stage `train` first")
            if not trainer.finished(history, trainer.Plan.of(config.read(folder / "config.yaml"))):
                raise ValueError(
                    f"{folder}: stopped after epoch {len(history)}; run the stage `train` again, which goes on from there"
                )
            score(folder, history, clips, classes, args, device, memory, allow)


def score(folder, history, clips, classes, args, device, memory, allow=()):
    """Score one run, unless that was done since its checkpoint was written. `memory` keeps the test clips, and what heads read of them, from run to run."""
    results, made_by = folder / "results.json", (folder / "last.pt", folder / "config.yaml")
    if results.is_file() and results.stat().st_mtime >= max(
        path.stat().st_mtime for path in made_by
    ):
        print(f"{folder}: scored before")
        return
    about = checkpoint.load(folder / "last.pt")["about"]
    conf = config.read(folder / "config.yaml")
    feature = features.build(**rooms.resolve("feature", about["feature"], allow))
    if (name := about["feature"]["name"]) not in memory:
        stored = store.Store(Path(args.data) / "features" / name, feature.spec())
        usable = store.usable(Path(args.data) / "features", clips)
        memory[name] = batches.load(
            [clip for clip in usable if clip.split == SPLIT], classes, stored
        )
    test, select = memory[name], conf["select"]
    if select["split"] == SPLIT:
        history = choose_on_test(folder, history, select, test, device, allow)
    model, about = inference.restore(trainer.best_path(folder, select), allow=allow)
    used, clips = model.to(device), test
    if model.is_probe:
        read, _ = embeddings.Shelf(args.data, name, feature.spec(), memory).read(
            model, test, about["build"], device, f"{folder}: embed"
        )
        used, clips = Probe(model), test.with_features(read)
    scores = probabilities(used, clips.batches(BATCH), device)
    targets, mask = test.targets.numpy(), test.mask.numpy()
    write_arrays(
        folder / "predictions.npz",
        clips=np.array(test.names),
        classes=np.array(classes),
        scores=scores,
        targets=targets,
        mask=mask,
    )
    if conf["reprogrammer"]["name"] != "none":
        write_arrays(folder / "example.npz", **example(model, test, classes, device))
    found, chosen, epochs = (
        metrics.evaluate(targets, mask, scores, classes=classes),
        trainer.best(history, select),
        history[-1]["epoch"],
    )
    weights = conf["backbone"].get("weights", "none")
    files.write_json(
        results,
        {
            "corpus": conf["run"]["corpus"],
            "protocol": conf["protocol"],
            "conf": conf["run"]["conf"],
            "row": conf["row"] or conf["run"]["conf"],
            "seed": conf["run"]["seed"],
            "feature": name,
            "norm": conf["input"]["norm"],
            "reprogrammer": conf["reprogrammer"]["name"],
            "classes": classes,
            "label_fraction": conf["train"]["labels"],
            "backbone": {
                "name": conf["run"]["backbone"],
                "weights": weights,
                "sha256": about["backbone_sha256"] if weights != "none" else None,
            },
            "trainable_parameters": about["trainable_parameters"],
            "total_parameters": about["total_parameters"],
            "macs": about["macs"],
            "selection": select
            | {"epoch": chosen["epoch"], "value": chosen["valid"][select["metric"]]},
            "epochs": epochs,
            "train_seconds": round(
                about["prepare_seconds"] + sum(row["seconds"] for row in history), 3
            ),
            "seconds_per_epoch": round(sum(row["seconds"] for row in history) / epochs, 3)
            if epochs
            else 0.0,
            "split": SPLIT,
            "clips": len(test),
            "observed": int(mask.sum()),
            "threshold": 0.5,
            "metrics": found,
            "floors": metrics.floors(targets, mask, classes),
            "published": conf["published"],
            "machine": about["device"],
            "commit": commit(),
        },
    )
    print(
        f"{folder}: macro-F1 {found['macro_f1']:.3f} on {len(test)} {SPLIT} clips (epoch {chosen['epoch']} of {epochs})"
    )


def choose_on_test(folder, history, select, test, device, allow):
    """The paper's protocol: score each epoch on test, keep the best; returns the history with those values."""
    history = [dict(row) for row in history]
    for row in history:
        path = trainer.epoch_path(folder, row["epoch"])
        if path.is_file():
            model, _ = inference.restore(path, allow=allow)
            found = metrics.evaluate(
                test.targets.numpy(),
                test.mask.numpy(),
                probabilities(model.to(device), test.batches(BATCH), device),
            )
            row["valid"] = {name: found[name] for name in metrics.SUMMARY}
    chosen = trainer.epoch_path(folder, trainer.best(history, select)["epoch"])
    files.write_bytes(trainer.best_path(folder, select), chosen.read_bytes())
    return history


@torch.no_grad()
def example(model, test, classes, device):
    """The test clip with most instruments present, (T, F) before and after the reprogrammer."""
    present = test.mask & (test.targets >= manifest.PRESENT)
    row = int(present.sum(1).argmax())
    before = model.normalise(test.batch(torch.tensor([row])).to(device).features)
    after = model.reprogrammer(before)
    named = ", ".join(name for name, there in zip(classes, present[row]) if there)
    return {
        "before": before[0, 0].cpu().numpy(),
        "after": after[0, 0].cpu().numpy(),
        "clip": test.names[row],
        "instruments": named,
    }


def write_arrays(path, **arrays):
    with files.replacing(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)


def commit():
    """Short name of the code's commit, or None outside a repository."""
    run = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    return run.stdout.strip() or None


def parse():
    parser = command.parser(__doc__)
    parser.add_argument(
        "--data", required=True, help="folder with the manifest and the feature store"
    )
    parser.add_argument("--exp", required=True, help="folder of the run folders")
    command.add_conf_options(parser)
    command.add_allow_option(parser)
    command.add_run_options(parser)
    return parser


if __name__ == "__main__":
    command.run(main, parse())
