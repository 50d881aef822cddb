"""Check the registry sections of a conf before anything is computed.

What is quick to build is built, so that values out of range are refused as well; of the rest, names
and keywords are compared with the constructors.
"""

from torch import nn

from . import backbones, features, heads, methods, registry, reprogrammers
from .training import optim

KINDS = ("feature", "reprogrammer", "backbone", "head", "method")
NOT_OF_THE_CONSTRUCTOR = ("weights", "finetune")  # keys of the section backbone


def check(conf: dict) -> None:
    """Refuse a resolved conf with an unknown name or option, or a value out of range.

    Raises:
        ValueError: the message lists the choices.
    """
    allow = registry.outside(conf)  # whoever writes a config may name any class
    conf = conf | {kind: registry.resolve(kind, conf[kind], allow) for kind in KINDS}
    feature = features.build(**conf["feature"])
    reprogrammers.build(frames=feature.frames, bins=feature.bins, **conf["reprogrammer"])
    _check_backbone(conf["backbone"])
    given = ("n_classes", "embed_dim", "n_source", "groups", "activation")
    _check(heads.HEADS, "head", conf["head"], given)
    _check(methods.METHODS, "method", conf["method"], ("model",))
    optim.build(model=_Trainable(), **conf["optimizer"])
    _check(optim.SCHEDULES, "schedule", conf["schedule"], ("epoch", "epochs"))


def _check_backbone(section):
    options = {key: value for key, value in section.items() if key not in NOT_OF_THE_CONSTRUCTOR}
    unexpected = sorted(options.keys() - {"name"})
    if section["name"] == "ast" and unexpected:
        raise ValueError(
            f"option {unexpected[0]!r} of backbone 'ast': its dimensions are those of its weights; "
            f"expected only {', '.join(NOT_OF_THE_CONSTRUCTOR)}"
        )
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
