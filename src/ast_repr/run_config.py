"""The config of a run: a resolved conf, and under "run" what tells the run from any other.

That is its conf and seed, and what it is made from, by content: manifest, classes, weights.
"""

from pathlib import Path

from . import config, identity, manifest, pretrained


def of_runs(
    confs: dict[str, dict],
    seeds: list[int],
    data: str | Path,
    clips: list[manifest.Clip],
    classes: list[str],
    backbone: str,
    weights: str | Path,
) -> list[dict]:
    """The configs of the runs of some confs with some seeds.

    Args:
        confs: {name: resolved config}.
        data: folder of the corpus; `clips` and `classes` are its manifest's.
        backbone: its name in the catalogue; `weights`: its file.

    Raises:
        ValueError: the weights are the catalogue's own, and damaged.
    """
    pretrained.verify_weights(backbone, weights)
    made_from = {
        "corpus": Path(data).name,
        "manifest_sha256": manifest.content_sha256(clips, classes),
        "classes": classes,
        "backbone": backbone,
        "weights_sha256": identity.of_file(weights),
    }
    return [
        conf | {"run": made_from | {"conf": name, "seed": seed}}
        for name, conf in confs.items()
        for seed in seeds
    ]


def refuse_other(folder, saved: dict, conf: dict) -> None:
    """Refuse a run that was made with another config.

    Raises:
        ConfigError: the keys that differ are named.
    """
    differing = config.differences(saved, conf)
    if differing:
        raise config.ConfigError(
            f"{folder} was made with other settings: {'; '.join(differing)}; give those, or pass "
            "--overwrite to train it again"
        )
