"""One run, from its resolved config and the feature store to what training leaves in its folder.

The split called test is never opened.
"""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from .. import backbones, blueprint, devices, features, manifest, methods, registry
from ..classifier import HeadOnlyModel, build_model, multiply_accumulates
from ..data import dataset, feature_store
from ..distributed import process_group
from ..run_folder import RunFolder
from . import augment, embedding_cache, head_only, optimizer, trainer


@dataclass
class RunContext:
    """What all runs on one corpus and one backbone draw from.

    Attributes:
        data: folder with the feature stores and embeddings; None if the memory has all features,
            and nothing goes to disk.
        clips, classes: from the manifest.
        backbone: its name in the catalogue; `weights`: its file.
        sources: see `blueprint.source_groups`; empty where no run needs it.
        keep: where features stay, see `dataset.load`.
        recompute: whether the backbone's activations are computed again on the way back, to save
            memory.
        compile: whether torch.compile makes kernels of its own for the backbone.
        memory: clips, and what frozen models say of them, from one run to the next.
    """

    data: str | None
    clips: list
    classes: list
    backbone: str
    weights: str
    sources: dict
    keep: str = "auto"
    recompute: bool = False
    compile: bool = False
    memory: dict = field(default_factory=dict)


def train(folder, conf, context, group, device):
    """Train one run, unless it is finished.

    Args:
        folder: the run folder, which is there and holds nothing of another run.
        conf: the resolved config, and under "run" what identifies the run.
        context: a RunContext.
        group: the processes that share the run; each of them calls this. A head alone is taught by
            rank 0; the others return once they have the model, which shows it.
        device: of this process.
    """
    seed, settings, plan = conf["run"]["seed"], conf["train"], trainer.Plan.of(conf)
    label = f"{conf['run']['conf']} seed {seed}"
    run = RunFolder(Path(folder))
    history = trainer.read_history(folder)
    if trainer.finished(history, plan):
        print(f"{label}: finished before, {trainer.describe(history, plan)}")
        return
    allow = registry.outside(conf)  # whoever writes a config may name any class
    feature = features.build(**registry.resolve("feature", conf["feature"], allow))
    (splits, place), seconds, common = (
        load_splits(folder, context, feature, conf, group, device),
        0.0,
        0.0,
    )
    if settings["label_fraction"] < 1:
        splits["train"] = splits["train"].subsample_labels(settings["label_fraction"], seed)
    torch.manual_seed(seed)
    spec = blueprint.from_config(
        conf, feature, splits["train"], context.backbone, context.weights, context.sources
    )
    model = build_model(context.classes, **spec, allow=allow).to(device)
    model.backbone.grad_checkpointing = context.recompute
    masks = {key: conf["augment"][key] for key in ("time", "freq")}
    fill = model.mean if conf["augment"]["fill"] == "mean" else 0.0
    augment_fn = partial(augment.spec_augment, fill=fill, **masks) if any(masks.values()) else None
    if (
        alone := model.head_only and augment_fn is None
    ):  # nothing before the head changes: it is taught on what it reads, by one process
        if group.rank:
            return
        group = process_group.SINGLE_PROCESS
    if group.rank == 0 and (alone or settings["probe_first"]):
        cache = embedding_cache.EmbeddingCache(
            context.data, conf["feature"]["name"], feature.spec(), context.memory
        )
        read, seconds = head_only.read(model, splits, spec, cache, device, label)
        common = seconds if embedding_cache.shareable(model, spec) else 0.0
        if settings["probe_first"]:
            seconds += head_only.train(run.head, model, read, plan, conf, device)
    if settings["probe_first"]:
        model.load_trainable_state_dict(
            group.broadcast(
                {name: tensor.cpu() for name, tensor in model.trainable_state_dict().items()}
            )
        )
    trained, splits = (HeadOnlyModel(model), read) if alone else (model, splits)
    if hasattr(model.head, "fit"):
        seconds += head_only.fit(model.head, splits["train"], seed)

    macs, sha256_before = (
        multiply_accumulates(model, feature.shape) or None,
        backbones.weights.fingerprint(model.backbone),
    )
    process_group.shard_batch(model, group)
    if context.compile:  # after what looks at each of its operations
        model.backbone.compile()
    teaching = registry.resolve("method", conf["method"], allow, given=("model",))
    method = methods.build(model=trained, **teaching).to(device)
    learns, total = (
        sum(p.numel() for p in parameters)
        for parameters in (model.trainable_parameters(), method.parameters())
    )
    exchanged = (
        process_group.bytes_per_step(model, plan.batch_size, len(context.classes))
        if group.size > 1
        else 0
    )
    epochs = (
        f"{plan.epochs} epochs of {len(splits['train']):,} clips at most" if learns else "no epochs"
    )
    shared = (
        f" in {group.size} processes, {exchanged / 1000:,.0f} kB from each to the others a step"
        if group.size > 1
        else ""
    )
    print(f"{label}: {learns:,} trainable of {total:,} parameters, on {device}{shared}, {epochs}")
    about = {
        "config": conf,
        "classes": context.classes,
        "feature": conf["feature"],
        "spec": spec,
        "backbone_sha256": sha256_before,
        "trainable_parameters": learns,
        "total_parameters": total,
        "macs": macs,
        "prepare_seconds": round(seconds, 3),
        "shared_seconds": round(
            common, 3
        ),  # the latter are those of the former for what other seeds read too
        "device": devices.describe(device),
        "processes": group.size,
        "exchanged_bytes": exchanged,
        "features_in": place,
    }
    history = trainer.fit(
        method,
        optimizer.build(model=trained, **conf["optimizer"]) if learns else None,
        splits["train"],
        splits.get("valid"),
        folder,
        plan,
        device,
        bf16=settings["precision"] == "auto" and devices.has_bf16(device),
        augment=augment_fn,
        about=about,
        group=group,
    )
    if not model.finetune and backbones.weights.fingerprint(model.backbone) != sha256_before:
        raise AssertionError("the frozen backbone has changed during training")
    print(f"{label}: {trainer.describe(history, plan)}")


