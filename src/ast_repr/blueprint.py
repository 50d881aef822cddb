"""The plain values that `classifier.build_model` builds a run's model from, drawn from its config, its weights and its clips."""

from pathlib import Path

from . import backbones, heads, pretrained


def from_config(conf, feature, clips, backbone, file, sources):
    """The values of `build_model`, now and whenever the checkpoint is loaded.

    Args:
        conf: a run's resolved config.
        feature: from its room.
        clips: of the training split (dataset.Clips), for input norm "corpus".
        backbone: its name in the catalogue; `file`: its weights.
        sources: from `source_groups`, for a head that is `by_name`.
    """
    norm, head = conf["input"]["norm"], dict(conf["head"])
    options = {
        key: value
        for key, value in conf["backbone"].items()
        if key not in ("name", "weights", "finetune")
    }
    options |= {
        "frames": feature.frames,
        "mels": feature.bins,
        "mean": feature.mean,
        "std": feature.std,
    }
    is_pretrained = conf["backbone"].get("weights") == "pretrained"
    if conf["backbone"]["name"] == "ast":
        header = backbones.weights.read_header(file)
        statistics = {key: header.get(key, options[key]) for key in ("mean", "std")}
        options = header["dims"] | {"frames": feature.frames, "mels": feature.bins} | statistics
    if by_name(conf):
        head |= sources
    return {
        "norm": statistics_of(clips) if norm == "corpus" else norm,
        "reprogrammer": conf["reprogrammer"],
        "head": head,
        "backbone": {
            "name": conf["backbone"]["name"],
            "options": options,
            "source": backbone,
            "file": str(Path(file).resolve()) if is_pretrained else None,
            "seed": conf["run"]["seed"],
            "finetune": conf["backbone"].get("finetune", False),
        },
    }


def by_name(conf):
    """Whether a config's head finds its classes among the source's by their names."""
    return conf["head"].get("kind") == "names"


def source_groups(classes, backbone, file):
    """Which source classes mean a class, as options of the head.

    Raises:
        ValueError: some classes have no names among the source's.
    """
    table = pretrained.zero_shot(backbone)
    labels = (
        pretrained.find(backbone).source_classes()
        or backbones.weights.read_header(file)["source_classes"]
    )
    return {
        "groups": heads.labelmap.groups(table["names"], classes, labels),
        "activation": table["activation"],
    }


def statistics_of(clips, size=64):
    """[mean, standard deviation] of the clips' features, over all their cells."""
    count, total, squares = 0, 0.0, 0.0
    for batch in clips.batches(size):
        values = batch.features.double()
        count, total, squares = (
            count + values.numel(),
            total + values.sum().item(),
            squares + values.square().sum().item(),
        )
    mean = total / count
    return [mean, (squares / count - mean**2) ** 0.5]
