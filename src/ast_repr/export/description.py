"""The description stored in exported models: plain values, without paths of this machine."""

from pathlib import Path

from .. import pretrained
from ..settings import Config

KEPT = ("classes", "feature", "backbone_sha256", "trainable_parameters", "total_parameters")


def describe(
    about: dict,
    config: Config,
    threshold: float,
    feature_spec: dict,
    results: dict | None,
    merged: bool,
) -> dict:
    """Build the description from which an exported model is built again.

    Args:
        about: the description in the run's checkpoint.
        config: the run's config.
        threshold: the probability from which an instrument counts as present.
        feature_spec: the settings of the feature.
        results: the content of results.json; None if the run was not scored.
        merged: whether the file holds the backbone's tensors.
    """
    backbone = about["spec"]["backbone"]
    source = _source(backbone, config.run.weights_sha256)
    file = None if merged else source["file"]
    return {key: about[key] for key in KEPT} | {
        "threshold": threshold,
        "feature_spec": feature_spec,
        "spec": about["spec"] | {"backbone": backbone | {"file": file}},
        "backbone": source,
        "run": {
            "conf": config.run.conf,
            "seed": config.run.seed,
            "corpus": config.run.corpus,
            "protocol": config.protocol,
            "norm": config.input.norm,
            "macro_f1": results["metrics"]["macro_f1"] if results else None,
        },
    }


def _source(backbone, sha256):
    """Name, file name, sha256, address and licence of the backbone's weights; None if unknown."""
    source = dict.fromkeys(("name", "file", "file_sha256", "url", "licence"))
    if backbone["file"] is None:
        return source
    source["name"] = backbone["source"]
    source["file"] = backbone["source"] + Path(backbone["file"]).suffix
    source["file_sha256"] = sha256
    for entry in map(pretrained.find, pretrained.names()):
        if entry.sha256 == sha256:
            source["url"] = entry.url
            source["licence"] = entry.licence
    return source
