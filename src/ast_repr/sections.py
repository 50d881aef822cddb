"""Check of the registry sections of a conf before anything is computed: all are built once."""

from . import backbones, features, methods, model_spec, pretrained, registry
from .choices import TRANSFORMERS
from .classifier import build_model
from .settings import Backbone, Config
from .training import optim

QUICK_AST = {"embed_dim": 8, "depth": 1, "num_heads": 1, "n_source": 2}
AST_OPTIONS = ("pooling", "stride", "patchout_time", "patchout_freq")  # that suit any weights


def check(conf: Config) -> None:
    """Refuse a resolved conf with an unknown name or option, or a value out of range.

    Raises:
        ValueError: the message lists the choices.
    """
    allow = conf.outside_classes
    feature = features.build(**registry.resolve("feature", conf.feature.to_dict(), allow))
    _check_backbone(conf.backbone)
    options = {"frames": feature.frames, "mels": feature.bins, "mean": 0.0, "std": 1.0}
    if conf.backbone.name in TRANSFORMERS:
        options |= QUICK_AST
    head = conf.head.to_dict()
    if model_spec.maps_by_name(conf):
        head["groups"] = [[0], [0]]
    backbone = {
        "name": conf.backbone.name,
        "options": conf.backbone.options | options,
        "file": None,
        "seed": 0,
        "finetune": conf.backbone.finetune,
    }
    classes = ["one", "other"]  # a softmax needs two
    adapter = conf.adapter and conf.adapter.to_dict()
    model = build_model(
        classes, "none", conf.reprogrammer.to_dict(), backbone, head, adapter, allow
    )
    method = registry.resolve("method", conf.method.to_dict(), allow, given=("model",))
    method = methods.build(model=model, **method)
    _check_teacher(conf, method)
    if conf.augment.mixup is not None and getattr(method, "is_softmax", False):
        raise ValueError("augment.mixup with loss cross_entropy; expected loss bce, or mixup: null")
    if model.trainable_parameters():
        optim.build(model=model, **conf.optimizer.to_dict())
    optim.factor(epoch=0.0, epochs=1, **conf.schedule.to_dict())


def _check_teacher(conf: Config, method: methods.Method):
    if (conf.teacher is not None) != bool(method.teacher_fields):
        needs = "needs a" if method.teacher_fields else "has no use for the"
        raise ValueError(f"method {conf.method.name} {needs} section teacher, see conf/base.yaml")
    if conf.teacher is None:
        return
    pretrained.find(conf.teacher.backbone)
    features.build(**conf.teacher.feature.to_dict())
    if conf.augment.mix is not None:
        raise ValueError(
            "augment.mix with a teacher: its embeddings are of single clips; expected mix: null, "
            "or mixup"
        )


def _check_backbone(section: Backbone):
    others = sorted(section.options.keys() - set(AST_OPTIONS))
    if section.name in TRANSFORMERS and others:
        raise ValueError(
            f"option {others[0]!r} of backbone {section.name!r}: its dimensions are those of its "
            f"weights; expected only weights, finetune, {', '.join(AST_OPTIONS)}"
        )
    if section.name in backbones.PRETRAINED and section.weights == "none":
        raise ValueError(
            f"option weights of backbone {section.name!r}: none; expected pretrained or random"
        )
