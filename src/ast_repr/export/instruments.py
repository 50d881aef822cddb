"""Export of the instruments model: the files of `ast-repr export`, and a card of its own."""

from pathlib import Path

from .. import atomic, features
from ..backbones import weights
from ..classifier import Reprogrammed
from ..escaping import markdown
from . import description, safetensors
from .model_card import CORPORA, LICENCE

TEMPLATE = Path(__file__).with_name("instruments.md")
MODEL = "model.safetensors"
LABELS = "labels.txt"
CARD = "README.md"
CORPUS = "rendered"
TAGS = ["audio", "music", "instrument-recognition"]


def describe(
    model: Reprogrammed,
    spec: dict,
    classes: list[str],
    feature: str,
    threshold: float,
    results: dict[str, dict],
    sha256: str,
    summary: str,
) -> dict:
    """Build the description stored in the model's file.

    Args:
        spec: keywords of `classifier.build_model`.
        feature: name of the feature.
        threshold: the probability from which an instrument is named.
        results: {what it was tried on: result of `instrument_model.evaluate`}.
        sha256: of the backbone's file.
        summary: a line for people about what the model is, and what it is not.
    """
    source = description.source_of(spec["backbone"], sha256)
    tried = next(iter(results.values()))
    return {
        "classes": classes,
        "feature": {"name": feature},
        "summary": summary,
        "threshold": threshold,
        "feature_spec": features.build(feature).spec(),
        "spec": spec | {"backbone": spec["backbone"] | {"file": source["file"]}},
        "backbone": source,
        "backbone_sha256": weights.fingerprint(model.backbone),
        "trainable_parameters": sum(p.numel() for p in model.head.parameters()),
        "total_parameters": sum(p.numel() for p in model.parameters()),
        "run": {
            "conf": "instruments",
            "seed": 0,
            "corpus": CORPUS,
            "protocol": "clean",
            "norm": "backbone",
            "macro_f1": tried["macro_f1"],
        },
    }


def write(
    folder: Path, model: Reprogrammed, about: dict, results: dict[str, dict], facts: dict
) -> None:
    """Write the model, its labels and its card.

    Args:
        about: result of `describe`.
        facts: values of the card's template.
    """
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.save(folder / MODEL, model.trainable_state_dict(), about)
    atomic.write_text(folder / LABELS, "\n".join(about["classes"]) + "\n")
    atomic.write_text(folder / CARD, render(about, results, facts))


def render(about: dict, results: dict[str, dict], facts: dict) -> str:
    """Render the card; the arguments are those of `write`."""
    # Slow to import, and needed here only.
    from huggingface_hub import ModelCard, ModelCardData

    metadata = ModelCardData(
        license=LICENCE.lower(),
        library_name="ast_repr",
        pipeline_tag="audio-classification",
        tags=TAGS,
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        md=markdown,
        percent=lambda value: "-" if value is None else f"{100 * value:.0f}",
        number=lambda value: "-" if value is None else f"{value:.2f}",
        about=about,
        results=results,
        data_licence=CORPORA[CORPUS].licence,
        **facts,
    )
    return f"{card}\n"