def load_splits(folder, context, feature, conf, group, device):
    """The clips of a run's splits, and where their features stay.

    Returns:
        ({"train": Clips, "valid": Clips}, see `splits_of`; the place, "auto" decided).
    """
    keep = context.keep
    # The order of the clips depends on the place: all processes and epochs of a run share it.
    if keep == "auto":
        keep = group.broadcast(place_before(folder)) or keep
    if key(conf, keep) not in context.memory:
        stores = Path(context.data) / "features"
        name = conf["feature"]["name"]
        identities = manifest.identities(context.clips, name)
        stored = feature_store.Store(stores / name, feature.spec(), identities)
        wanted = splits_of(feature_store.usable(stores, context.clips), conf)
        count = sum(map(len, wanted.values()))
        place = (
            group.broadcast(
                dataset.choose_storage(count, stored.shape, device, group.local_world_size)
            )
            if keep == "auto"
            else keep
        )
        context.memory[key(conf, keep)] = (
            {
                split: dataset.load(own, context.classes, stored, place, device)
                for split, own in wanted.items()
            },
            place,
        )
    splits, place = context.memory[key(conf, keep)]
    return dict(splits), place


def place_before(folder):
    """Where the features of a run that is resumed here stayed, None for a new one."""
    state = trainer.read_last(RunFolder(Path(folder)))
    return None if state is None else state["about"].get("features_in")


def key(conf, keep):
    """What runs have in common that draw on the same clips and features."""
    return json.dumps(conf["feature"], sort_keys=True), conf["select"]["split"], keep


def splits_of(clips, conf):
    """{"train": clips, "valid": clips}.

    If the selection is on test there is no validation split, and all of train is trained on.
    """
    split_of = (
        {"train": ("train", "valid")}
        if conf["select"]["split"] == "test"
        else {"train": ("train",), "valid": ("valid",)}
    )
    return {
        split: [clip for clip in clips if clip.split in names] for split, names in split_of.items()
    }
