"""Stage `train`: one run for each conf and seed, from the feature store to a run folder.

The split called test is never opened here. A run that was interrupted goes on; one that is finished is left as it is;
one whose config has changed is refused, with the keys that differ.
"""

import fcntl
import hashlib
import shutil
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ast_repr import augment, backbones, batches, catalogue, checkpoint, command, config, features, heads, manifest, methods, optimizer, store, trainer
from ast_repr import device as devices
from ast_repr.classifier import Probe, assemble, multiply_accumulates, read_once


def main(args):
    clips, classes = manifest.read(args.data)
    confs = command.confs(args, lacking=features.lacking(args.data, clips))
    device = devices.choose(args.device)
    identity = {
        "corpus": Path(args.data).name, "manifest_sha256": sha256(Path(args.data) / "manifest.jsonl"),
        "backbone": args.backbone, "weights_sha256": sha256(args.weights),
    }  # fmt: skip
    confs, memory = possible(confs, args, classes), {}
    for name, resolved in confs.items():
        for seed in args.seeds:
            conf = resolved | {"run": identity | {"conf": name, "seed": seed}}
            folder = Path(args.exp) / name / f"seed{seed}"
            with only_user_of(folder):
                claim(folder, conf, args.overwrite)
                train(folder, conf, clips, classes, args, device, memory)


def possible(confs, args, classes):
    """The confs without those whose classes have no names among the source's, which --conf all does without; asked for, they are an error."""
    for name in [name for name, conf in confs.items() if conf["head"].get("kind") == "names"]:
        try:
            zero_shot(args, classes)
        except ValueError as error:
            if args.conf != "all":
                raise
            print(f"{name}: left out, {error}")
            confs = {other: conf for other, conf in confs.items() if other != name}
    return confs


def train(folder, conf, clips, classes, args, device, memory):
    """Train one run, unless it is finished. `memory` keeps clips, and what frozen models say of them, from one run to the next."""
    seed, label, settings = conf["run"]["seed"], f"{conf['run']['conf']} seed {conf['run']['seed']}", conf["train"]
    plan = trainer.Plan.of(conf)
    if trainer.finished(trainer.read_history(folder), plan):
        print(f"{label}: finished before, {describe(trainer.read_history(folder), plan)}")
        return
    feature = features.build(**conf["feature"])
    splits = load_splits(memory, args.data, feature, conf, clips, classes)
    torch.manual_seed(seed)
    build = build_values(conf, args, feature, splits["train"], classes)
    model = assemble(classes, **build).to(device)
    masks = {key: conf["augment"][key] for key in ("time", "freq")}
    noising = partial(mask_features, model.mean if conf["augment"]["fill"] == "mean" else 0.0, masks) if any(masks.values()) else None
    once = model.is_probe and noising is None
    read, seconds = read_splits(model, splits, build, memory, device, label) if once or settings["head_first"] else (None, 0.0)
    if settings["labels"] < 1:
        splits["train"] = splits["train"].thinned(settings["labels"], seed)
    if read:
        read = {split: own.with_features(read[split]) for split, own in splits.items()}
    if settings["head_first"]:
        seconds += train_head(folder / "head", model, read, plan, conf, device)
    splits, trained = (read, Probe(model)) if once else (splits, model)
    if hasattr(model.head, "fit"):
        seconds += fit_head(model.head, splits["train"], seed)

    method = methods.build(model=trained, **conf["method"]).to(device)
    learns = sum(p.numel() for p in model.trainable_parameters())
    total = sum(p.numel() for p in method.parameters())
    epochs = f"{plan.epochs} epochs of {len(splits['train']):,} clips at most" if learns else "no epochs"
    print(f"{label}: {learns:,} trainable of {total:,} parameters, on {device}, {epochs}")
    sha256_before = backbones.weights.fingerprint(model.backbone)
    about = {
        "config": conf, "classes": classes, "feature": conf["feature"], "build": build, "backbone_sha256": sha256_before,
        "trainable_parameters": learns, "total_parameters": total, "macs": multiply_accumulates(model, feature.shape) or None,
        "prepare_seconds": round(seconds, 3), "device": devices.describe(device),
    }  # fmt: skip
    history = trainer.fit(
        method, optimizer.build(model=trained, **conf["optimizer"]) if learns else None,
        splits["train"], splits.get("valid"), folder, plan, device,
        bf16=settings["precision"] == "auto" and devices.has_bf16(device), augment=noising, about=about,
    )  # fmt: skip
    if not model.finetune and backbones.weights.fingerprint(model.backbone) != sha256_before:
        raise AssertionError("the frozen backbone has changed during training")
    print(f"{label}: {describe(history, plan)}")


def read_splits(model, splits, build, memory, device, label):
    """({split: what the head reads of its clips}, seconds that it took, or had taken for the run that computed it)."""
    found = {split: read_once(model, own, build, memory, device, f"{label}: embed {split}") for split, own in splits.items()}
    return {split: tensor for split, (tensor, _) in found.items()}, sum(seconds for _, seconds in found.values())


