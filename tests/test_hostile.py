"""Hostile model files of every form: nothing in them runs, and one line refuses them."""

import copy
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import call

from ast_repr import checkpoint, identity, inference, registry
from ast_repr.classifier import build_model
from ast_repr.commands import export, predict
from ast_repr.export import onnx as graph
from ast_repr.export import safetensors

SCRIPT = Path(__file__).parents[1] / "src" / "predict.py"
FORMS = ["pt", "safetensors", "onnx"]
SECTIONS = ["feature", "reprogrammer", "head", "backbone", "adapter"]
# A module that says that it was imported, and classes that would say that they were built.
MODULE = """
from pathlib import Path

from torch import nn

Path(__file__).with_name("imported").touch()


class Gain(nn.Module):
    def __init__(self, frames=1024, bins=128):
        super().__init__()
        Path(__file__).with_name("built").touch()

    def forward(self, x):
        return x


class Other(Gain):
    pass
"""
DELETED = object()


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A folder on Python's path with the module `planted`, which leaves files when it runs."""
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "planted.py").write_text(MODULE)
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("planted", None)


def was_run(folder):
    """Names of the files that the module in `folder` has left."""
    return {path.name for path in folder.iterdir()} - {"planted.py", "__pycache__"}


@pytest.fixture
def model_file(run, tmp_path):
    """(form, {dotted key: value}) -> path of the tiny model in that form, with those values."""
    state = checkpoint.load(run[0] / "best.valid.macro_f1.pt")

    def make(form, changes):
        about = copy.deepcopy(state["about"])
        if form != "pt":
            about["spec"]["backbone"]["file"] = "tiny.safetensors"
        for key, value in changes.items():
            put(about, key.split("."), value)
        path = tmp_path / f"model.{form}"
        if form == "pt":
            checkpoint.save(path, {"learned": state["learned"], "about": about})
        elif form == "safetensors":
            safetensors.save(path, state["learned"], about)
        else:
            path.write_bytes(sealed_graph(about))
        return path

    return make


def put(values, keys, value):
    for key in keys[:-1]:
        values = values[key]
    if value is DELETED:
        del values[keys[-1]]
    else:
        values[keys[-1]] = value


