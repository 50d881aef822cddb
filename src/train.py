"""Stage `train`: one run for each conf and seed, from the feature store to a run folder.

The split called test is never opened here. A run that was interrupted goes on; one that is finished is left as it is;
one whose config has changed is refused, with the keys that differ.
"""

import fcntl
import hashlib
import shutil
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from ast_repr import augment, backbones, batches, command, config, features, manifest, methods, optimizer, store, trainer
from ast_repr import device as devices
from ast_repr.classifier import Probe, assemble


def main(args):
    confs = config.select(args.conf_dir, args.conf)
    resolved = {name: config.load(args.conf_dir, name, args.corpus, args.protocol, args.set) for name in confs}
    clips, classes = manifest.read(args.data)
    device = devices.choose(args.device)
    identity = {
        "corpus": Path(args.data).name, "manifest_sha256": sha256(Path(args.data) / "manifest.jsonl"),
        "backbone": args.backbone, "weights_sha256": sha256(args.weights),
    }  # fmt: skip
    data = {}
    for name in confs:
        for seed in args.seeds:
            conf = resolved[name] | {"run": identity | {"conf": name, "seed": seed}}
            folder = Path(args.exp) / name / f"seed{seed}"
            with only_user_of(folder):
                claim(folder, conf, args.overwrite)
                train(folder, conf, clips, classes, args, device, data)


def train(folder, conf, clips, classes, args, device, data):
    """Train one run, unless it is finished. `data` keeps the clips of a feature from one run to the next."""
    seed, label = conf["run"]["seed"], f"{conf['run']['conf']} seed {conf['run']['seed']}"
    plan = trainer.Plan(
        schedule=conf["schedule"], select=conf["select"], seed=seed,
        **{key: conf["train"][key] for key in ("epochs", "batch_size", "micro_batch", "patience", "clip_norm")},
    )  # fmt: skip
    if trainer.finished(trainer.read_history(folder), plan):
        print(f"{label}: finished before, {describe(trainer.read_history(folder), plan)}")
        return
    feature = features.build(**conf["feature"])
    splits = load_splits(data, args.data, feature, conf, clips, classes)
    torch.manual_seed(seed)
    build = build_values(conf, args, feature, splits["train"])
    model = assemble(classes, **build).to(device)
    learns, total = sum(p.numel() for p in model.trainable_parameters()), sum(p.numel() for p in model.parameters())
    print(f"{label}: {learns:,} trainable of {total:,} parameters, on {device}, {plan.epochs} epochs of {len(splits['train']):,} clips at most")

    masks = {key: conf["augment"][key] for key in ("time", "freq")}
    noising = partial(mask_features, model.mean if conf["augment"]["fill"] == "mean" else 0.0, masks) if any(masks.values()) else None
    started, trained = time.monotonic(), model
    if model.is_probe and noising is None:
        splits = {split: read_once(model, own, device, f"{label}: embed {split}") for split, own in splits.items()}
        trained = Probe(model.head)
    sha256_before = backbones.weights.fingerprint(model.backbone)
    about = {
        "config": conf, "classes": classes, "feature": conf["feature"], "build": build, "backbone_sha256": sha256_before,
        "trainable_parameters": learns, "total_parameters": total, "embed_seconds": round(time.monotonic() - started, 3),
        "device": devices.describe(device),
    }  # fmt: skip
    history = trainer.fit(
        methods.build(model=trained, **conf["method"]), model, optimizer.build(model=model, **conf["optimizer"]),
        splits["train"], splits.get("valid"), folder, plan, device,
        bf16=conf["train"]["precision"] == "auto" and devices.has_bf16(device), augment=noising, about=about,
    )  # fmt: skip
    if not conf["backbone"]["finetune"] and backbones.weights.fingerprint(model.backbone) != sha256_before:
        raise AssertionError("the frozen backbone has changed during training")
    print(f"{label}: {describe(history, plan)}")


def load_splits(data, folder, feature, conf, clips, classes):
    """{"train": Clips, "valid": Clips}; where the selection is on test there is no validation split, and all of train is trained on."""
    key = (conf["feature"]["name"], conf["select"]["split"])
    if key not in data:
        stored = store.Store(Path(folder) / "features" / conf["feature"]["name"], feature.spec())
        split_of = {"train": ("train", "valid")} if conf["select"]["split"] == "test" else {"train": ("train",), "valid": ("valid",)}
        wanted = {split: stored.present([clip for clip in clips if clip.split in names]) for split, names in split_of.items()}
        data[key] = {split: batches.load(own, classes, stored) for split, own in wanted.items()}
    return data[key]


def build_values(conf, args, feature, train_clips):
    """Plain values that `assemble` builds the model from, now and whenever the checkpoint is loaded."""
    header = backbones.weights.read_header(args.weights)
    norm = conf["input"]["norm"]
    return {
        "norm": statistics(train_clips) if norm == "corpus" else norm,
        "reprogrammer": conf["reprogrammer"],
        "head": conf["head"],
        "backbone": {
            "name": args.backbone, "dims": header["dims"] | {"frames": feature.frames, "mels": feature.bins},
            "mean": header.get("mean", backbones.AUDIOSET_MEAN), "std": header.get("std", backbones.AUDIOSET_STD),
            "file": str(Path(args.weights).resolve()) if conf["backbone"]["weights"] == "pretrained" else None,
            "seed": conf["run"]["seed"], "finetune": conf["backbone"]["finetune"],
        },
    }  # fmt: skip


def statistics(clips, size=64):
    """Mean and standard deviation of the training log-mels, over all their cells."""
    count, total, squares = 0, 0.0, 0.0
    for batch in clips.batches(size):
        values = batch.features.double()
        count, total, squares = count + values.numel(), total + values.sum().item(), squares + values.square().sum().item()
    mean = total / count
    return [mean, (squares / count - mean**2) ** 0.5]


def mask_features(fill, masks, x, generator):
    return augment.mask_stripes(x, generator, fill=fill, **masks)


def read_once(model, clips, device, label, size=32):
    """The same clips with what the head reads as their features: nothing before the head learns, so it never changes."""
    model.eval()
    steps = tqdm(clips.batches(size), label, -(-len(clips) // size), unit="batch", leave=False)
    return clips.with_features(torch.cat([model.read(batch.to(device).features).cpu() for batch in steps]))


def claim(folder, conf, overwrite):
    """Save the config in a new run folder; refuse one that was made with another."""
    path = folder / "config.yaml"
    if overwrite:
        for old in folder.iterdir():
            if old.name != ".lock":
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    if path.is_file() and (differing := config.differences(path, conf)):
        raise config.ConfigError(f"{folder} was made with other settings: {'; '.join(differing)}; pass --overwrite to make it anew")
    if not path.is_file():
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
    best = trainer.best_epoch(history, plan.select)
    value = history[best - 1]["valid"][plan.select["metric"]]
    return f"best {plan.select['metric']} on validation {value:.3f} at epoch {best} of {len(history)}"


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
