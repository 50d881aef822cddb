"""The model card of an exported model: README.md with the metadata of the Hugging Face hub.

Its text is the template model_card.md. Results come from results.json alone; they are fractions in
the metadata and per cent in the text.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from .. import registry
from ..audio import Window
from ..choices import TAG_SPLITS
from ..escaping import markdown, markdown_code
from ..model_spec import lookup
from ..run_folder import RunFolder
from ..settings import Config

TEMPLATE = Path(__file__).with_name("model_card.md")
METRICS = {"macro_f1": "macro-F1", "positive_f1": "positive F1", "map": "mAP", "auroc": "AUROC"}
PREDOMINANT = {"micro_f1": "micro-F1", "macro_f1": "macro-F1", "lrap": "LRAP", "top1": "top-1"}
TAGS = [
    "audio",
    "music",
    "instrument-recognition",
    "model-reprogramming",
    "audio-spectrogram-transformer",
]
LICENCE = "MIT"  # of this project and of the tensors trained with it
SOUNDFONT = (
    "rendered by this project's code with the soundfont of pretty_midi (GPL); it contains no "
    "recording"
)
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
        SOUNDFONT,
        "It was trained on a synthetic corpus, rendered from one soundfont, without any real "
        "recording: on real music expect less.",
    ),
    "rendered": Corpus(
        "rendered music",
        "rendered by this project's code with free soundfonts; it contains no recording",
        "It was fitted on rendered music, without any real recording or singing: on real music "
        "expect less.",
    ),
    "openmic": Corpus(
        "OpenMIC-2018",
        "OpenMIC-2018: labels CC BY 4.0, most of the audio under NonCommercial Creative Commons "
        "licences",
        "OpenMIC-2018 holds ten-second excerpts of free online music, each labelled for a few of "
        "its instruments only.",
    ),
    "irmas": Corpus(
        "IRMAS",
        "IRMAS: CC BY-NC-SA 3.0, neither redistributed nor modified",
        "It was trained on IRMAS' excerpts of three seconds, each labelled with its one "
        "predominant instrument: an instrument that accompanies counts as absent.",
    ),
    "magnatagatune": Corpus(
        "MagnaTagATune",
        "MagnaTagATune: tags CC BY-NC-SA 3.0, audio CC BY-NC-SA 1.0",
        "It was trained on MagnaTagATune, with the tags that players of a game gave: a tag that "
        "nobody gave counts as absent, even if it holds.",
    ),
    "irmas_synthetic": Corpus(
        "synthetic, in IRMAS' layout",
        SOUNDFONT,
        "It was trained on synthetic excerpts of three seconds, each labelled with its one "
        "predominant instrument, without any real recording: an instrument that accompanies counts "
        "as absent, and on real music expect less.",
    ),
    "magnatagatune_synthetic": Corpus(
        "synthetic, in MagnaTagATune's layout",
        SOUNDFONT,
        "It was trained on synthetic clips whose tags follow from rules, without any real "
        "recording or singing: on real music expect less.",
    ),
}


class CardError(ValueError):
    """A run about which no card can be written; the message names the file and the remedy."""


def read_config(about: dict, path: Path) -> Config:
    """Read the config in a checkpoint's description, and check the other values of a card.

    Raises:
        CardError: a value is missing, of another type, or not plain.
    """
    try:
        for key in ("trainable_parameters", "total_parameters"):
            lookup(about, key, int)
        values = lookup(about, "config", dict)
        lookup(values, "run", dict)
        config = Config.from_dict(values)
        json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise CardError(f"{path}: {error}; train the run again") from error
    return config


def read_results(run: RunFolder) -> dict | None:
    """Read the results of a run; None if it was not scored.

    Raises:
        CardError: they are damaged.
    """
    results = run.read_results()
    if results is None and run.results.is_file():
        raise CardError(f"{run.results}: damaged; delete it and score the run again")
    return results


def render(
    about: dict,
    config: Config,
    window: Window,
    results: dict | None,
    merged: bool,
    graph: bool,
    int8: bool,
) -> str:
    """Render the card.

    Args:
        about: the description in the exported file, see `description.describe`.
        config: the run's config.
        window: of the model's feature.
        results: the content of results.json.
        merged: whether the file holds the backbone's tensors.
        graph: whether model.onnx lies beside it; `int8`: whether its linear layers are quantised.
    """
    # Slow to import, and needed here only.
    from huggingface_hub import ModelCard

    corpus = corpus_of(config.run.corpus)
    systems = {}
    if results:
        systems["this model"] = results["metrics"]
        for name, scores in results["constant_baselines"].items():
            systems[name.replace("_", " ")] = scores
    predominant = (results or {}).get("predominant")
    predominant_systems = {}
    if predominant:
        predominant_systems = {"this model": predominant} | predominant["baselines"]
    card = ModelCard.from_template(
        _metadata(about, config, results, merged, corpus.name),
        template_path=str(TEMPLATE),
        md=markdown,
        code=markdown_code,
        json=lambda value: markdown_code(json.dumps(value, ensure_ascii=False)),
        percent=lambda value: "-" if value is None else f"{100 * value:.1f}",
        about=about,
        config=config,
        results=results,
        systems=systems,
        metrics=METRICS,
        predominant=predominant,
        predominant_systems=predominant_systems,
        predominant_metrics=PREDOMINANT,
        seconds=f"{window.seconds:g}",
        samples=f"{window.samples:_}",
        merged=merged,
        graph=graph,
        int8=int8,
        backbone=_describe_backbone(about, config),
        outside=sorted(registry.outside({**about["spec"], "feature": about["feature"]})),
        corpus=markdown(corpus.name),
        limits=corpus.limits,
        data_licence=corpus.licence,
        licence=LICENCE,
        unknown=UNKNOWN,
    )
    return f"{card}\n"


def corpus_of(name: str) -> Corpus:
    """Return the facts about a corpus; a size or split in its name (synthetic-20000) is ignored."""
    family = re.sub(rf"-(\d+|{'|'.join(TAG_SPLITS)})$", "", name)
    limits = f"It was trained on {markdown(name)}; on other music it may do worse."
    return CORPORA.get(family, Corpus(name, UNKNOWN, limits))


def _metadata(about, config, results, merged, corpus):
    from huggingface_hub import EvalResult, ModelCardData

    licence = LICENCE
    if merged and about["backbone"]["licence"]:
        licence = about["backbone"]["licence"]
    evaluation = {}
    if results:
        evaluation = {"metrics": list(METRICS), "model_name": config.run.conf, "eval_results": []}
        for key, name in METRICS.items():
            if results["metrics"][key] is not None:
                result = EvalResult(
                    task_type="audio-classification",
                    task_name="instrument recognition",
                    dataset_type=config.run.corpus,
                    dataset_name=corpus,
                    dataset_split=results["split"],
                    metric_type=key,
                    metric_name=name,
                    metric_value=results["metrics"][key],
                )
                evaluation["eval_results"].append(result)
    return ModelCardData(
        license=licence.lower(),
        library_name="ast_repr",
        pipeline_tag="audio-classification",
        tags=TAGS,
        **evaluation,
    )


def _describe_backbone(about, config):
    backbone = about["backbone"]
    state = "fine-tuned" if config.backbone.finetune else "frozen"
    if config.backbone.weights == "none":
        return f"none; in its place {markdown_code(json.dumps(config.backbone.to_dict()))}"
    if not backbone["file"]:
        return f"{config.backbone.name} with random weights, drawn with the seed, {state}"
    text = f"{markdown_code(backbone['name'])}, {state}"
    text += f", file of sha256 {markdown_code(str(backbone['file_sha256']))}"
    if backbone["url"]:
        text += f", <{backbone['url']}>"
    return text
