"""Exported runs: all forms predict alike, damage is named, the card's numbers are the results'."""

import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml
from helpers import call

from ast_repr import (
    checkpoint,
    choices,
    config,
    features,
    identity,
    inference,
    model_spec,
    pretrained,
)
from ast_repr.backbones import weights
from ast_repr.classifier import build_model
from ast_repr.commands import export, predict
from ast_repr.data.dataset import Batch
from ast_repr.export import hub, onnx, safetensors
from ast_repr.export.description import ExportError
from ast_repr.run_folder import RunFolder
from ast_repr.settings import Config

CONFS = Path(__file__).parents[1] / "egs" / "openmic" / "conf"
METHODS = ("kd", "east_final", "east_kd")  # of the same student
# Their models differ from those of others in no class of module.
SAME_MODEL = {"ast_linear", "ast_linear_raw", "label_enhancement", "mean_teacher"}
SAME_MODEL |= {
    "ast_unet_residual",
    "cnn_only_released",
    "ast_logistic_random",
    "ast_patch_head_only",
    "scalogram_cnn_attention",
    "logmel_dutta",
    "cp_resnet",
}
SAME_MODEL |= {f"{method}_{teacher}" for method in METHODS for teacher in ("ast", "musicnn")}
CLASSES = list(pretrained.zero_shot("ast_audioset")["names"])[:20]
NAMES = ["bass", "flute", "voice"]  # classes of the run folder
SOUND = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 24_000)).astype(np.float32)
SOUND *= np.float32([[1], [0.01]])
IDENTITY = {
    "corpus": "synthetic",
    "manifest_sha256": "cd" * 32,
    "classes": CLASSES,
    "backbone": "ast_tiny_synth",
    "weights_sha256": "ab" * 32,
    "seed": 0,
}
CONFIG = config.load(CONFS, "ast_unet_residual", "synthetic").to_dict()
CONFIG["run"] = IDENTITY | {"conf": "ast_unet"}


def scores(value):
    instrument = {"macro_f1": value, "ap": 0.25, "present": 3, "absent": 4}
    return {
        "macro_f1": value,
        "positive_f1": 0.5,
        "map": 1 / 3,
        "auroc": None,
        "per_instrument": dict.fromkeys(NAMES, instrument),
    }


RESULTS = {
    "split": "test",
    "clips": 250,
    "observed": 503,
    "threshold": 0.5,
    "metrics": scores(0.6161044339524493),
    "constant_baselines": {"always_absent": scores(0.348), "always_present": scores(0.299)},
}


@pytest.fixture
def scored(run):
    """The shared tiny run, with a config and results."""
    path = run[0] / "best.valid.macro_f1.pt"
    state = checkpoint.load(path)
    state["about"] |= {"config": CONFIG, "trainable_parameters": 5529, "total_parameters": 30_000}
    state["learned"]["head.linear.bias"].zero_()  # all else is the same in each test
    checkpoint.save(path, state)
    RunFolder(run[0]).write_results(RESULTS)
    return run[0]


@pytest.fixture
def exported(scored, tmp_path, capsys):
    """The tiny run's export, with its backbone beside it."""
    code, _, err = call(capsys, export, scored, tmp_path / "out")
    assert (code, err) == (0, "")
    shutil.copy(tmp_path / "tiny.safetensors", tmp_path / "out" / "ast_tiny_synth.safetensors")
    return tmp_path / "out"


@pytest.fixture(scope="module")
def files_with_graph():
    """Content of an export with a graph, which takes seconds: {name: bytes}."""
    return {}


@pytest.fixture
def graphed(exported, scored, capsys, files_with_graph):
    """The export with a graph."""
    pytest.importorskip("onnxscript", reason="needs the extra `onnx`")
    if not files_with_graph:
        assert call(capsys, export, scored, exported, "--onnx", "--overwrite")[0] == 0
        files_with_graph |= {path.name: path.read_bytes() for path in exported.iterdir()}
    for name, content in files_with_graph.items():
        (exported / name).write_bytes(content)
    return exported


