"""Budget: the paper's methods on AST, three seeds, computed from the operations of a step.

Nothing here is timed. Hours are operations divided by a speed: on the CPU the highest in bfloat16
that step.json has, on an H100 the goal of `step.py`, 55 % of the 989 TFLOP/s of its data
sheet, which no run has shown. A run trains on OpenMIC-2018's 12,678 clips and is validated on 2,237
in each epoch of its conf, although it stops earlier when validation no longer improves; 5,085 clips
are scored once. AST-BS passes each clip through AST once, for all seeds. Everything is in bfloat16.
Patchout drops half of the columns of patches in training; the study `tokens` asks what that costs
in accuracy. Left out are methods without AST, training of heads (`embeddings.py`) and extraction
(`features.py`), and the operations of reprogrammers, less than 0.1 % of AST's.
"""

import argparse
import json

import networks
import record
import torch
from step import CEILINGS, OURS, useful_operations

from ast_repr import config
from ast_repr.backbones.audio_transformer import Patchout
from ast_repr.classifier import Reprogrammed, multiply_accumulates

TRAIN, VALID, TEST = 12_678, 2_237, 5_085  # clips of OpenMIC-2018 in the protocol `clean`
SEEDS = 3
PROBE = "ast_linear"
METHODS = (PROBE, "ast_noise", "ast_cnn", "ast_unet", "ast_finetune")
CONFS = record.ROOT / "egs" / "openmic" / "conf"
H100 = 989e12 * CEILINGS["cuda", torch.bfloat16] / 100  # operations per second
GOAL_H = 1


def main(args: argparse.Namespace) -> None:
    """Compute the hours of each method, with all patches and with half of them, and save them."""
    dims = networks.QUICK if args.quick else {}
    whole = networks.paper("none", **dims)[0].to("meta")
    # Patchout leaves as many tokens as an AST for shorter clips has.
    columns = Patchout(whole.backbone.grid, time=0.5, freq=0.0).kept_columns
    ast = networks.AST_BASE | dims
    frames = ast["patch"] + ast["stride"] * (columns - 1)
    half = networks.paper("none", **dims, frames=frames)[0].to("meta")
    cpu, cpu_speed = measured_speed()
    rows = []
    totals = []
    for patches, trained in {"all": whole, "half (patchout)": half}.items():
        total = 0
        for method in METHODS:
            passes = 1 if method == PROBE else SEEDS  # its embeddings are the same for all seeds
            count = passes * operations(method, trained, whole)
            total += count
            row = {"method": method, "patches in training": patches}
            rows.append(row | hours(count, cpu, cpu_speed))
        row = {"all methods": len(METHODS), "seeds": SEEDS, "patches in training": patches}
        row |= hours(total, cpu, cpu_speed)
        totals.append(row | record.goal(total / H100 / 3600, most=GOAL_H, unit=" h on an H100"))
    record.save("budget", rows + totals)


def operations(method: str, trained: Reprogrammed, evaluated: Reprogrammed) -> int:
    """Count the operations of a run that trains through one AST and evaluates by another."""
    conf = config.load(CONFS, method, "openmic")
    shape = (1, evaluated.backbone.frames, evaluated.backbone.mels)
    forward = 2 * multiply_accumulates(evaluated, shape)
    if method == PROBE:
        return (TRAIN + VALID + TEST) * forward
    if conf.backbone.finetune:
        shape = (1, trained.backbone.frames, trained.backbone.mels)
        step = 3 * 2 * multiply_accumulates(trained, shape)
    else:
        step = useful_operations(trained, batch=1)
    return conf.train.epochs * (TRAIN * step + VALID * forward) + TEST * forward


def measured_speed() -> tuple[str, float]:
    """Return the column of hours on the CPU of step.json, and its operations per second."""
    figures = json.loads((record.FOLDER / "step.json").read_text(encoding="utf-8"))
    speeds = []
    for row in figures["rows"]:
        if row.get("step") == OURS and row["precision"] == "bfloat16":
            speeds.append(1e9 * row["useful GFLOP/s"])
    machine = figures["machine"]
    return f"h on {machine['usable cores']} cores of {machine['cpu']}", max(speeds)


def hours(count: int, cpu: str, cpu_speed: float) -> dict:
    """Return the columns of a number of operations."""
    return {
        "PFLOP": count / 1e15,
        cpu: count / cpu_speed / 3600,
        "h on an H100 (not measured)": count / H100 / 3600,
    }


if __name__ == "__main__":
    main(record.parser(__doc__, device=False).parse_args())