def train_head(folder, model, splits, plan, conf, device):
    """Train the head alone on what it reads, as a run of its own in `folder`, and leave the model with its best epoch.

    `head_first` in the conf has its epochs, batch_size, patience and lr; schedule, seed and optimiser are the run's. Supervised,
    soft targets, in float32, without augmentation. Returns the seconds it took, when it did.
    """
    folder.mkdir(exist_ok=True)
    own, probe = dict(conf["train"]["head_first"]), Probe(model)
    rates = {"lr": own.pop("lr"), "head_lr": None}
    history = trainer.fit(
        methods.build("supervised", model=probe), optimizer.build(model=probe, **(conf["optimizer"] | rates)),
        splits["train"], splits.get("valid"), folder, replace(plan, **own), device,
    )  # fmt: skip
    if "valid" in splits:  # else the last is kept
        model.load_learned(checkpoint.load(trainer.best_path(folder, plan.select))["learned"])
    return sum(row["seconds"] for row in history)


def fit_head(head, clips, seed):
    """Fit a head that learns at once, on everything that it reads; returns the seconds it took."""
    started, batch = time.monotonic(), clips.batch(torch.arange(len(clips)))
    head.fit(batch.features, batch.targets, batch.mask, seed)
    return time.monotonic() - started


def load_splits(memory, folder, feature, conf, clips, classes):
    """{"train": Clips, "valid": Clips}; where the selection is on test there is no validation split, and all of train is trained on."""
    key = (conf["feature"]["name"], conf["select"]["split"])
    if key not in memory:
        stored = store.Store(Path(folder) / "features" / conf["feature"]["name"], feature.spec())
        clips = store.usable(Path(folder) / "features", clips)
        split_of = {"train": ("train", "valid")} if conf["select"]["split"] == "test" else {"train": ("train",), "valid": ("valid",)}
        wanted = {split: [clip for clip in clips if clip.split in names] for split, names in split_of.items()}
        memory[key] = {split: batches.load(own, classes, stored) for split, own in wanted.items()}
    return dict(memory[key])


def build_values(conf, args, feature, train_clips, classes):
    """Plain values that `assemble` builds the model from, now and whenever the checkpoint is loaded."""
    norm, head = conf["input"]["norm"], dict(conf["head"])
    options = {key: value for key, value in conf["backbone"].items() if key not in ("name", "weights", "finetune")}
    options |= {"frames": feature.frames, "mels": feature.bins, "mean": feature.mean, "std": feature.std}
    pretrained = conf["backbone"].get("weights") == "pretrained"
    if conf["backbone"]["name"] == "ast":
        header = backbones.weights.read_header(args.weights)
        statistics = {key: header.get(key, options[key]) for key in ("mean", "std")}
        options = header["dims"] | {"frames": feature.frames, "mels": feature.bins} | statistics
    if head.get("kind") == "names":
        head |= zero_shot(args, classes)
    return {
        "norm": corpus_statistics(train_clips) if norm == "corpus" else norm,
        "reprogrammer": conf["reprogrammer"],
        "head": head,
        "backbone": {
            "name": conf["backbone"]["name"], "options": options, "source": args.backbone,
            "file": str(Path(args.weights).resolve()) if pretrained else None, "seed": conf["run"]["seed"],
            "finetune": conf["backbone"].get("finetune", False),
        },
    }  # fmt: skip


def zero_shot(args, classes):
    """Which source classes mean a class, as options of the head."""
    table = catalogue.zero_shot(args.backbone)
    labels = catalogue.find(args.backbone).source_classes() or backbones.weights.read_header(args.weights)["source_classes"]
    return {"groups": heads.labelmap.groups(table["names"], classes, labels), "activation": table["activation"]}


def corpus_statistics(clips, size=64):
    """Mean and standard deviation of the training log-mels, over all their cells."""
    count, total, squares = 0, 0.0, 0.0
    for batch in clips.batches(size):
        values = batch.features.double()
        count, total, squares = count + values.numel(), total + values.sum().item(), squares + values.square().sum().item()
    mean = total / count
    return [mean, (squares / count - mean**2) ** 0.5]


def mask_features(fill, masks, x, generator):
    return augment.mask_stripes(x, generator, fill=fill, **masks)


def claim(folder, conf, overwrite):
    """Save the config in a new run folder; refuse one that was made with another."""
    path = folder / "config.yaml"
    if overwrite:
        for old in folder.iterdir():
            if old.name != ".lock":
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    if path.is_file() and (differing := config.differences(path, conf)):
        raise config.ConfigError(f"{folder} was made with other settings: {'; '.join(differing)}; pass --overwrite to make it anew")
    if not path.is_file() or config.read(path) != conf:  # in what tables show
        config.save(path, conf)


@contextmanager
def only_user_of(folder):
    """Hold the run folder's lock; a second process that wants it gets an error."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"{folder}: another process is training there; wait for it or stop it") from error
        yield


def describe(history, plan):
    if plan.select["split"] == "test":
        return f"{len(history)} epochs, all kept for scoring"
    best = trainer.best(history, plan.select)
    if best is None:
        return f"no epoch of {len(history)} could be chosen; train it anew with --overwrite"
    return f"best {plan.select['metric']} on validation {best['valid'][plan.select['metric']]:.3f} at epoch {best['epoch']} of {history[-1]['epoch']}"


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse():
    parser = command.parser(__doc__)
    parser.add_argument("--data", required=True, help="folder with the manifest and the feature store")
    parser.add_argument("--exp", required=True, help="folder of the run folders")
    command.add_conf_options(parser)
    command.add_run_options(parser)
    parser.add_argument("--backbone", required=True, help="name of the backbone, for tables and the catalogue")
    parser.add_argument("--weights", required=True, help="its weight file")
    parser.add_argument("--overwrite", action="store_true", help="make runs anew that are there already")
    return parser


if __name__ == "__main__":
    command.run(main, parse())
