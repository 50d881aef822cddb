"""The description stored in exported models: plain values, without paths of this machine."""

from pathlib import Path

from .. import model_spec, pretrained
from ..settings import Config

KEPT = ("classes", "feature", "backbone_sha256", "trainable_parameters", "total_parameters")


class ExportError(ValueError):
    """An exported model that cannot be written, read or run."""


def describe(
    about: dict,
    config: Config,
    spec: model_spec.ModelSpec,
    feature_spec: dict,
    results: dict | None,
    merged: bool,
) -> dict:
    """Build the description from which an exported model is built again.

    Args:
        about: the description in the run's checkpoint.
        config: the run's config.
        spec: the checked part of the description.
        feature_spec: the settings of the feature.
        results: the content of results.json; None if the run was not scored.
        merged: whether the file holds the backbone's tensors.
    """
    backbone = about["spec"]["backbone"]
    source = source_of(backbone, config.run.weights_sha256)
    file = None if merged else source["file"]
    return {key: about[key] for key in KEPT} | {
        "threshold": spec.threshold,
        "aggregate": spec.aggregate,
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


def parse(path: Path, texts: dict[str, str], sha256: str, expected: str) -> dict:
    """Parse the JSON texts of the description in the file `path`.

    Args:
        texts: {key: JSON}.
        sha256: of the file's content; `expected`: the one stored in it.

    Raises:
        ExportError: the file has changed since it was written, or a text is no JSON.
    """
    if sha256 != expected:
        raise ExportError(
            f"{path}: content has sha256 {sha256[:12]}..., expected {expected[:12]}...: "
            "changed or damaged; fetch or export it again"
        )
    try:
        return {key: model_spec.parse_json(text) for key, text in texts.items()}
    except model_spec.SpecError as error:
        raise ExportError(
            f"{path}: its description cannot be read ({error}); fetch or export it again"
        ) from error


def source_of(backbone: dict, sha256: str) -> dict:
    """Find name, file name, sha256, address and licence of a backbone's weights; None if unknown.

    Args:
        backbone: section of a model's spec.
        sha256: of the weights' file.
    """
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
