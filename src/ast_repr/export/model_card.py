"""The model card of an exported model: README.md with the YAML header of the Hugging Face hub.

Numbers come from results.json alone; metrics are fractions in the header and per cent in the text.
"""

import json
import re
from pathlib import Path

from .. import atomic, registry, typecheck, yaml_file
from ..escaping import markdown, markdown_code
from ..report.published import CORPORA
from ..report.results import ResultsError
from ..report.schema import BASELINES, missing

METRICS = {"macro_f1": "macro-F1", "positive_f1": "positive F1", "map": "mAP", "auroc": "AUROC"}
TAGS = [
    "audio",
    "music",
    "instrument-recognition",
    "model-reprogramming",
    "audio-spectrogram-transformer",
]
OURS = "MIT"  # licence of this project and of what is trained with it
UNKNOWN = "not known to this card; whoever shares the model states it here"
DATA = {  # corpus: (licence of what it was trained on, what follows from it for those who use it)
    "synthetic": (
        "rendered by this project's code with the soundfont that pretty_midi carries (GPL); "
        "no recording is in it",
        "It was trained on a synthetic corpus, rendered from one soundfont, and has heard no real "
        "recording: on real music expect less.",
    ),
    "openmic": (
        "OpenMIC-2018: labels CC BY 4.0, most of the audio under NonCommercial Creative Commons "
        "licences",
        "OpenMIC-2018 holds ten-second excerpts of free online music, each labelled for a few of "
        "its instruments only.",
    ),
}
LISTEN = """from ast_repr import audio
from ast_repr import inference
model = inference.load("model.safetensors")
print(dict(zip(model.classes, model(audio.decode("song.mp3")[None])[0])))
"""
GRAPH = """import json
import kaldi_native_fbank as knf
import numpy as np
import onnxruntime
import soundfile

session = onnxruntime.InferenceSession("model.onnx")
metadata = session.get_modelmeta().custom_metadata_map
about = {key: json.loads(text) for key, text in metadata.items() if key != "sha256"}
spec = about["feature_spec"]
waveform, rate = soundfile.read("song.wav", dtype="float32", always_2d=True, frames=160_000)
assert rate == spec["sample_rate"]
waveform = np.pad(waveform.mean(1), (0, 160_000 - len(waveform)))  # ten seconds

options = knf.FbankOptions()
options.frame_opts.dither, options.frame_opts.window_type = 0.0, spec["window"]
options.mel_opts.num_bins, options.htk_compat, options.use_energy = spec["bins"], True, False
bank = knf.OnlineFbank(options)
bank.accept_waveform(rate, waveform - waveform.mean())
log_mel = np.zeros((1, 1, spec["frames"], spec["bins"]), np.float32)
for i in range(min(bank.num_frames_ready, spec["frames"])):
    log_mel[0, 0, i] = bank.get_frame(i)
log_mel = log_mel.astype(np.float16).astype(np.float32)  # the precision it was trained on
print(dict(zip(about["classes"], session.run(None, {"features": log_mel})[0][0])))
"""

