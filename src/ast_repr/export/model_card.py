"""The model card of an exported model: README.md with the metadata of the Hugging Face hub.

Its text is the template model_card.md. Results come from results.json alone; they are fractions in
the metadata and per cent in the text.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from .. import registry, typecheck
from ..escaping import markdown, markdown_code
from ..run_folder import RunFolder

TEMPLATE = Path(__file__).with_name("model_card.md")
METRICS = {"macro_f1": "macro-F1", "positive_f1": "positive F1", "map": "mAP", "auroc": "AUROC"}
TAGS = [
    "audio",
    "music",
    "instrument-recognition",
    "model-reprogramming",
    "audio-spectrogram-transformer",
]
LICENCE = "MIT"  # of this project and of the tensors trained with it
UNKNOWN = "unknown to this card; whoever shares the model states it here"


@dataclass(frozen=True)
class Corpus:
    """Facts about a training corpus: its name in publications, its licence, and its limits."""

    name: str
    licence: str
    limits: str


CORPORA = {
    "synthetic": Corpus(
        "synthetic",
        "rendered by this project's code with the soundfont of pretty_midi (GPL); it contains no "
        "recording",
        "It was trained on a synthetic corpus, rendered from one soundfont, without any real "
        "recording: on real music expect less.",
    ),
    "openmic": Corpus(
        "OpenMIC-2018",
        "OpenMIC-2018: labels CC BY 4.0, most of the audio under NonCommercial Creative Commons "
        "licences",
        "OpenMIC-2018 holds ten-second excerpts of free online music, each labelled for a few of "
        "its instruments only.",
    ),
}

# Values that a card needs from a checkpoint, beyond its model's description.
NEEDED = {
    "trainable_parameters": int,
    "total_parameters": int,
    "config.protocol": str,
    "config.input.norm": str,
    "config.reprogrammer.name": str,
    "config.head": dict,
    "config.backbone": dict,
    "config.method": dict,
    "config.select.metric": str,
    "config.select.split": str,
    "config.train.label_fraction": float,
    "config.run.corpus": str,
    "config.run.conf": str,
    "config.run.seed": int,
    "config.run.weights_sha256": str | None,
}


class CardError(ValueError):
    """A run about which no card can be written; the message names the file and the remedy."""


def check(about: dict, path: Path) -> None:
    """Refuse a checkpoint, `path`, whose description lacks values of a card.

    Raises:
        CardError: a value is missing, of another type, or not plain.
    """
    for key, kind in NEEDED.items():
        value = about
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not typecheck.matches(value, kind):
            raise CardError(
                f"{path}: {key}: found {typecheck.shown(value)}, "
                f"expected {typecheck.expected(kind)}; train the run again"
            )
    try:
        json.dumps(about["config"])
    except (TypeError, ValueError, RecursionError) as error:
        raise CardError(
            f"{path}: config: {error}, expected plain values; train the run again"
        ) from error


def read_results(run: RunFolder) -> dict | None:
    """Read the results of a run; None if it was not scored.

    Raises:
        CardError: they are damaged.
    """
    results = run.read_results()
    if results is None and run.results.is_file():
        raise CardError(f"{run.results}: damaged; delete it and score the run again")
    return results


def render(about: dict, conf: dict, results: dict | None, merged: bool, graph: bool) -> str:
    """Render the card.

    Args:
        about: the description in the exported file, see `description.describe`.
        conf: the run's resolved config.
        results: the content of results.json.
        merged: whether the file holds the backbone's tensors.
        graph: whether model.onnx lies beside it.
    """
    # Slow to import, and needed here only.
    from huggingface_hub import ModelCard

    corpus = corpus_of(conf["run"]["corpus"])
    systems = {}
    if results:
        systems["this model"] = results["metrics"]
        for name, scores in results["constant_baselines"].items():
            systems[name.replace("_", " ")] = scores
    card = ModelCard.from_template(
        _metadata(about, conf, results, merged, corpus.name),
        template_path=str(TEMPLATE),
        md=markdown,
        code=markdown_code,
        json=lambda value: markdown_code(json.dumps(value, ensure_ascii=False)),
        percent=lambda value: "-" if value is None else f"{100 * value:.1f}",
        about=about,
        conf=conf,
        results=results,
        systems=systems,
        metrics=METRICS,
        merged=merged,
        graph=graph,
        backbone=_describe_backbone(about, conf),
        outside=sorted(registry.outside({**about["spec"], "feature": about["feature"]})),
        corpus=markdown(corpus.name),
        limits=corpus.limits,
        data_licence=corpus.licence,
        licence=LICENCE,
        unknown=UNKNOWN,
    )
    return f"{card}\n"


def corpus_of(name: str) -> Corpus:
    """Return the facts about a corpus; the size in its name (synthetic-20000) does not matter."""
    family = re.sub(r"-\d+$", "", name)
    limits = f"It was trained on {markdown(name)}; on other music it may do worse."
    return CORPORA.get(family, Corpus(name, UNKNOWN, limits))


def _metadata(about, conf, results, merged, corpus):
    from huggingface_hub import EvalResult, ModelCardData

    licence = LICENCE
    if merged and about["backbone"]["licence"]:
        licence = about["backbone"]["licence"]
    evaluation = {}
    if results:
        evaluation = {"metrics": list(METRICS), "model_name": conf["run"]["conf"]}
        evaluation["eval_results"] = [
            EvalResult(
                task_type="audio-classification",
                task_name="instrument recognition",
                dataset_type=conf["run"]["corpus"],
                dataset_name=corpus,
                dataset_split=results["split"],
                metric_type=key,
                metric_name=name,
                metric_value=results["metrics"][key],
            )
            for key, name in METRICS.items()
            if results["metrics"][key] is not None
        ]
    return ModelCardData(
        license=licence.lower(),
        library_name="ast_repr",
        pipeline_tag="audio-classification",
        tags=TAGS,
        **evaluation,
    )


def _describe_backbone(about, conf):
    backbone = about["backbone"]
    spec = about["spec"]["backbone"]
    state = "fine-tuned" if spec["finetune"] else "frozen"
    if conf["backbone"]["weights"] == "none":
        return f"none; in its place {markdown_code(json.dumps(conf['backbone']))}"
    if not backbone["file"]:
        return f"{spec['name']} with random weights, drawn with the seed, {state}"
    text = f"{markdown_code(backbone['name'])}, {state}"
    text += f", file of sha256 {markdown_code(str(backbone['file_sha256']))}"
    if backbone["url"]:
        text += f", <{backbone['url']}>"
    return text
