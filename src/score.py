"""Stage `score`: predictions on the test split, and what they are worth, for each conf and seed.

Writes predictions.npz and results.json into the run folder, and one clip before and after the
reprogrammer. results.json says by sha256 what it was made from (checkpoints, config, manifest,
classes, weights); a run is scored again if any of that, or a file of its results, is another one.
A run that was trained on another manifest, or with other settings, is refused. If the selection is
on test (the paper's protocol), each epoch is looked at, and the best becomes best.test.<metric>.pt.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import subprocess
from pathlib import Path

import numpy as np
import torch

from ast_repr import (
    atomic,
    checkpoint,
    cli,
    devices,
    features,
    identity,
    inference,
    manifest,
    metrics,
    registry,
    run_config,
)
from ast_repr.classifier import HeadOnlyModel, probabilities
from ast_repr.data import dataset, feature_store
from ast_repr.run_folder import RunFolder
from ast_repr.training import embedding_cache, trainer

SPLIT = "test"
BATCH = 16


def main(args):
    clips, classes = manifest.read(args.data)
    confs = cli.confs(args, lacking=features.lacking(clips))
    device, memory = devices.choose(args.device), {}
    runs = run_config.of_runs(
        confs, args.seeds, args.data, clips, classes, args.backbone, args.weights
    )
    for conf in runs:
        run = RunFolder.of(args.exp, conf["run"]["conf"], conf["run"]["seed"])
        if args.conf == "all" and not run.path.is_dir():
            print(f"{run}: left out in training")
            continue
        # A run may name the classes that the configs of this command name, whatever its files say.
        allow = registry.outside(conf) | set(args.allow_class)
        score(run, conf, clips, classes, args, device, memory, allow)


def score(run, conf, clips, classes, args, device, memory, allow=()):
    """Score one run, unless its results are there and were made from just this.

    Args:
        run: RunFolder.
        conf: the resolved config that the run has to be of.
        memory: keeps the test clips, and what heads read of them, from run to run.
        allow: names of classes outside of the package that the run may use.
    """
    state = finished(run, conf)
    if not run.has_history(state["history"]):
        run.write_history(state["history"])  # a copy of it, which the report reads
    about = state["about"]
    feature = features.build(**registry.resolve("feature", conf["feature"], allow))
    made_from = {
        "checkpoints": state["hashes"],
        "config": identity.of_values(conf),
        "manifest": conf["run"]["manifest_sha256"],
        "classes": identity.of_values(classes),
        "weights": conf["run"]["weights_sha256"],
        "feature": feature.spec(),
    }
    results = run.read_results()
    if results and results.get("made_from") == made_from and run.matches(results["files"]):
        print(f"{run}: scored before")
        return
    name, select, history = conf["feature"]["name"], conf["select"], state["history"]
    if name not in memory:
        stores = Path(args.data) / "features"
        identities = manifest.identities(clips, name)
        stored = feature_store.Store(stores / name, feature.spec(), identities)
        usable = feature_store.usable(stores, clips)
        memory[name] = dataset.load(
            [clip for clip in usable if clip.split == SPLIT], classes, stored
        )
    test = memory[name]
    if select["split"] == SPLIT:
        history = choose_on_test(run, history, select, test, args.weights, device, allow)
    model, _ = inference.restore(run.best(select), args.weights, allow)
    used, clips = model.to(device), test
    if model.head_only:
        cache = embedding_cache.EmbeddingCache(args.data, name, feature.spec(), memory)
        read, _ = cache.read(model, test, about["spec"], device, f"{run}: embed")
        used, clips = HeadOnlyModel(model), test.with_features(read)
    scores = probabilities(used, clips.batches(BATCH), device)
    targets, mask = test.targets.numpy(), test.mask.numpy()
    written = [run.history, run.predictions]
    write_arrays(
        run.predictions,
        clips=np.array(test.names),
        classes=np.array(classes),
        scores=scores,
        targets=targets,
        mask=mask,
    )
    if conf["reprogrammer"]["name"] != "none":
        write_arrays(run.example, **example(model, test, classes, device))
        written.append(run.example)
    if select["split"] == SPLIT:
        written.append(run.best(select))
    found = metrics.evaluate(targets, mask, scores, classes=classes)
    chosen, epochs = trainer.best(history, select), history[-1]["epoch"]
    seconds = sum(row["seconds"] for row in history)
    weights = conf["backbone"].get("weights", "none")
    run.write_results(
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
            "label_fraction": conf["train"]["label_fraction"],
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
            "train_seconds": round(about["prepare_seconds"] + seconds, 3),
            "seconds_per_epoch": round(seconds / epochs, 3) if epochs else 0.0,
            "split": SPLIT,
            "clips": len(test),
            "observed": int(mask.sum()),
            "threshold": 0.5,
            "metrics": found,
            "constant_baselines": metrics.constant_baselines(targets, mask, classes),
            "published": conf["published"],
            "machine": about["device"],
            "commit": commit(),
            "made_from": made_from,
            "files": {path.name: identity.of_file(path) for path in written},
        },
    )
    value = found["macro_f1"]
    measured = "no macro-F1" if value is None else f"macro-F1 {value:.3f}"
    print(f"{run}: {measured} on {len(test)} {SPLIT} clips (epoch {chosen['epoch']} of {epochs})")


def finished(run, conf):
    """What last.pt holds of a run that has been trained to its end as `conf` says.

    Raises:
        ValueError: it was not, or its other checkpoints are not those that it wrote.
    """
    state = trainer.read_last(run)
    if state is None:
        raise ValueError(f"{run}: no trained run; run the stage `train` first")
    run_config.refuse_other(run, state["about"]["config"], conf)
    epochs = len(state["history"])
    if not trainer.finished(state["history"], trainer.Plan.of(conf)):
        raise ValueError(f"{run}: stopped after epoch {epochs}; run the stage `train` to resume it")
    if not run.matches(state["hashes"]):
        raise checkpoint.CheckpointError(
            f"{run}: {', '.join(state['hashes'])}: missing, damaged or of another run; "
            "run the stage `train` again, which mends it"
        )
    return state


def choose_on_test(run, history, select, test, weights, device, allow):
    """The paper's protocol: score each epoch on test, keep the best.

    Returns:
        the history with the values on test.
    """
    history = [dict(row) for row in history]
    for row in history:
        path = run.epoch(row["epoch"])
        if path.is_file():
            model, _ = inference.restore(path, weights, allow)
            found = metrics.evaluate(
                test.targets.numpy(),
                test.mask.numpy(),
                probabilities(model.to(device), test.batches(BATCH), device),
            )
            row["valid"] = {name: found[name] for name in metrics.SUMMARY}
    chosen = run.epoch(trainer.best(history, select)["epoch"])
    atomic.write_bytes(run.best(select), chosen.read_bytes())
    return history


@torch.no_grad()
def example(model, test, classes, device):
    """The test clip with most instruments present, (T, F) before and after the reprogrammer."""
    present = test.mask & (test.targets >= manifest.PRESENT)
    row = int(present.sum(1).argmax())
    before = model.normalise(test.batch(torch.tensor([row])).to(device).features)
    after = model.reprogrammer(before)
    named = ", ".join(name for name, there in zip(classes, present[row], strict=True) if there)
    return {
        "before": before[0, 0].cpu().numpy(),
        "after": after[0, 0].cpu().numpy(),
        "clip": test.names[row],
        "instruments": named,
    }


def write_arrays(path, **arrays):
    with atomic.replacing(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)


def commit():
    """Short name of the code's commit; None outside a repository, or without git."""
    line = ["git", "rev-parse", "--short", "HEAD"]
    try:
        run = subprocess.run(
            line, cwd=Path(__file__).parent, capture_output=True, text=True, encoding="utf-8"
        )
    except OSError:
        return None
    return run.stdout.strip() or None


def parse():
    parser = cli.parser(__doc__)
    cli.add_conf_options(parser)
    cli.add_allow_option(parser)
    cli.add_run_options(parser)
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