NEEDED = {  # of what a checkpoint says, beyond what its model is built from
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


def check(about, path):
    """Refuse a checkpoint, `path`, that does not say what a card does.

    Raises:
        ResultsError: a value is missing, of another type, or not plain.
    """
    for key, kind in NEEDED.items():
        value = about
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not typecheck.matches(value, kind):
            raise ResultsError(
                f"{path}: {key}: found {typecheck.shown(value)}, "
                f"expected {typecheck.expected(kind)}; train the run again"
            )
    try:
        json.dumps(about["config"])
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultsError(
            f"{path}: config: {error}, expected plain values; train the run again"
        ) from error


def read(folder):
    """results.json of a run folder, or None where the run was not scored.

    Raises:
        ResultsError: it is damaged or incomplete.
    """
    path = Path(folder) / "results.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(atomic.read_text(path))
        wrong = missing(found)
    except (ValueError, AttributeError, RecursionError) as error:
        raise ResultsError(
            f"{path}: damaged ({error}); delete it and score the run again"
        ) from error
    if wrong:
        raise ResultsError(
            f"{path}: incomplete, expected {', '.join(wrong[:3])}; "
            "delete it and score the run again"
        )
    return found


def text(about, conf, results, with_backbone, graph):
    """The card.

    Args:
        about: what is stored in the exported file (src/export.py).
        conf: the run's resolved config.
        results: what `read` gave.
        with_backbone: whether the file holds the backbone's tensors.
        graph: whether model.onnx lies beside it.
    """
    parts = [
        "---",
        yaml_file.dump(header(about, conf, results, with_backbone)).rstrip(),
        "---",
        "",
    ]
    parts += (
        _model(about, conf, with_backbone)
        + _results(results)
        + _use(about, with_backbone, graph)
        + _limits(conf, results)
        + _licences(about, conf, with_backbone)
    )
    return "\n".join(parts) + "\n"


def header(about, conf, results, with_backbone):
    """The card's YAML header as plain values; without results it names no metrics."""
    corpus = CORPORA.get(conf["run"]["corpus"], conf["run"]["corpus"])
    licence = (
        about["backbone"]["licence"] if with_backbone and about["backbone"]["licence"] else OURS
    )
    found = {
        "license": licence.lower(),
        "library_name": "ast_repr",
        "tags": TAGS,
        "pipeline_tag": "audio-classification",
        "datasets": [corpus],
    }
    if results is None:
        return found
    measured = [
        {"type": key, "name": name, "value": results["metrics"][key]}
        for key, name in METRICS.items()
    ]
    result = {
        "task": {"type": "audio-classification", "name": "instrument recognition"},
        "dataset": {"type": conf["run"]["corpus"], "name": corpus, "split": results["split"]},
        "metrics": [one for one in measured if one["value"] is not None],
    }
    return found | {
        "metrics": list(METRICS),
        "model-index": [{"name": conf["run"]["conf"], "results": [result]}],
    }


def _model(about, conf, with_backbone):
    run, backbone, spec = conf["run"], about["backbone"], about["spec"]
    steps = ["changed by a small trained *reprogrammer*"] * (conf["reprogrammer"]["name"] != "none")
    steps += ["heard by a transformer (AST)"] * (spec["backbone"]["name"] == "ast") + [
        "mapped to classes"
    ]
    frozen = "fine-tuned" if spec["backbone"]["finetune"] else "frozen"
    if spec["backbone"]["name"] != "ast":
        source = f"none; in its place {_json(conf['backbone'])}"
    elif not backbone["file"]:
        source = f"an AST of random weights, drawn with the seed, {frozen}"
    else:
        name, sha256 = map(markdown_code, (backbone["name"], str(backbone["file_sha256"])))
        source = f"{name}, {frozen}, file of sha256 {sha256}"
        if backbone["url"]:
            source += f", <{backbone['url']}>"
    method = (
        f"{markdown(run['conf'])}: reprogrammer {_json(conf['reprogrammer'])}, "
        f"head {_json(conf['head'])}, input norm {markdown_code(conf['input']['norm'])}, "
        f"method {_json(conf['method'])}"
    )
    corpus = markdown(CORPORA.get(run["corpus"], run["corpus"]))
    chosen = markdown(f"{conf['select']['metric']} on the split {conf['select']['split']!r}")
    labels = f"{100 * conf['train']['label_fraction']:g} % of its training labels"
    learned = f"{about['trainable_parameters']:,} of {about['total_parameters']:,} parameters"
    held = "self-contained" if with_backbone or not backbone["file"] else "without the backbone"
    return [
        f"# {markdown(run['conf'])}, {len(about['classes'])} classes",
        "",
        "Says which of its classes are in ten seconds of polyphonic music: a log-mel spectrogram "
        f"is {', then '.join(steps)}.",
        "From an implementation of Chen and Lerch, *Music Instrument Classification Reprogrammed* "
        "(MMM 2023, arXiv 2211.08379).",
        "",
        "| | |",
        "|---|---|",
        f"| classes | {', '.join(map(markdown, about['classes']))}; "
        "the order of the outputs, also in `labels.txt` |",
        f"| method | {method} |",
        f"| backbone | {source} |",
        f"| trained | {learned} |",
        f"| corpus | {corpus}, {labels} |",
        f"| protocol | {markdown(conf['protocol'])}: the epoch was chosen by {chosen} |",
        f"| seed | {run['seed']} |",
        f"| file | float32, {held}; no code in it |",
        "",
    ]


def _results(results):
    if results is None:
        return [
            "## Results",
            "",
            "This run was not scored: nothing is known of how good it is.",
            "",
        ]
    rows = {"this model": results["metrics"]} | {
        name: results["constant_baselines"][key] for key, name in BASELINES.items()
    }
    classes = results["metrics"]["per_instrument"]
    return [
        "## Results",
        "",
        f"Split {markdown(repr(results['split']))}: {results['clips']:,} clips, "
        f"{results['observed']:,} observed labels, threshold {results['threshold']:g}, one seed. "
        "In per cent.",
        "",
        "| | " + " | ".join(METRICS.values()) + " |",
        "|---|" + "--:|" * len(METRICS),
        *(
            f"| {name} | " + " | ".join(_percent(scores[key]) for key in METRICS) + " |"
            for name, scores in rows.items()
        ),
        "",
        "macro-F1 is two-class: per instrument the mean of the F1 of present and the F1 of absent "
        "over observed labels, then the mean over instruments.",
        "",
        "| class | macro-F1 | average precision | labels: present | absent |",
        "|---|--:|--:|--:|--:|",
        *(
            f"| {markdown(name)} | {_percent(own['macro_f1'])} | {_percent(own['ap'])} "
            f"| {own['present']} | {own['absent']} |"
            for name, own in classes.items()
        ),
        "",
    ]


def _use(about, with_backbone, graph):
    backbone, elsewhere = about["backbone"], about["backbone"]["file"] and not with_backbone
    lines = [
        "## Use",
        "",
        "With the package `ast_repr` (`pip install .` in a copy of its repository):",
        "",
        "```python",
        LISTEN.rstrip(),
        "```",
        "",
    ]
    if elsewhere:
        origin = (
            f"from <{backbone['url']}>"
            if backbone["url"]
            else "from that repository's `pretrained_models/`, or from where the model was trained"
        )
        lines += [
            f"The backbone is not in this file: put its weights, {origin}, beside it as "
            f"{markdown_code(backbone['file'])}.",
            "",
        ]
    lines += [
        "`python src/predict.py --model FOLDER song.mp3`, in that repository, does so for files "
        "and folders of any length.",
        "",
    ]
    for name in sorted(registry.outside({**about["spec"], "feature": about["feature"]})):
        lines += [
            f"It is built from {markdown_code(name)}, which is not part of that package: with its "
            "code on PYTHONPATH, allow it by `inference.load(..., allow=...)` or `--allow-class`.",
            "",
        ]
    if graph:
        lines += [
            "`model.onnx` needs none of this: it maps the un-normalised log-mel "
            "(B, 1, frames, bins) to probabilities (B, K). Its metadata hold classes,",
            "threshold and front end. After `pip install onnxruntime numpy soundfile "
            "'kaldi-native-fbank<1.23'`, for a file at 16 kHz:",
            "",
            "```python",
            GRAPH.rstrip(),
            "```",
            "",
        ]
    return lines


def _limits(conf, results):
    _, advice = DATA.get(
        _family(conf),
        (
            None,
            f"It was trained on {markdown(conf['run']['corpus'])}; on other music it may do worse.",
        ),
    )
    lines = [
        advice,
        "It knows the classes above and no others, and says nothing of how loud or when within "
        "ten seconds.",
        "Probabilities are not calibrated: 0.9 does not mean right in nine cases of ten.",
    ]
    if results is not None:
        lines.append(
            f"The numbers are of one run on {results['clips']:,} clips; "
            "a class with few labels is measured by few."
        )
    if conf["select"]["split"] == "test":
        lines.append(
            "The epoch was chosen on the split that it is scored on, as in the paper's code: "
            "its numbers are too good."
        )
    return ["## Limits", "", *(f"- {line}" for line in lines), ""]


def _licences(about, conf, with_backbone):
    backbone, data = about["backbone"], DATA.get(_family(conf), (UNKNOWN, None))[0]
    lines = [f"- trained tensors: {OURS}", f"- data: {data}"]
    if backbone["file"] or with_backbone:
        where = ", whose tensors are in this file" if with_backbone else ""
        lines.insert(1, f"- backbone{where}: {backbone['licence'] or UNKNOWN}")
    return ["## Licences", "", *lines]


def _family(conf):
    """The corpus without its size: synthetic-20000 is synthetic."""
    return re.sub(r"-\d+$", "", conf["run"]["corpus"])


def _percent(value):
    return "-" if value is None else f"{100 * value:.1f}"


def _json(value):
    return markdown_code(json.dumps(value, ensure_ascii=False))