@pytest.fixture(scope="module")
def small_graph(tmp_path_factory):
    """model.onnx of two layers."""
    pytest.importorskip("onnxscript", reason="needs the extra `onnx`")
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(path, small(), (1, 64, 32), {"classes": NAMES})
    return path


def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * 32, 3))


def make_run(folder, conf, backbone_file, spread):
    """A run folder with the model of `conf`, of random weights, as the stage `train` leaves it."""
    feature = features.build(**conf["feature"])
    settings = Config.from_dict(conf)
    statistics = [[-4.0] * feature.bins, [4.5] * feature.bins]
    clips = SimpleNamespace(band_means_and_deviations=lambda: statistics)
    spec = model_spec.from_config(
        settings, CLASSES, feature, clips, "ast_tiny_synth", backbone_file
    )
    model = build_model(CLASSES, **spec)
    spread(model.reprogrammer, 1)
    spread(model.head, 2)
    if model.adapter is not None:
        spread(model.adapter, 4)
    if hasattr(model.head, "fit"):
        rng = np.random.default_rng(0)
        is_embedding = model.head.input_key == "embedding"
        width = model.backbone.embed_dim if is_embedding else model.backbone.n_source
        embeddings = torch.from_numpy(rng.normal(-8, 4, (40, width))).float()
        targets = torch.from_numpy(rng.random((40, 20)))
        train = Batch(embeddings, targets, torch.ones(40, 20, dtype=torch.bool))
        model.head.fit(train, train, seed=0)
    if model.finetune:
        spread(model.backbone, 3)
        set_statistics(model, feature)
    about = {
        "config": conf,
        "classes": CLASSES,
        "feature": conf["feature"],
        "spec": spec,
        "backbone_sha256": weights.fingerprint(model.backbone),
        "trainable_parameters": 5529,
        "total_parameters": 2_857_672,
    }
    state = {"learned": model.trainable_state_dict(), "epoch": 1, "about": about}
    checkpoint.save(folder / "best.valid.macro_f1.pt", state)
    return folder


