"""Budget: the paper's methods on AST, three seeds, from the measured speed of a step.

Nothing is timed here. Hours are clips divided by the clips per second that `step.py` measured in
bfloat16, on a CPU (step.json) and on a GPU (step-gpu.json); a file of an earlier version, without
evaluation, is left out. A run trains on OpenMIC-2018's 12,678 clips and is validated on 2,237 in
each epoch of its conf, although it stops earlier when validation no longer improves; 5,085 clips
are scored once. AST-BS passes each clip through AST once, for all seeds. The step of every
reprogrammer is the U-Net's, the largest of them. Fine-tuning was measured without the levers; it is
assumed to gain as much from them as the U-Net's step. Patchout drops half of the columns of patches
in training; the study `tokens` asks what that costs in accuracy. Left out are methods without AST,
training of heads (`embeddings.py`) and extraction (`features.py`).
"""

import argparse
import json

import record

from ast_repr import config

TRAIN, VALID, TEST = 12_678, 2_237, 5_085  # clips of OpenMIC-2018 in the protocol `clean`
SEEDS = 3
PROBE, FINETUNED = "ast_linear", "ast_finetune"
METHODS = (PROBE, "ast_noise", "ast_cnn", "ast_unet", FINETUNED)
CONFS = record.ROOT / "egs" / "openmic" / "conf"
FULL = "the full step"
LEVERS = {  # and the variant of step.py that measures each
    "none": FULL,
    "half of the patches": "with half of the patches dropped (patchout_time=0.5)",
    "--compile": "with --compile",
    "both": "with --compile and half of the patches",
}
EVALUATION = "this project"
FINETUNING = "with the gradients of all weights (fine-tuning)"
GOAL_H = 1  # on one H100


def main(args: argparse.Namespace) -> None:
    """Compute the hours of each method with each lever, on each device, and save them."""
    rows = []
    totals = []
    for path in sorted(record.FOLDER.glob("step*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        machine = figures["machine"]
        on_gpu = figures["device"] == "cuda"
        on = machine["gpu"] if on_gpu else f"{machine['usable cores']} cores, {machine['cpu']}"
        speeds = clips_per_second(figures["rows"])
        for lever, variant in LEVERS.items():
            if not {variant, EVALUATION, FINETUNING} <= speeds.keys():
                continue  # no compiler there, or figures of an earlier version
            hours = {method: total_hours(method, variant, speeds) for method in METHODS}
            for method, value in hours.items():
                rows.append({"on": on, "levers": lever, "method": method, "h": value})
            total = sum(hours.values())
            row = {"all methods on": on, "levers": lever, "h": total, "goal": None, "met": None}
            if on_gpu:
                row |= record.goal(total, most=GOAL_H, unit=" h")
            totals.append(row)
    record.save("budget", rows + totals)


def clips_per_second(rows: list[dict]) -> dict[str, float]:
    """Return the measured speeds in bfloat16, by the names of variants and of evaluations."""
    speeds = {}
    for row in rows:
        name = row.get("variant") or row.get("evaluation")
        if name and row["precision"] == "bfloat16" and row["s"]:
            speeds[name] = row["batch"] / row["s"]
    return speeds


def total_hours(method: str, variant: str, speeds: dict[str, float]) -> float:
    """Compute the hours of a method's runs: training, validation and scoring."""
    evaluated = speeds[EVALUATION]
    if method == PROBE:
        return (TRAIN + VALID + TEST) / evaluated / 3600
    trained = speeds[variant]
    if method == FINETUNED:
        trained = speeds[FINETUNING] * speeds[variant] / speeds[FULL]
    epochs = config.load(CONFS, method, "openmic").train.epochs
    seconds = epochs * (TRAIN / trained + VALID / evaluated) + TEST / evaluated
    return SEEDS * seconds / 3600


if __name__ == "__main__":
    main(record.parser(__doc__, device=False).parse_args())
