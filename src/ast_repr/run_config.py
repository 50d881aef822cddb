"""The config of a run: a resolved conf, and a section "run" that identifies the run by content.

That is its conf and seed, and the manifest, classes and weights that it is made from.
"""

from dataclasses import replace
from pathlib import Path

from . import config, identity, manifest, pretrained
from .settings import Config, RunIdentity


def of_runs(
    confs: dict[str, Config],
    seeds: list[int],
    data: str | Path,
    clips: list[manifest.Clip],
    classes: list[str],
    backbone: str,
    weights: str | Path,
) -> list[Config]:
    """Make the config of each run: each conf with each seed.

    Args:
        confs: by name.
        data: folder of the corpus; `clips` and `classes` are those of its manifest.
        backbone: its name in the catalogue; `weights`: its file.

    Raises:
        ValueError: the weights are the catalogue's, and damaged.
    """
    pretrained.verify_weights(backbone, weights)
    made_from = {
        "corpus": Path(data).name,
        "manifest_sha256": manifest.content_sha256(clips, classes),
        "classes": classes,
        "backbone": backbone,
        "weights_sha256": identity.of_file(weights),
    }
    configs = []
    for name, conf in confs.items():
        for seed in seeds:
            run = RunIdentity(**made_from, conf=name, seed=seed)
            configs.append(replace(conf, run=run))
    return configs


def refuse_other(folder: object, saved: dict, conf: Config) -> None:
    """Refuse a run that was trained with another config.

    Raises:
        ConfigError: the keys that differ are named.
    """
    differing = config.differences(saved, conf)
    if differing:
        raise config.ConfigError(
            f"{folder} was trained with a different config: {'; '.join(differing)}; "
            "use that config, or pass --overwrite to retrain"
        )
