"""The sections of a conf, checked against what they choose from, before anything is computed.

What is quick to build is built, so that values out of range are refused as well; of the rest, names
and keywords are compared with the constructors.
"""

from torch import nn

from . import backbones, features, heads, methods, registry, reprogrammers
from .training import optim

CLASSES = ("feature", "reprogrammer", "backbone", "head", "method")
PARTS_OF_A_RUN = ("weights", "finetune")  # keys of the section backbone that no constructor gets


def check(conf: dict) -> None:
    """Refuse a resolved conf whose sections name something that is not there.

    Raises:
        ValueError: an unknown name or option, or a value out of range; the message lists what there
            is.
    """
    allow = registry.outside(conf)  # whoever writes a config may name any class
    conf = conf | {kind: registry.resolve(kind, conf[kind], allow) for kind in CLASSES}
    feature = features.build(**conf["feature"])
    reprogrammers.build(frames=feature.frames, bins=feature.bins, **conf["reprogrammer"])
    _check_backbone(dict(conf["backbone"]))
    offered = ("n_classes", "embed_dim", "n_source", "groups", "activation")
    _check(heads.HEADS, "head", conf["head"], offered)
    _check(methods.METHODS, "method", conf["method"], ("model",))
    optim.build(model=_Learner(), **conf["optimizer"])
    _check(optim.SCHEDULES, "schedule", conf["schedule"], ("epoch", "epochs"))


def _check_backbone(section):
    for key in PARTS_OF_A_RUN:
        section.pop(key, None)
    more = sorted(section.keys() - {"name"})
    if section["name"] == "ast" and more:
        raise ValueError(
            f"option {more[0]!r} of backbone 'ast': its dimensions are those of its weights; "
            f"expected only {', '.join(PARTS_OF_A_RUN)}"
        )
    _check(backbones.BACKBONES, "backbone", section, ("frames", "mels", "mean", "std"))


def _check(room, kind, section, offered):
    options = dict(section)
    registry.check(kind, room, options.pop("name"), options, offered)


class _Learner(nn.Module):
    """The least that an optimiser can be made for."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 1)

    def trainable_parameters(self):
        return list(self.parameters())
