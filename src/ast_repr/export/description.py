"""The description stored in exported models: plain values, without paths of this machine."""

from pathlib import Path

from .. import pretrained

KEPT = (
    "classes",
    "threshold",
    "feature",
    "backbone_sha256",
    "trainable_parameters",
    "total_parameters",
)


def describe(about: dict, feature_spec: dict, results: dict | None, merged: bool) -> dict:
    """Build the description from which an exported model is built again.

    Args:
        about: the description in the run's checkpoint.
        feature_spec: the settings that decide the feature's values.
        results: the content of results.json; None if the run was not scored.
        merged: whether the file holds the backbone's tensors.
    """
    run = about["config"]["run"]
    source = _source(about)
    backbone = about["spec"]["backbone"] | {"file": None if merged else source["file"]}
    return {key: about[key] for key in KEPT} | {
        "feature_spec": feature_spec,
        "spec": about["spec"] | {"backbone": backbone},
        "backbone": source,
        "run": {
            "conf": run["conf"],
            "seed": run["seed"],
            "corpus": run["corpus"],
            "protocol": about["config"]["protocol"],
            "norm": about["config"]["input"]["norm"],
            "macro_f1": results["metrics"]["macro_f1"] if results else None,
        },
    }


def _source(about):
    """Name, file name, sha256, address and licence of the backbone's weights; None if unknown."""
    backbone = about["spec"]["backbone"]
    if backbone["file"] is None:
        return dict.fromkeys(("name", "file", "file_sha256", "url", "licence"))
    sha256 = about["config"]["run"]["weights_sha256"]
    source = {
        "name": backbone["source"],
        "file": backbone["source"] + Path(backbone["file"]).suffix,
        "file_sha256": sha256,
        "url": None,
        "licence": None,
    }
    for entry in map(pretrained.find, pretrained.names()):
        if entry.sha256 == sha256:
            source |= {"url": entry.url, "licence": entry.licence}
    return source
