"""Training of one run, from its config and the feature store; the test split is never opened."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from .. import (
    backbones,
    devices,
    distributed,
    features,
    manifest,
    methods,
    model_spec,
    pretrained,
    registry,
)
from ..classifier import HeadOnlyModel, Reprogrammed, build_model, multiply_accumulates
from ..data import dataset, feature_store, windows
from ..run_folder import RunFolder
from ..settings import Backbone, Config, Input, Section
from . import augment, embedding_cache, head_only, optim, trainer

# Steps of a teacher's embedding over time, of about 0.64 s in the log-mels of ten seconds.
TEACHER_STEPS = 16
TEACHER_C = 0.1  # of its logistic regression without a validation split to choose by


@dataclass
class RunContext:
    """Inputs and options that the runs on one corpus and one backbone share.

    Attributes:
        data: folder with the feature stores and embeddings; None to keep nothing on disk.
        clips, classes: from the manifest.
        backbone: its name in the catalogue; `weights`: its file.
        storage: where features are kept, see `dataset.load`.
        recompute: use activation checkpointing in the backbone, to save memory.
        compile: torch.compile the backbone.
        tensorboard: write scalars for TensorBoard into the run folder.
        memory: cache of splits and embeddings.
    """

    data: str | None
    clips: list[manifest.Clip]
    classes: list[str]
    backbone: str
    weights: str
    storage: str = "auto"
    recompute: bool = False
    compile: bool = False
    tensorboard: bool = False
    memory: dict = field(default_factory=dict)


@dataclass
class Trainee:
    """The trained model and its data.

    Attributes:
        model: the whole model, or its head alone.
        splits: clips by split, with the inputs of `model` as features.
        seconds: duration of the preparation.
        shared_seconds: its part that runs with other seeds share.
        teacher_macs: multiply-accumulates of a teacher for one clip; None without one.
    """

    model: Reprogrammed | HeadOnlyModel
    splits: dict[str, dataset.Clips]
    seconds: float = 0.0
    shared_seconds: float = 0.0
    teacher_macs: int | None = None


def train(
    folder: Path, conf: Config, context: RunContext, group: PartialState, device: torch.device
) -> None:
    """Train one run, unless it is finished.

    Args:
        folder: the run folder, which exists and holds nothing of another run.
        conf: the config of the run.
        group: the processes that share the run; each of them calls this.
        device: of this process.
    """
    experiment = Experiment(folder, conf, context, group, device)
    history = trainer.read_history(folder)
    if trainer.finished(history, experiment.plan):
        outcome = trainer.describe(history, experiment.plan)
        print(f"{experiment.label}: finished before, {outcome}")
    else:
        experiment.train()


class Experiment:
    """The steps of a run; see `train` for the arguments."""

    def __init__(
        self,
        folder: Path,
        conf: Config,
        context: RunContext,
        group: PartialState,
        device: torch.device,
    ):
        self.run = RunFolder(Path(folder))
        self.conf = conf
        self.context = context
        self.group = group
        self.device = device
        self.seed = conf.run.seed
        self.label = f"{conf.run.conf} seed {self.seed}"
        self.plan = trainer.Plan.of(conf)
        self.allow = conf.outside_classes
        feature = registry.resolve("feature", conf.feature.to_dict(), self.allow)
        self.feature = features.build(**feature)

    def train(self) -> None:
        """Train the run, and check that the frozen weights did not change."""
        splits, storage = self.load_splits()
        model, spec = self.build_model(splits["train"])
        augment_fn = self.augmentation(model)
        trainee = self.choose_trainee(model, spec, splits, augment_fn)
        sha256 = backbones.weights.fingerprint(model.backbone)
        macs = multiply_accumulates(model, self.feature.shape)
        self.prepare_for_device(model)
        method = self.build_method(trainee)
        if method.teacher_fields:
            self.add_teacher(trainee, method.teacher_fields)
        about = {
            "config": self.conf.to_dict(),
            "classes": self.context.classes,
            "feature": self.conf.feature.to_dict(),
            "spec": spec,
            "train_clips": len(splits["train"]),
            "backbone_sha256": sha256,
            "trainable_parameters": _count(_trained_parameters(model)),
            "total_parameters": _count(method.parameters()),
            "macs": macs or None,
            "teacher_macs": trainee.teacher_macs,
            "prepare_seconds": round(trainee.seconds, 3),
            "shared_seconds": round(trainee.shared_seconds, 3),
            "device": devices.describe(self.device),
            "processes": self.group.num_processes,
            "features_in": storage,
        }
        print(f"{self.label}: {self.describe(trainee, about, len(splits['train']))}", flush=True)
        history = self.build_trainer(trainee, method, augment_fn, about).fit(
            trainee.splits["train"], trainee.splits.get("valid")
        )
        if not model.finetune and backbones.weights.fingerprint(model.backbone) != sha256:
            raise AssertionError("the frozen backbone has changed during training")
        print(f"{self.label}: {trainer.describe(history, self.plan)}", flush=True)

    def load_splits(self) -> tuple[dict[str, dataset.Clips], str]:
        """Load the clips of the run's splits, the training split with the fractions it may use.

        Returns:
            {"train": Clips, "valid": Clips}, see `splits_of`, and the storage of their features.
        """
        memory = self.context.memory
        storage = self.context.storage
        if storage == "auto":
            # The order of clips depends on the storage: all processes and epochs share it.
            state = trainer.read_last(self.run)
            stored = "auto" if state is None else state["about"]["features_in"]
            (storage,) = broadcast_object_list([stored])
        shared = key(self.conf, storage)
        if shared not in memory:
            memory[shared] = self._read_splits(storage)
        splits, storage = memory[shared]
        splits = dict(splits)
        settings = self.conf.train
        if settings.clip_fraction < 1:
            splits["train"] = splits["train"].subsample_clips(settings.clip_fraction, self.seed)
        if settings.label_fraction < 1:
            splits["train"] = splits["train"].subsample_labels(settings.label_fraction, self.seed)
        return splits, storage

    def _read_splits(self, storage):
        """Read the splits from the feature store; return them and the storage, "auto" decided."""
        stores = Path(self.context.data) / "features"
        name = self.conf.feature.name
        window = features.window(self.feature)
        identities = manifest.identities(windows.of_clips(self.context.clips, window), name)
        store = feature_store.Store(stores / name, self.feature.spec(), identities)
        usable = feature_store.usable(stores, self.context.clips)
        clips_of = splits_of(windows.of_clips(usable, window), self.conf)
        if storage == "auto":
            n_clips = sum(map(len, clips_of.values()))
            processes = distributed.local_processes()
            choice = dataset.choose_storage(n_clips, store.shape, self.device, processes)
            (storage,) = broadcast_object_list([choice])
        splits = {}
        for split, clips in clips_of.items():
            splits[split] = dataset.load(clips, self.context.classes, store, storage, self.device)
        return splits, storage

    def build_model(self, clips: dataset.Clips) -> tuple[Reprogrammed, dict]:
        """Build the model with the run's seed; return it and the keywords of `build_model`.

        Args:
            clips: of the training split.
        """
        torch.manual_seed(self.seed)
        context = self.context
        spec = model_spec.from_config(
            self.conf, context.classes, self.feature, clips, context.backbone, context.weights
        )
        model = build_model(context.classes, **spec, allow=self.allow).to(self.device)
        model.bf16 = devices.uses_bf16(self.device, self.conf.train.precision)
        model.backbone.grad_checkpointing = context.recompute
        return model, spec

    def augmentation(self, model: Reprogrammed) -> Callable | None:
        """Return the function (batch, generator) -> batch; None without augmentation."""
        settings = self.conf.augment
        if not augment.is_active(settings):
            return None
        mean = model.mean if settings.fill == "mean" else 0.0
        return partial(augment.augment, settings=settings, feature=self.feature, fill=mean)

    def choose_trainee(
        self,
        model: Reprogrammed,
        spec: dict,
        splits: dict[str, dataset.Clips],
        augment_fn: Callable | None,
    ) -> Trainee:
        """Return the whole model, or its head alone on cached embeddings if no more is trained.

        With `probe_first` the head is trained alone before the whole model.
        """
        trainee = Trainee(model, splits)
        is_head_alone = model.head_only and augment_fn is None
        probe = self.conf.train.probe_first
        if is_head_alone or probe:
            embedded, trainee.seconds = self.embed(model, spec, splits)
            if embedding_cache.shareable(model, spec):
                trainee.shared_seconds = trainee.seconds
        if probe:
            trainee.seconds += head_only.probe(
                self.run.head,
                model,
                embedded,
                self.plan,
                self.conf.optimizer.to_dict(),
                probe,
                self.device,
                self.group,
            )
        if is_head_alone:
            trainee.model = HeadOnlyModel(model)
            trainee.splits = embedded
            if hasattr(model.head, "fit"):
                trainee.seconds += head_only.fit(model.head, trainee.splits, self.seed)
        return trainee

    def embed(
        self, model: Reprogrammed, spec: dict, splits: dict[str, dataset.Clips]
    ) -> tuple[dict[str, dataset.Clips], float]:
        """Embed the splits, see `head_only.embed`."""
        name = self.conf.feature.name
        cache = embedding_cache.EmbeddingCache(
            self.context.data, name, self.feature.spec(), self.context.memory
        )
        with self.group.main_process_first():  # the others then read them from disk
            return head_only.embed(model, splits, spec, cache, self.device, self.label)

    def prepare_for_device(self, model: Reprogrammed) -> None:
        """Synchronise BatchNorm between GPUs; compile the backbone on request."""
        if self.group.num_processes > 1 and self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if self.context.compile:
            model.backbone.compile()

    def build_method(self, trainee: Trainee) -> methods.Method:
        """Build the method around the trained model.

        Raises:
            ValueError: the head needs fixed embeddings to be fitted on, and there are none.
        """
        section = self.conf.method.to_dict()
        section = registry.resolve("method", section, self.allow, given=("model",))
        method = methods.build(model=trainee.model, **section).to(self.device)
        is_fitted = isinstance(trainee.model, HeadOnlyModel) or method.fits_head
        if hasattr(trainee.model.head, "fit") and not is_fitted:
            raise ValueError(
                f"head {self.conf.head.name} is fitted once, on fixed embeddings; expected no "
                "augmentation, and nothing before the head to train"
            )
        return method

    def add_teacher(self, trainee: Trainee, fields: tuple[str, ...]) -> None:
        """Give the training clips the fields of a Batch that a teacher computes.

        Its logits are those of a logistic regression on its embedding.
        """
        values = {}
        if "teacher_frames" in fields:
            _, embedded = self.embed_teacher(trainee, {"steps": TEACHER_STEPS})
            values["teacher_frames"] = embedded["train"].whole().features
        if "teacher_logits" in fields:
            model, embedded = self.embed_teacher(trainee, {})
            trainee.seconds += head_only.fit(model.head, embedded, self.seed)
            with torch.no_grad():
                embedding = embedded["train"].whole().to(self.device).features
                values["teacher_logits"] = HeadOnlyModel(model)(embedding).cpu()
        trainee.splits["train"] = trainee.splits["train"].with_teacher(**values)

    def embed_teacher(
        self, trainee: Trainee, options: dict
    ) -> tuple[Reprogrammed, dict[str, dataset.Clips]]:
        """Build the teacher, with a logistic regression as its head, and embed the splits.

        Args:
            trainee: gets the seconds that it takes, and the teacher's multiply-accumulates.
            options: of the teacher's backbone.

        Raises:
            ValueError: the teacher's feature has other windows.
        """
        entry = pretrained.find(self.conf.teacher.backbone)
        has_valid = self.conf.select.split == "valid"
        teacher = copy.copy(self)
        teacher.conf = replace(
            self.conf,
            feature=self.conf.teacher.feature,
            input=Input("backbone"),
            reprogrammer=Section("none", {}),
            backbone=Backbone(entry.network, options, "pretrained"),
            head=Section("logistic", {} if has_valid else {"Cs": [TEACHER_C]}),
        )
        teacher.context = replace(self.context, backbone=entry.name, weights=str(entry.path))
        feature = registry.resolve("feature", teacher.conf.feature.to_dict(), self.allow)
        teacher.feature = features.build(**feature)
        splits, _ = teacher.load_splits()
        if splits["train"].names != trainee.splits["train"].names:
            raise ValueError(
                f"teacher: the windows of {teacher.conf.feature.name} are others than those of "
                f"{self.conf.feature.name}; expected the same seconds and hop_s"
            )
        model, spec = teacher.build_model(splits["train"])
        trainee.teacher_macs = multiply_accumulates(model.backbone, teacher.feature.shape)
        embedded, seconds = teacher.embed(model, spec, splits)
        trainee.seconds += seconds
        trainee.shared_seconds += seconds
        return model, embedded

    def build_trainer(
        self, trainee: Trainee, method: methods.Method, augment_fn: Callable | None, about: dict
    ) -> trainer.Trainer:
        """Build the trainer, without an optimiser if nothing is trained by gradient."""
        optimizer = None
        if trainee.model.trainable_parameters():
            optimizer = optim.build(model=trainee.model, **self.conf.optimizer.to_dict())
        return trainer.Trainer(
            method,
            optimizer,
            self.plan,
            self.run,
            self.device,
            augment=augment_fn,
            about=about,
            label=self.label,
            writer=self.tensorboard_writer(),
            group=self.group,
        )

    def tensorboard_writer(self):
        """Return a SummaryWriter for the run folder; None unless requested."""
        if not self.context.tensorboard or not self.group.is_main_process:
            return None
        from torch.utils.tensorboard import SummaryWriter  # an optional extra

        return SummaryWriter(self.run.path / "tensorboard")

    def describe(self, trainee: Trainee, about: dict, n_clips: int) -> str:
        """Describe the training in one line."""
        processes = ""
        if self.group.num_processes > 1:
            processes = f" in {self.group.num_processes} processes"
        epochs = "no epochs"
        if trainee.model.trainable_parameters():
            epochs = f"{self.plan.epochs} epochs of {n_clips:,} clips at most"
        trained = about["trainable_parameters"]
        total = about["total_parameters"]
        return (
            f"{trained:,} trainable of {total:,} parameters, on {self.device}{processes}, {epochs}"
        )


def key(conf: Config, storage: str) -> tuple[str, str, str]:
    """Return the key of a run's splits in `RunContext.memory`."""
    return json.dumps(conf.feature.to_dict(), sort_keys=True), conf.select.split, storage


def splits_of(clips: list[manifest.Clip], conf: Config) -> dict[str, list[manifest.Clip]]:
    """Group clips by split: "train" and "valid"; with selection on test, "train" has both."""
    if conf.select.split == "test":
        return {"train": [clip for clip in clips if clip.split in ("train", "valid")]}
    return {
        "train": [clip for clip in clips if clip.split == "train"],
        "valid": [clip for clip in clips if clip.split == "valid"],
    }


def _trained_parameters(model):
    """The parameters that training determines, by gradients or by the head's `fit`."""
    parameters = model.trainable_parameters()
    if hasattr(model.head, "fit"):
        parameters += model.head.parameters()
    return parameters


def _count(parameters):
    return sum(parameter.numel() for parameter in parameters)
