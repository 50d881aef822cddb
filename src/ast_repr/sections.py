"""Check the registry sections of a conf before anything is computed.

What is quick to build is built, so that values out of range are refused as well; of the rest, names
and keywords are compared with the constructors.
"""

from torch import nn

from . import backbones, features, heads, methods, registry, reprogrammers
from .settings import Backbone, Config
from .training import optim

KINDS = ("feature", "reprogrammer", "backbone", "head", "method")


def check(conf: Config) -> None:
    """Refuse a resolved conf with an unknown name or option, or a value out of range.

    Raises:
        ValueError: the message lists the choices.
    """
    kwargs = {}
    for kind in KINDS:
        section = getattr(conf, kind).to_dict()
        kwargs[kind] = registry.resolve(kind, section, conf.outside_classes)
    feature = features.build(**kwargs["feature"])
    reprogrammers.build(frames=feature.frames, bins=feature.bins, **kwargs["reprogrammer"])
    _check_backbone(conf.backbone, kwargs["backbone"]["name"])
    given = ("n_classes", "embed_dim", "n_source", "groups", "activation")
    _check(heads.HEADS, "head", kwargs["head"], given)
    _check(methods.METHODS, "method", kwargs["method"], ("model",))
    optim.build(model=_Trainable(), **conf.optimizer.to_dict())
    _check(optim.SCHEDULES, "schedule", conf.schedule.to_dict(), ("epoch", "epochs"))


def _check_backbone(section: Backbone, entry):
    if section.name == "ast" and section.options:
        raise ValueError(
            f"option {min(section.options)!r} of backbone 'ast': its dimensions are those of its "
            "weights; expected only weights, finetune"
        )
    if section.name in backbones.PRETRAINED and section.weights == "none":
        raise ValueError(
            f"option weights of backbone {section.name!r}: none; expected pretrained or random"
        )
    options = {"name": entry, **section.options}
    _check(backbones.BACKBONES, "backbone", options, ("frames", "mels", "mean", "std"))


def _check(entries, kind, section, given):
    options = dict(section)
    registry.check(kind, entries, options.pop("name"), options, given)


class _Trainable(nn.Module):
    """The smallest model that an optimizer can be built for."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 1)

    def trainable_parameters(self):
        return list(self.parameters())