def sealed_graph(about, shape=(1, 1024, 32), classes=3, value=0.0, external=None):
    """Bytes of a graph that gives sigmoid(value) for each class, sealed as `onnx.save` does."""
    onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = helper.make_tensor("weight", kind, [1, classes], [value] * classes)
    if external:
        weight.ClearField("float_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=str(external))
    axes = helper.make_tensor("axes", onnx.TensorProto.INT64, [2], [2, 3])
    nodes = [
        helper.make_node("ReduceMax", ["features", "axes"], ["peak"], keepdims=0),
        helper.make_node("Sub", ["peak", "peak"], ["nothing"]),
        helper.make_node("Add", ["nothing", "weight"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
    ]
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "model",
            [helper.make_tensor_value_info("features", kind, ["batch", *shape])],
            [helper.make_tensor_value_info("probabilities", kind, ["batch", classes])],
            [weight, axes],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    metadata = {key: json.dumps(value) for key, value in about.items()}
    helper.set_model_props(made, metadata | {"sha256": graph.HASH_PLACEHOLDER})
    data = made.SerializeToString()
    return data.replace(graph.HASH_PLACEHOLDER.encode(), identity.of_bytes(data).encode())


@pytest.fixture
def tell(tmp_path, capsys):
    """Arguments -> (exit code, error output) of predict.py on a short sound."""
    soundfile.write(tmp_path / "song.wav", np.full(1600, 0.1), 16_000)

    def tell(*arguments, command=predict, paths=(tmp_path / "song.wav",)):
        code, _, err = call(capsys, command, *arguments, *paths)
        return code, err

    return tell


def refused(told, *expected):
    """The one line that predict.py has left with, perhaps after the one that names the model."""
    code, err = told
    line = err.splitlines()[-1]
    assert code == 1 and line.startswith("error: ") and err.count("\n") <= 2, err
    assert all(part in line for part in expected), err
    return line


@pytest.mark.parametrize("form", FORMS)
def test_the_harmless_model_is_loaded(form, model_file):
    assert inference.load(model_file(form, {})).classes == ["bass", "flute", "voice"]


@pytest.mark.parametrize("name", ["planted.Gain", "subprocess.Popen"])
@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_no_class_of_a_model_file_is_run_unasked(form, section, name, model_file, planted, tell):
    marker = planted / "touched"
    options = {"args": ["touch", str(marker)]} if name.startswith("subprocess") else {}
    key = section if section == "feature" else f"spec.{section}"
    changes = {key: {"name": name, "allow": [name], **options}}
    if section == "backbone":
        changes = {f"{key}.name": name, f"{key}.options.args": options.get("args")}
    path = model_file(form, changes)
    told = tell("--model", path)
    if form == "onnx" and section != "feature":  # the graph needs no class, and none is looked up
        assert told[0] == 0
    else:
        refused(told, path.name, f"{section} {name!r}", f"--allow-class {name} ")
        with pytest.raises(registry.NotAllowedError, match=path.name):
            inference.load(path)
    assert not was_run(planted) and "planted" not in sys.modules


@pytest.mark.slow
def test_the_script_itself_runs_nothing(model_file, planted, tmp_path):
    """The attack as it was reported, in a separate process."""
    marker = planted / "touched"
    feature = {"name": "subprocess.Popen", "args": ["touch", str(marker)]}
    path = model_file("safetensors", {"feature": feature})
    command_line = [sys.executable, SCRIPT, "--model", path, tmp_path]
    done = subprocess.run(command_line, capture_output=True, text=True, timeout=120)
    refused((done.returncode, done.stderr), "feature 'subprocess.Popen'", "model.safetensors")
    assert not marker.exists()


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_exactly_the_class_that_is_allowed_is_built(form, model_file, planted, tell):
    own = {"spec.reprogrammer": {"name": "planted.Gain"}, "spec.head": {"name": "planted.Other"}}
    path = model_file(form, own)
    refused(tell("--model", path, "--allow-class", "planted.Gain"), "head 'planted.Other'")
    assert "built" not in was_run(planted)
    code, err = tell("--model", path, "--allow-class", "Gain")
    assert code == 2 and "expected module.Class" in err


def test_an_allowed_class_predicts_and_is_exported(run, planted, tell, tmp_path):
    path = run[0] / "best.valid.macro_f1.pt"
    state = checkpoint.load(path)
    state["about"]["spec"]["reprogrammer"] = {"name": "planted.Gain"}
    head = {name: tensor for name, tensor in state["learned"].items() if name.startswith("head.")}
    checkpoint.save(path, state | {"learned": head})
    refused(tell("--model", run[0]), "planted.Gain")
    assert tell("--model", run[0], "--allow-class", "planted.Gain")[0] == 0
    model = inference.load(run[0], allow=("planted.Gain",))
    assert type(model.model.reprogrammer).__name__ == "Gain"
    inference.load(run[0], allow="planted.Gain")
    told = tell(run[0], tmp_path / "out", command=export, paths=())
    refused(told, "planted.Gain", "--allow-class")
    assert not (tmp_path / "out").exists()


HUGE = 10**12
DAMAGE = [  # (dotted key, value, part of the message)
    ("feature", DELETED, "feature: missing"),
    ("feature", [], "feature"),
    ("feature", {"frames": 1024}, "feature.name"),
    ("feature.name", 3, "name"),
    ("feature.name", "no such", "unknown feature"),
    ("feature.frames", 10**9, "frames"),
    ("feature.frames", 0, "frames"),
    ("feature.bins", 2, "bins"),
    ("feature.bins", 64, "bands"),
    ("feature.hop", 1, "hop"),
    ("feature_spec", {"window": "povey"}, "front end"),
    ("spec", DELETED, "'spec'"),
    ("spec.norm", "corpus", "norm"),
    ("spec.norm", [0.0, 0.0], "norm"),
    ("spec.norm", [0.0, float("nan")], "norm"),
    ("spec.norm", [1.0], "norm"),
    ("spec.norm", [[0.0] * 32, [1.0] * 31], "norm"),
    ("spec.norm", [[0.0] * 32, [1.0] * 31 + [0.0]], "norm"),
    ("spec.reprogrammer", {"name": "none", "frames": 3}, "frames"),
    ("spec.reprogrammer.residual", "yes", "residual"),
    ("spec.reprogrammer", {"name": "noise", "rank": HUGE}, "model.safetensors"),
    ("spec.reprogrammer", {"name": "cnn", "width": HUGE}, "model.safetensors"),
    ("spec.reprogrammer", {"name": "patch", "rank": 10**9}, "model.safetensors"),
    ("spec.reprogrammer", {"name": "adversarial", "scale": float("inf")}, "scale"),
    ("spec.adapter", ["lora"], "adapter"),
    ("spec.adapter", {"rank": 2}, "adapter.name"),
    ("spec.adapter", {"name": "no such"}, "unknown adapter"),
    ("spec.adapter", {"name": "lora", "rang": 2}, "rang"),
    ("spec.adapter", {"name": "lora", "rank": "2"}, "rank"),
    ("spec.adapter", {"name": "lora", "rank": 0}, "rank"),
    ("spec.adapter", {"name": "lora", "rank": HUGE}, "rank"),
    ("spec.adapter", {"name": "lora", "rank": 10_000}, "adapter"),  # the file has no such tensors
    ("spec.adapter", {"name": "lora", "alpha": float("nan")}, "alpha"),
    ("spec.adapter", {"name": "lora", "projections": [["q"]]}, "projections"),
    ("spec.adapter", {"name": "bottleneck", "width": HUGE}, "width"),
    ("spec.adapter", {"name": "prompt", "tokens": 10**9}, "tokens"),
    ("spec.adapter", {"name": "prefix", "tokens": 10**9}, "tokens"),
    ("spec.adapter", {"name": "ssf", "backbone": {}}, "backbone"),
    ("spec.head", {"name": "prototypes", "prototypes": HUGE}, "prototypes"),
    ("spec.head", {"name": "layer_mix"}, "pooling"),
    ("spec.head", {"name": "layer_mix", "n_blocks": HUGE}, "n_blocks"),
    ("spec.backbone.options.pooling", "sum", "pooling"),
    ("spec.head", {"name": "forest", "trees": 10**9}, "trees"),
    ("spec.head", {"name": "forest", "max_depth": 10**9}, "max_depth"),
    ("spec.head", {"name": "labelmap", "groups": [["a"]]}, "groups"),
    ("spec.head", {"name": "labelmap", "kind": "groups", "groups": [[0], [HUGE], [2]]}, "groups"),
    ("spec.head", {"name": "embedding", "n_classes": 5}, "n_classes"),
    ("spec.backbone.name", ["ast"], "name"),
    ("spec.backbone.options", DELETED, "backbone.options: missing"),
    ("spec.backbone.options.depth", 10**6, "depth"),
    ("spec.backbone.options.embed_dim", HUGE, "embed_dim"),
    ("spec.backbone.options.embed_dim", 99_968, "values"),
    ("spec.backbone.options.num_heads", 0, "num_heads"),
    ("spec.backbone.options.n_source", 10**30, "n_source"),
    ("spec.backbone.options.mean", "low", "mean"),
    ("spec.backbone.options.std", 0, "deviation"),
    ("spec.backbone.options.frames", 10**9, "frames"),
    ("spec.backbone.seed", -1, "seed"),
    ("spec.backbone.seed", 1.5, "seed"),
    ("spec.backbone.finetune", "no", "finetune"),
    ("spec.backbone.file", 3, "file"),
    ("spec.backbone.file", "../secret.safetensors", "../secret.safetensors"),
    ("spec.backbone.file", "/etc/passwd", "/etc/passwd"),
    ("backbone_sha256", None, "backbone_sha256"),
    ("classes", [], "classes"),
    ("classes", ["bass", "bass", "voice"], "classes"),
    ("classes", ["bass", " ", "voice"], "classes"),
    ("classes", ["bass", 3, "voice"], "classes"),
    ("classes", ["bass", "\ud800", "voice"], "classes"),
    ("classes", ["bass", "x" * 10**6, "voice"], "classes"),
    ("classes", ["bass", "voice"], "head"),
    ("threshold", float("nan"), "threshold"),
    ("threshold", 2, "threshold"),
    ("threshold", "0.5", "threshold"),
]


@pytest.mark.parametrize(("key", "value", "named"), DAMAGE)
def test_a_description_that_makes_no_sense_is_refused_at_once(key, value, named, model_file, tell):
    path = model_file("safetensors", {key: value})
    started = time.monotonic()
    err = refused(tell("--model", path), path.name, named)
    assert time.monotonic() - started < 60 and len(err) < 5_000


@pytest.mark.parametrize("form", ["pt", "onnx"])
@pytest.mark.parametrize("key", ["classes", "threshold", "feature", "spec.norm", "spec.head"])
def test_the_other_forms_are_checked_alike(form, key, model_file, tell):
    path = model_file(form, {key: {"not": "this"}})
    refused(tell("--model", path), path.name, key.rpartition(".")[2])


def test_a_path_in_an_exported_file_does_not_reach_outside(run, model_file, tmp_path):
    """Though the very backbone lies there."""
    folder = tmp_path / "download"
    folder.mkdir()
    for name in ("../tiny.safetensors", str(tmp_path / "tiny.safetensors")):
        path = model_file("safetensors", {"spec.backbone.file": name}).rename(
            folder / "m.safetensors"
        )
        with pytest.raises(checkpoint.CheckpointError, match="expected a file beside it"):
            inference.load(path)
        inference.load(path, backbone_file=tmp_path / "tiny.safetensors")


def test_json_of_any_depth_and_length_is_refused(model_file, tell, monkeypatch):
    path = model_file("safetensors", {})
    for text in ("[" * 100_000, "[" * 100_000 + "]" * 100_000, " " * (10**7 + 1), "{", "NaN"):
        monkeypatch.setattr(safetensors.json, "dumps", lambda about, text=text: text)
        safetensors.save(path, {"x": torch.zeros(1)}, {})
        refused(tell("--model", path), path.name)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize(
    "learned",
    [
        {"head.linear.bias": torch.zeros(1).expand(10**12)},
        {"head.linear.bias": torch.zeros(4)},
        {"head.linear.bias": torch.zeros(3).to_sparse()},
        {"head.linear.bias": 3},
        {"more": torch.zeros(1)},
        {"head.linear.bias": torch.full((3,), torch.nan)},
    ],
    ids=["expanded", "another shape", "sparse", "a number", "unknown", "nan"],
)
def test_tensors_that_are_not_the_models_are_refused(learned, run, tell, tmp_path):
    state = checkpoint.load(run[0] / "best.valid.macro_f1.pt")
    state["learned"] = state["learned"] | learned
    checkpoint.save(tmp_path / "model.pt", state)
    refused(tell("--model", tmp_path / "model.pt"))


@pytest.mark.parametrize("rank", [1, 3])
def test_an_adapter_of_another_rank_is_refused(rank, run, tell, tmp_path):
    state = checkpoint.load(run[0] / "best.valid.macro_f1.pt")
    adapter = {"name": "lora", "rank": 2}
    spec = state["about"]["spec"] | {"adapter": adapter}
    model = build_model(state["about"]["classes"], **spec)
    learned = model.trainable_state_dict()
    checkpoint.save(tmp_path / "model.pt", state | {"learned": learned})
    refused(tell("--model", tmp_path / "model.pt"), "adapter")  # the description has none
    state["about"]["spec"] = spec
    checkpoint.save(tmp_path / "model.pt", state | {"learned": learned})
    assert tell("--model", tmp_path / "model.pt")[0] == 0
    adapter["rank"] = rank
    checkpoint.save(tmp_path / "model.pt", state | {"learned": learned})
    refused(tell("--model", tmp_path / "model.pt"), "model.pt", "adapter")


def test_a_forest_that_leads_outside_is_refused():
    from ast_repr import heads

    head = heads.build("forest", n_classes=2, trees=1)
    for name, value in (("branches", 9), ("roots", -1), ("feature", -1)):
        state = head.state_dict()
        state[name] = torch.full_like(state[name], value)
        with pytest.raises(RuntimeError, match="lead out of the forest"):
            heads.build("forest", n_classes=2, trees=1).load_state_dict(state)
    heads.build("forest", n_classes=2, trees=1).load_state_dict(head.state_dict())


def test_a_compressed_checkpoint_is_refused_before_it_fills_the_memory(run, tell, tmp_path):
    small = run[0] / "best.valid.macro_f1.pt"
    state = checkpoint.load(small)
    checkpoint.save(tmp_path / "large.pt", state | {"zeros": torch.zeros(1_000_000)})
    path = tmp_path / "model.pt"
    archive = io.BytesIO()
    with (
        zipfile.ZipFile(tmp_path / "large.pt") as given,
        zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for member in given.infolist():
            out.writestr(member.filename, given.read(member))
    checkpoint.seal(archive)
    path.write_bytes(archive.getvalue())
    refused(tell("--model", path), "model.pt: compressed")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"shape": (1, 64, 32)}, "contradicts its metadata"),
        ({"classes": 4}, "contradicts its metadata"),
        ({"value": float("nan")}, "NaN"),
        ({"external": "secret.bin"}, "not an ONNX graph"),
        ({"external": "../secret.bin"}, "not an ONNX graph"),
    ],
)
def test_a_graph_reads_no_other_file_and_is_what_it_says(
    changes, named, run, tell, tmp_path, monkeypatch
):
    about = checkpoint.load(run[0] / "best.valid.macro_f1.pt")["about"]
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    for folder in (tmp_path, tmp_path / "inside"):
        (folder / "secret.bin").write_bytes(np.zeros(3, np.float32).tobytes())
    path = tmp_path / "inside" / "model.onnx"
    path.write_bytes(sealed_graph(about, **changes))
    refused(tell("--model", path), named)


@pytest.mark.parametrize("key", ["config", "config.protocol", "trainable_parameters"])
def test_an_export_needs_what_its_card_says(key, run, tell, tmp_path):
    path = run[0] / "best.valid.macro_f1.pt"
    state = checkpoint.load(path)
    counts = {"trainable_parameters": 1, "total_parameters": 2}
    state["about"] |= counts | {"config": {"run": {}}}
    put(state["about"], key.split("."), [torch.zeros(1)])
    checkpoint.save(path, state)
    told = tell(run[0], tmp_path / "out", command=export, paths=())
    refused(told, path.name, key.rpartition(".")[2])
    assert not os.path.lexists(tmp_path / "out")
