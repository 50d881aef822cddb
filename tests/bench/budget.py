"""The paper's table at its real size: eight rows, three seeds, 20,000 clips, AST-base

What `train.py --dry-run` estimates for each row on this machine: a few of its steps are made at full size (one, where a step takes AST on a CPU), those of the second epoch
are timed and scaled to OpenMIC-2018's 12,678 clips for training and 2,237 for validation, through all epochs of its conf, 30 unless the row says otherwise, without early
stopping, which would shorten most. The forest is fitted at full size, and the head of AST-BS is taught on embeddings that are read once for all seeds. Extraction
(features.py) and one pass over the 5,085 test clips come on top.
Columns with "computed" are not measured: a seed's operations, in the precision that training takes on a GPU (bfloat16) and in float32, in which clips are
validated and embeddings are read; and the minutes of an H100 that reaches 55 % of its data sheet's 989 TFLOP/s for the first and of its 67 TFLOP/s for the second.
Rows without AST are bound by memory, and so have no such minutes.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import networks
import record
import torch

from ast_repr import backbones, config, devices, features, manifest
from ast_repr.classifier import build_model, multiply_accumulates
from ast_repr.settings import RunIdentity
from ast_repr.training import estimate, experiment

ROWS = (
    "forest",
    "cnn_only",
    "unet_only",
    "ast_linear",
    "ast_noise",
    "ast_cnn",
    "ast_unet",
    "ast_finetune",
)
CLIPS = {
    "train": 12_678,
    "valid": 2_237,
    "test": 5_085,
}  # of OpenMIC-2018, 15 % of the train clips for validation
SEEDS, LABELLED, GOAL_H = 3, 0.1, 1.0
STEPS = {
    "forest": 10**6,
    "cnn_only": 50,
    "unet_only": 50,
}  # of each epoch that is tried; a million are all there are
H100 = {"bfloat16": 0.55 * 989e12, "float32": 0.55 * 67e12}  # operations a second
CONFS = record.ROOT / "egs" / "openmic" / "conf"


def main(args):
    target, rows = devices.choose(args.device), []
    confs = {
        name: config.load(CONFS, name, "openmic", "clean", [], ["vggish"])
        for name in (ROWS[3:4] if args.quick else ROWS)
    }
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        backbones.weights.save(
            backbones.build("ast", **networks.AST_BASE | ({"depth": 1} if args.quick else {})),
            weights,
        )
        context = experiment.RunContext(None, clips(), networks.CLASSES, "random", str(weights))
        for name, conf in confs.items():
            run = RunIdentity("none", "", networks.CLASSES, "random", "", name, seed=0)
            conf = replace(conf, run=run)
            cost = estimate.estimate(
                conf, context, target, steps=STEPS.get(name, 50 if target.type == "cuda" else 1)
            )
            done = operations(conf, weights)
            minutes = (
                sum(done[kind] / speed for kind, speed in H100.items()) / 60
                if conf.backbone.name == "ast"
                else None
            )
            rows.append(
                {
                    "row": name,
                    "a seed, h": cost.seconds / 3600,
                    "of it for all seeds, s": cost.shared_s,
                    "epochs": cost.epochs,
                    "an epoch, s": cost.epoch_s,
                    **{f"{kind} PFLOP (computed)": count / 1e15 for kind, count in done.items()},
                    "on an H100, min (computed)": minutes,
                }
            )
            print(record.short(cost.seconds / 3600), "h:", name, flush=True)
    record.save("budget", [*rows, total(rows, target)], on=target)


def total(rows, target):
    """The row of the whole table; on an H100 it is judged."""
    once = sum(row["of it for all seeds, s"] for row in rows) / 3600
    hours = once + SEEDS * (sum(row["a seed, h"] for row in rows) - once)
    minutes = sum(
        (row["on an H100, min (computed)"] or 0) * (1 if row["of it for all seeds, s"] else SEEDS)
        for row in rows
    )
    on_h100 = target.type == "cuda" and "H100" in torch.cuda.get_device_name(target)
    return {
        "the whole table": f"{len(rows)} rows x {SEEDS} seeds",
        "here, h": hours,
        "on an H100, h (computed)": minutes / 60,
        "goal": f"at most {GOAL_H:g} h on an H100",
        "value": hours if on_h100 else None,
        "met": hours <= GOAL_H if on_h100 else None,
    }


def clips():
    """A manifest of OpenMIC's size, a tenth of whose labels are known."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for split, count in CLIPS.items():
        for number in range(count):
            known = (torch.rand(len(networks.CLASSES), generator=generator) < LABELLED).nonzero()[
                :, 0
            ].tolist() or [number % len(networks.CLASSES)]
            labels = {networks.CLASSES[k]: float(torch.rand(1, generator=generator)) for k in known}
            made.append(
                manifest.Clip(
                    f"{split}{number}", f"{split}{number}", "none.ogg", 0.0, split, labels
                )
            )
    return made


def operations(conf, weights):
    """{precision: floating-point operations} of the training of one seed: twice the multiply-accumulates forwards; backwards once more where only
    the input needs a gradient, twice where weights do; attention counts twice backwards."""
    feature, name = features.build(**conf.feature.to_dict()), conf.backbone.name
    options = conf.backbone.options | {
        "frames": feature.frames,
        "mels": feature.bins,
        "mean": feature.mean,
        "std": feature.std,
    }
    if name == "ast":
        options = backbones.weights.read_header(weights)["dims"] | {
            "frames": feature.frames,
            "mels": feature.bins,
        }
    source = {
        "name": name,
        "options": options,
        "file": None,
        "seed": 0,
        "finetune": conf.backbone.finetune,
    }
    model = build_model(networks.CLASSES, "none", conf.reprogrammer.to_dict(), source, conf.head.to_dict())
    forward, trained, checked = (
        2 * multiply_accumulates(model, feature.shape),
        CLIPS["train"],
        CLIPS["valid"],
    )
    if model.head_only:  # read once; what the head computes is nothing beside it
        return {"bfloat16": 0, "float32": forward * (trained + checked)}
    attended = (
        4
        * (len(model.backbone.blocks) - 1)
        * model.backbone.pos_embed.shape[1] ** 2
        * model.backbone.embed_dim
        if name == "ast"
        else 0
    )
    step = forward * (3 if model.finetune or name != "ast" else 2) + attended * (
        0 if model.finetune else 1
    )
    epochs = conf.train.epochs
    return {"bfloat16": epochs * trained * step, "float32": epochs * checked * forward}


if __name__ == "__main__":
    main(record.parser(__doc__).parse_args())
