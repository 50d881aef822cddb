"""The paper's table at its real size: eight rows, three seeds, 20,000 clips, AST-base

What `train.py --dry-run` estimates for each row on this machine, by a step of it (the second) made at full size and scaled to OpenMIC's 12,678 clips
for training and 2,237 for validation, through all epochs of its conf, 30 unless the row says otherwise, and without early stopping;
the head of AST-BS is taught on embeddings that are read once. Columns with "computed" are not measured: operations of a seed's training, and what they
would take on one H100 at 55 % of the 989 TFLOP/s of its data sheet (bfloat16, dense), which is this project's goal for a step there.
"""

import tempfile
from pathlib import Path

import networks
import record
import torch

from ast_repr import backbones, config, device, estimate, experiment, features, manifest
from ast_repr.classifier import assemble, multiply_accumulates

ROWS = ("forest", "cnn_only", "unet_only", "ast_linear", "ast_noise", "ast_cnn", "ast_unet", "ast_finetune")
CLIPS = {"train": 12_678, "valid": 2_237, "test": 5_085}  # of OpenMIC-2018, 15 % of the train clips for validation
SEEDS, LABELLED = 3, 0.1
H100 = 0.55 * 989e12  # operations a second
CONFS = record.ROOT / "egs" / "openmic" / "conf"


def main(args):
    target, rows = device.choose(args.device), []
    confs = {name: config.load(CONFS, name, "openmic", "clean", [], ["vggish"]) for name in (ROWS[3:4] if args.quick else ROWS)}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        backbones.weights.save(backbones.build("ast", **networks.AST_BASE | ({"depth": 1} if args.quick else {})), weights)
        stock = experiment.Stock("", clips(), networks.CLASSES, "random", str(weights), {})
        for name, conf in confs.items():
            conf = conf | {"run": {"conf": name, "seed": 0}}
            cost = estimate.estimate(conf, stock, target, steps=1)
            done = operations(conf, weights)
            rows.append({
                "row": name, "a seed, h": cost.seconds / 3600, "before the first epoch, s": cost.prepare_s, "epochs": cost.epochs, "an epoch, s": cost.epoch_s,
                "a seed, PFLOP (computed)": done / 1e15, "a seed on an H100, min (computed)": done / H100 / 60,
            })  # fmt: skip
            print(record.short(cost.seconds / 3600), "h:", name, flush=True)
    total = {"the whole table": f"{len(rows)} rows x {SEEDS} seeds", "here, h": SEEDS * sum(row["a seed, h"] for row in rows)}
    hours = SEEDS * sum(row["a seed on an H100, min (computed)"] for row in rows) / 60
    record.save("budget", rows + [total | {"on an H100, h (computed)": hours, "goal": "at most 1 h on an H100", "met": None}])


def clips():
    """A manifest of OpenMIC's size, a tenth of whose labels are known."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for split, count in CLIPS.items():
        for number in range(count):
            known = (torch.rand(len(networks.CLASSES), generator=generator) < LABELLED).nonzero()[:, 0].tolist() or [number % len(networks.CLASSES)]
            labels = {networks.CLASSES[k]: float(torch.rand(1, generator=generator)) for k in known}
            made.append(manifest.Clip(f"{split}{number}", f"{split}{number}", "none.ogg", 0.0, split, labels))
    return made


def operations(conf, weights):
    """Floating-point operations of the training of one seed: twice the multiply-accumulates forwards; backwards once more where only the
    input needs a gradient, twice where weights do; attention counts twice backwards."""
    feature, name = features.build(**conf["feature"]), conf["backbone"]["name"]
    options = {key: value for key, value in conf["backbone"].items() if key not in ("name", "weights", "finetune")}
    options |= {"frames": feature.frames, "mels": feature.bins, "mean": feature.mean, "std": feature.std}
    if name == "ast":
        options = backbones.weights.read_header(weights)["dims"] | {"frames": feature.frames, "mels": feature.bins}
    source = {"name": name, "options": options, "file": None, "seed": 0, "finetune": conf["backbone"].get("finetune", False)}
    model = assemble(networks.CLASSES, "none", conf["reprogrammer"], source, conf["head"])
    forward, trained, checked = 2 * multiply_accumulates(model, feature.shape), CLIPS["train"], CLIPS["valid"]
    if model.is_probe:  # read once; what the head computes is nothing beside it
        return forward * (trained + checked)
    attended = 4 * (len(model.backbone.blocks) - 1) * model.backbone.pos_embed.shape[1] ** 2 * model.backbone.embed_dim if name == "ast" else 0
    step = forward * (3 if model.finetune or name != "ast" else 2) + attended * (0 if model.finetune else 1)
    return conf["train"]["epochs"] * (trained * step + checked * forward)


if __name__ == "__main__":
    main(record.parser(__doc__).parse_args())