def set_statistics(model, feature):
    """Give each BatchNorm the statistics of SOUND, as training does."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model.train()(feature(torch.from_numpy(SOUND)))


def load_conf(name, lacking=("vggish",), confs=CONFS, corpus="synthetic"):
    conf = config.load(confs, name, corpus, "clean", lacking=list(lacking))
    return conf.to_dict() | {"run": IDENTITY | {"conf": name}}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*choices.confs(CONFS)} - SAME_MODEL))
def test_every_conf_predicts_alike_in_every_form(name, backbone_file, spread, tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="needs the extra `onnx`")
    conf = load_conf(name)
    folder = make_run(tmp_path / "run", conf, backbone_file, spread)
    expected = inference.load(folder)(SOUND)
    assert np.ptp(expected, axis=0).max() > 2e-5  # or the comparison would show nothing
    slim = tmp_path / "slim"
    assert call(capsys, export, folder, slim, "--onnx")[::2] == (0, "")
    card = (slim / "README.md").read_text()
    assert ("trained *reprogrammer*" in card) == (conf["reprogrammer"]["name"] != "none")
    assert ("by a transformer" in card) == (conf["backbone"]["name"] == "ast")
    if name != "ast_finetune":
        assert (slim / "model.safetensors").stat().st_size < 700_000
    assert call(capsys, export, folder, tmp_path / "merged", "--merge")[0] == 0
    for path in (slim / "model.safetensors", tmp_path / "merged"):
        model = inference.load(path, backbone_file=backbone_file)
        np.testing.assert_allclose(model(SOUND), expected, rtol=1e-6, atol=0)
    graph = inference.load(slim / "model.onnx")
    np.testing.assert_allclose(graph(SOUND), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe, name", [("magnatagatune", "student_small"), ("irmas", "multi_stft3")]
)
def test_confs_of_other_recipes_too(recipe, name, backbone_file, spread, tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="needs the extra `onnx`")
    conf = load_conf(name, confs=CONFS.parents[1] / recipe / "conf", corpus=f"{recipe}_synthetic")
    folder = make_run(tmp_path / "run", conf, backbone_file, spread)
    expected = inference.load(folder)(SOUND)
    assert np.ptp(expected, axis=0).max() > 2e-5
    assert call(capsys, export, folder, tmp_path / "out", "--onnx")[::2] == (0, "")
    for path in (tmp_path / "out", tmp_path / "out" / "model.onnx"):
        np.testing.assert_allclose(inference.load(path)(SOUND), expected, rtol=1e-4, atol=1e-7)


def test_files_are_small_and_know_no_paths(graphed, tmp_path):
    names = {path.name for path in graphed.iterdir()}
    assert names == {*export.FILES, "ast_tiny_synth.safetensors"}
    assert (graphed / "labels.txt").read_text() == "bass\nflute\nvoice\n"
    assert (graphed / "model.safetensors").stat().st_size < 20_000
    content = b"".join(path.read_bytes() for path in graphed.iterdir())
    for folder in (tmp_path.parent, CONFS.parents[2]):
        assert str(folder).encode() not in content


def test_an_earlier_export_is_replaced_only_on_request(exported, scored, tmp_path, capsys):
    (exported / "model.onnx").write_bytes(b"of the earlier one")
    (exported / "README.md").write_text("edited")
    code, _, err = call(capsys, export, scored, exported, "--merge")
    assert code == 1 and "--overwrite" in err
    assert (exported / "README.md").read_text() == "edited"
    assert call(capsys, export, scored, exported, "--merge", "--overwrite")[0] == 0
    assert not (exported / "model.onnx").exists()
    assert (exported / "model.safetensors").stat().st_size > 60_000
    (exported / "ast_tiny_synth.safetensors").unlink()
    (tmp_path / "tiny.safetensors").unlink()
    assert inference.load(exported)(SOUND).shape == (2, 3)


def test_predict_takes_each_form(graphed, scored, tmp_path, capsys):
    def probabilities(*options):
        song = tmp_path / "song.wav"
        options = [*options, "--format", "json", "--threshold", 0]
        _, out, _ = call(capsys, predict, song, *options)
        (result,) = json.loads(out)
        return {item["instrument"]: item["probability"] for item in result["instruments"]}

    soundfile.write(tmp_path / "song.wav", SOUND[0], 16_000)
    shutil.copytree(graphed, tmp_path / "graph", ignore=shutil.ignore_patterns("*.safetensors"))
    expected = probabilities("--model", scored)
    for form in (
        scored / "best.valid.macro_f1.pt",
        graphed,
        graphed / "model.safetensors",
        graphed / "model.onnx",
        tmp_path / "graph",
    ):
        assert probabilities("--model", form) == pytest.approx(expected, abs=1e-4), form
    moved = shutil.move(graphed / "ast_tiny_synth.safetensors", tmp_path / "moved.safetensors")
    found = probabilities("--model", graphed, "--backbone-file", moved)
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_graph_predicts_files_as_torch_does(graphed, tmp_path):
    paths = [tmp_path / name for name in ("a.wav", "none.wav", "b.wav")]
    soundfile.write(paths[0], np.resize(SOUND[0], 190_000), 16_000)
    soundfile.write(paths[2], SOUND[0, :6_000], 16_000)
    model = inference.load(graphed)
    graph = inference.load(graphed / "model.onnx")
    assert (graph.classes, graph.threshold) == (model.classes, model.threshold)
    for window, other in zip(
        model.predict_windows(paths, batch_size=2), graph.predict_windows(paths), strict=True
    ):
        assert (window.path, window.start_s, window.end_s) == (
            other.path,
            other.start_s,
            other.end_s,
        )
        assert str(window.error) == str(other.error)
        if window.error is None:
            np.testing.assert_allclose(other.probabilities, window.probabilities, rtol=0, atol=1e-4)


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def replace(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new))


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:-size])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: flip(path, -1), "sha256"),
        (lambda path: replace(path, b"flute", b"viola"), "sha256"),
        (lambda path: truncate(path, 9), "not a safetensors file"),
        (lambda path: path.write_bytes(b"PK\3\4 not this"), "not a safetensors file"),
        (lambda path: shutil.copy(path.with_name("ast_tiny_synth.safetensors"), path), "header"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_a_damaged_file_is_named(damage, expected, exported):
    damage(exported / "model.safetensors")
    with pytest.raises(ExportError, match=f"model.safetensors: .*{expected}"):
        inference.load(exported / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: flip(path, path.stat().st_size // 2), "sha256"),  # within the weights
        (lambda path: replace(path, b"flute", b"viola"), "sha256"),
        (lambda path: replace(path, b"sha256", b"sha257"), "another origin"),
        (lambda path: truncate(path, 999), "not an ONNX graph"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_a_damaged_graph_is_named(damage, expected, small_graph, tmp_path):
    shutil.copy(small_graph, tmp_path)
    damage(tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=f"model.onnx: .*{expected}"):
        inference.load(tmp_path / "model.onnx")


def test_class_names_beside_the_model_must_be_the_models(graphed):
    labels = graphed / "labels.txt"
    labels.write_bytes(b"bass\r\nflute\r\nvoice")  # as an editor elsewhere would leave it
    inference.load(graphed)
    for text in ("flute\nbass\nvoice\n", "bass\nflute\n"):
        labels.write_text(text)
        for form in (graphed, graphed / "model.onnx"):
            with pytest.raises(ExportError, match="labels.txt: .*bass, flute, voice"):
                inference.load(form)
    labels.unlink()
    assert inference.load(graphed).classes == NAMES


def test_the_backbone_must_be_the_right_one(exported, tiny_ast, spread, monkeypatch, tmp_path):
    file = exported / "ast_tiny_synth.safetensors"
    weights.save(spread(tiny_ast(frames=1024, depth=1), seed=5), file)
    with pytest.raises(weights.WeightsError, match="synth.safetensors: .*sha256"):
        inference.load(exported)
    file.unlink()
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "without it")
    with pytest.raises(weights.WeightsError, match="ast_tiny_synth, .*synth.safetensors"):
        inference.load(exported)


def test_another_front_end_is_refused(exported):
    state = safetensors.load(exported / "model.safetensors")
    state["about"]["feature_spec"]["window"] = "povey"
    safetensors.save(exported / "model.safetensors", state["learned"], state["about"])
    with pytest.raises(ValueError, match="model.safetensors: .*window 'povey'"):
        inference.load(exported)


def test_tensors_of_another_shape_are_refused(exported):
    state = safetensors.load(exported / "model.safetensors")
    state["learned"]["head.linear.bias"] = torch.zeros(4)
    safetensors.save(exported / "model.safetensors", state["learned"], state["about"])
    with pytest.raises(checkpoint.CheckpointError, match="(?s)model.safetensors: .*linear.bias"):
        inference.load(exported)


def test_the_card_has_the_numbers_of_the_results(exported):
    _, header, body = (exported / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["library_name"] == "ast_repr" and card["license"] == "mit"
    assert card["pipeline_tag"] == "audio-classification"
    (result,) = card["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    known = ("macro_f1", "positive_f1", "map")  # AUROC is not
    assert values == {key: RESULTS["metrics"][key] for key in known}
    assert result["dataset"] == {"type": "synthetic", "name": "synthetic", "split": "test"}
    assert "| this model | 61.6 | 50.0 | 33.3 | - |" in body
    assert "| always absent | 34.8 |" in body and "| bass | 61.6 | 25.0 | 3 | 4 |" in body
    assert "without any real recording" in body and "`ast_tiny_synth.safetensors`" in body


def test_the_card_of_a_tagger_speaks_of_tags(scored, tmp_path, capsys):
    path = scored / "best.valid.macro_f1.pt"
    state = checkpoint.load(path)
    score = {"task": "tags", "aggregate": "mean"}
    state["about"]["config"] = CONFIG | {"score": score}
    checkpoint.save(path, state)
    assert call(capsys, export, scored, tmp_path / "out", "--merge")[0] == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "\nPredicts the tags of 10 seconds" in card and "predominant" not in card


def test_a_threshold_chosen_in_scoring_is_kept(scored, tmp_path, capsys):
    path = scored / "best.valid.macro_f1.pt"
    state = checkpoint.load(path)
    state["about"]["feature"]["seconds"] = 3.0
    settings = {"aggregate": "normalised_sum", "threshold": "mixtures", "merged": []}
    state["about"]["config"] = CONFIG | {"score": settings}
    checkpoint.save(path, state)
    values = {"micro_f1": 0.512, "macro_f1": 0.25, "lrap": 0.625, "top1": 0.75}
    predominant = values | {"threshold": 0.23, "score": settings, "baselines": {"always x": values}}
    made_from = {"checkpoints": {path.name: identity.of_file(path)}}
    RunFolder(scored).write_results(RESULTS | {"predominant": predominant, "made_from": made_from})
    assert inference.load(scored).threshold == inference.load(path).threshold == 0.23
    assert call(capsys, export, scored, tmp_path / "out", "--merge")[0] == 0
    model = inference.load(tmp_path / "out")
    assert (model.threshold, model.aggregate) == (0.23, "normalised_sum")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "0.23, chosen on mixtures" in card and "predominant instruments in 3 seconds" in card
    assert "| this model | 51.2 | 25.0 | 62.5 | 75.0 |" in card and "| always x | 51.2 |" in card
    state["epoch"] = 2
    checkpoint.save(path, state)
    assert inference.load(scored).threshold == 0.5  # the results are of another checkpoint


def test_a_run_that_was_not_scored_says_so(scored, tmp_path, capsys):
    RunFolder(scored).results.unlink()
    code, out, _ = call(capsys, export, scored, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert code == 0 and "not scored" in out and "not scored" in text
    assert "model-index" not in yaml.safe_load(text.split("---\n")[1])


def test_the_code_in_the_card_runs(graphed, monkeypatch, capsys):
    pytest.importorskip("kaldi_native_fbank", reason="needs the extra `test`")
    soundfile.write(graphed / "song.wav", SOUND[0], 16_000, subtype="FLOAT")
    soundfile.write(graphed / "song.mp3", np.resize(SOUND[0], 48_000), 16_000)
    monkeypatch.chdir(graphed)
    blocks = (graphed / "README.md").read_text().split("```python\n")[1:]
    with_package, with_graph = (block.partition("```")[0] for block in blocks)
    exec(with_package, {})
    assert "'bass': " in capsys.readouterr().out
    printed = {}
    exec(with_graph.replace("print(", "printed.update("), {"printed": printed})
    # The graph's log-mel is another implementation.
    values = list(printed.values())
    np.testing.assert_allclose(values, inference.load(".")(SOUND[:1])[0], rtol=0, atol=2e-3)
    assert list(printed) == NAMES


def test_an_int8_graph_is_smaller_and_says_so(small_graph, tmp_path):
    path = tmp_path / "int8.onnx"
    difference = onnx.save(path, small(), (1, 64, 32), {"classes": NAMES}, int8=True)
    assert path.stat().st_size < 0.5 * small_graph.stat().st_size
    assert list(tmp_path.iterdir()) == [path]
    graph = onnx.Graph(path)
    assert graph.about == {"classes": NAMES, "precision": "int8"}
    features = torch.randn(5, 1, 64, 32, generator=torch.Generator().manual_seed(1))
    expected = small()(features).sigmoid().detach().numpy()
    largest = np.abs(graph(features) - expected).max()
    assert 0 < largest < 0.02 and 0 < difference < 0.02


@pytest.mark.slow
def test_predict_takes_an_int8_graph(scored, tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="needs the extra `onnx`")
    code, out, _ = call(capsys, export, scored, tmp_path / "int8", "--int8")
    assert code == 0 and "probabilities within" in out
    assert "in 8-bit integers" in (tmp_path / "int8" / "README.md").read_text()
    model = inference.load(scored)
    graph = inference.load(tmp_path / "int8" / "model.onnx")
    assert (model.precision, graph.precision) == ("float32", "int8")
    assert graph.classes == model.classes
    np.testing.assert_allclose(graph(SOUND), model(SOUND), rtol=0, atol=0.02)


def test_a_wrong_graph_is_not_kept(small_graph, monkeypatch):
    content = small_graph.read_bytes()
    monkeypatch.setattr(onnx, "_verify", lambda program, features: 2e-4)
    with pytest.raises(ExportError, match="differ by 0.0002"):
        onnx.save(small_graph, small(), (1, 64, 32), {"classes": []})
    assert small_graph.read_bytes() == content and not list(small_graph.parent.glob(".*"))


def test_a_model_without_a_graph_is_named(tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra `onnx`")

    class Branching(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, : 2 if x.sum() > 0 else 3]

    with pytest.raises(ExportError, match="without --onnx"):
        onnx.save(tmp_path / "model.onnx", Branching(), (1, 64, 32), {"classes": []})


def test_a_missing_package_is_named(small_graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"onnxruntime .*\.\[onnx\]"):
        inference.load(small_graph)


def test_a_run_that_cannot_be_exported_is_named(scored, backbone_file, spread, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for out in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex"):
        code, _, err = call(capsys, export, scored, out)
        assert code == 1 and "thesis.tex" in err
    out = tmp_path / "out"
    folder = make_run(tmp_path / "vggish", load_conf("attention", ()), backbone_file, spread)
    code, _, err = call(capsys, export, folder, out)
    assert code == 1 and "vggish" in err and not out.exists()
    RunFolder(scored).results.write_text("{")
    code, _, err = call(capsys, export, scored, out)
    assert code == 1 and "results.json: damaged" in err and not out.exists()
    (scored / "best.valid.macro_f1.pt").rename(scored / "epoch.001.pt")
    code, _, err = call(capsys, export, scored, out)
    assert code == 1 and "no best.*.pt" in err and err.count("\n") == 1


class FakeApi:
    """Stands in for huggingface_hub.HfApi."""

    def __init__(self):
        self.repos = []
        self.uploaded = []
        self.error = None

    def create_repo(self, repo, exist_ok):
        if self.error:
            raise self.error
        self.repos.append(repo)
        return f"https://huggingface.co/{repo}"

    def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
        self.uploaded = sorted(
            path.name for path in Path(folder_path).iterdir() if path.name in allow_patterns
        )


@pytest.fixture
def api(monkeypatch):
    fake = FakeApi()
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    return fake


@pytest.mark.parametrize(
    ("options", "answer", "uploads"),
    [(["--yes"], "", True), ([], "y\n", True), ([], "\n", False), ([], "", False)],
)
def test_nothing_is_uploaded_unasked(
    options, answer, uploads, api, scored, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    push = ["--push-to-hub", "me/model", *options]
    code, out, err = call(capsys, export, scored, tmp_path / "out", *push)
    assert ("[y/N]" in out) == (not options)
    if uploads:
        assert code == 0 and "https://huggingface.co/me/model" in out
        assert api.repos == ["me/model"]
        assert api.uploaded == ["README.md", "labels.txt", "model.safetensors"]
    else:
        assert code == 1 and "--yes" in err and err.count("\n") == 1
        assert not api.repos and not api.uploaded
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_an_upload_that_fails_is_one_line(api, tmp_path):
    api.error = KeyError("of the hub's own kinds")
    with pytest.raises(RuntimeError, match="me/model: not uploaded .*hf auth login"):
        hub.push([tmp_path / "model.safetensors"], "me/model")
