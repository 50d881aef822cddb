"""A run handed on: every form of it says what the run says, damage is named in one line, the card's numbers are the results'."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from test_confs import CLASSES, CONFS, SHIPPED
from test_report import make_run

import export
import predict
from ast_repr import checkpoint, cli, config, features, inference, model_spec
from ast_repr.backbones import weights
from ast_repr.classifier import build_model
from ast_repr.export import model_card, onnx, safetensors

SOUND = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 24_000)).astype(np.float32) * np.float32(
    [[1], [0.01]]
)
NAMES = ["bass", "flute", "voice"]  # classes of the run folder


def tell(capsys, *arguments):
    """(exit code, standard output, error output) of the script."""
    code = 0
    try:
        cli.run(export.main, export.parse(), [*map(str, arguments)])
    except SystemExit as left:
        code = left.code
    return code, *capsys.readouterr()


def make(folder, conf, backbone_file, spread):
    """A run folder with the model that `conf` describes, of random weights, as the stage `train` leaves it."""
    feature = features.build(**conf["feature"])
    spec = model_spec.from_config(conf, CLASSES, feature, None, "ast_tiny_synth", backbone_file)
    model = build_model(CLASSES, **spec)
    spread(model.reprogrammer, 1), spread(model.head, 2)
    if hasattr(model.head, "fit"):
        rng = np.random.default_rng(0)
        model.head.fit(
            rng.normal(-8, 4, (40, model.backbone.embed_dim)),
            rng.random((40, 20)),
            np.ones((40, 20), bool),
            0,
        )
    if model.finetune:
        spread(model.backbone, 3)
    about = {
        "config": conf,
        "classes": CLASSES,
        "feature": conf["feature"],
        "spec": spec,
        "backbone_sha256": weights.fingerprint(model.backbone),
        "trainable_parameters": 5529,
        "total_parameters": 2_857_672,
    }
    checkpoint.save(
        folder / "best.valid.macro_f1.pt",
        {"learned": model.trainable_state_dict(), "epoch": 1, "about": about},
    )
    return folder


def conf_of(name):
    identity = {
        "corpus": "synthetic",
        "backbone": "ast_tiny_synth",
        "weights_sha256": "ab" * 32,
        "conf": name,
        "seed": 0,
    }
    return config.load(SHIPPED, name, "synthetic", "clean", lacking=["vggish"]) | {"run": identity}


@pytest.fixture
def scored(run):
    """The tiny run of conftest, with a config and results."""
    path, conf = run[0] / "best.valid.macro_f1.pt", conf_of("ast_unet")
    state = checkpoint.load(path)
    state["about"] |= {"config": conf, "trainable_parameters": 5529, "total_parameters": 30_000}
    checkpoint.save(path, state)
    constant_baselines = {
        name: scores(value) for name, value in (("always_absent", 0.348), ("always_present", 0.299))
    }
    folder = make_run(
        run[0].parent / "synthetic",
        classes=NAMES,
        metrics=scores(0.6161044339524493),
        constant_baselines=constant_baselines,
    )
    shutil.copy(folder / "results.json", run[0])
    return run[0]


def scores(value):
    one = {
        "macro_f1": value,
        "positive_f1": None,
        "absent_f1": 0.5,
        "ap": 0.25,
        "auroc": None,
        "present": 3,
        "absent": 4,
    }
    return {
        "macro_f1": value,
        "positive_f1": 0.5,
        "map": 1 / 3,
        "auroc": None,
        "per_instrument": dict.fromkeys(NAMES, one),
    }


@pytest.fixture
def exported(scored, tmp_path, capsys, request):
    """The tiny run's export, with its backbone beside it; for tests marked so, with a graph."""
    options = ["--onnx"] if "graphed" in request.fixturenames else []
    assert tell(capsys, scored, tmp_path / "out", *options)[::2] == (0, "")
    shutil.copy(tmp_path / "tiny.safetensors", tmp_path / "out" / "ast_tiny_synth.safetensors")
    return tmp_path / "out"


@pytest.fixture
def graphed():
    """Asks `exported` for a graph, which takes seconds."""


@pytest.fixture(scope="module")
def small_graph(tmp_path_factory):
    """model.onnx of two layers."""
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(path, small(), (1, 64, 32), {"classes": NAMES})
    return path


def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * 32, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFS)
def test_every_row_says_the_same_in_every_form(name, backbone_file, spread, tmp_path, capsys):
    folder = make(tmp_path / "run", conf_of(name), backbone_file, spread)
    expected = inference.load(folder)(SOUND)
    assert (
        np.ptp(expected, axis=0).max() > 2e-5
    )  # random weights: one clip is little unlike another, but more than the forms are
    code, out, err = tell(capsys, folder, tmp_path / "slim", "--onnx")
    assert (code, err) == (0, "")
    told, conf = (tmp_path / "slim" / "README.md").read_text(), conf_of(name)
    assert ["trained *reprogrammer*" in told, "by a transformer" in told] == [
        conf["reprogrammer"]["name"] != "none",
        conf["backbone"]["name"] == "ast",
    ]
    slim = tmp_path / "slim" / "model.safetensors"
    if (
        not inference.restore(folder / "best.valid.macro_f1.pt")[0].finetune
        and name != "cnn_only_released"
    ):
        assert slim.stat().st_size < 700_000
    assert tell(capsys, folder, tmp_path / "merged", "--merge")[0] == 0
    for path in (slim, tmp_path / "merged"):
        np.testing.assert_allclose(
            inference.load(path, backbone_file=backbone_file)(SOUND), expected, rtol=1e-6, atol=0
        )
    np.testing.assert_allclose(
        inference.load(tmp_path / "slim" / "model.onnx")(SOUND), expected, rtol=1e-4, atol=1e-7
    )


def test_what_is_written_and_how_large_it_is(graphed, exported, scored, tmp_path, capsys):
    assert {path.name for path in exported.iterdir()} == {
        "README.md",
        "labels.txt",
        "model.onnx",
        "model.safetensors",
        "ast_tiny_synth.safetensors",
    }
    assert (exported / "labels.txt").read_text() == "bass\nflute\nvoice\n"
    assert (exported / "model.safetensors").stat().st_size < 20_000
    content = b"".join(path.read_bytes() for path in exported.iterdir())
    assert (
        str(tmp_path).encode() not in content
        and str(Path(export.__file__).parents[1]).encode() not in content
    )
    (exported / "README.md").write_text("edited")
    code, _, err = tell(capsys, scored, exported, "--merge")
    assert code == 1 and "exists already" in err and "--overwrite" in err
    assert (exported / "README.md").read_text() == "edited"
    # Again, over the old one, with the backbone beside it.
    assert tell(capsys, scored, exported, "--merge", "--overwrite")[0] == 0
    (exported / "ast_tiny_synth.safetensors").unlink()
    assert (
        not (exported / "model.onnx").exists()
        and (exported / "model.safetensors").stat().st_size > 60_000
    )
    shutil.rmtree(scored), (tmp_path / "tiny.safetensors").unlink()
    assert inference.load(exported)(SOUND).shape == (2, 3)


def test_predict_takes_each_form(graphed, exported, scored, tmp_path, capsys):
    def probabilities(*options):
        cli.run(
            predict.main,
            predict.parse(),
            [
                *map(str, options),
                "--format",
                "json",
                "--threshold",
                "0",
                str(tmp_path / "song.wav"),
            ],
        )
        (found,) = json.loads(capsys.readouterr().out)
        return {one["instrument"]: one["probability"] for one in found["instruments"]}

    soundfile.write(tmp_path / "song.wav", SOUND[0], 16_000)
    shutil.copytree(exported, tmp_path / "graph", ignore=shutil.ignore_patterns("*.safetensors"))
    expected = probabilities("--model", scored)
    for form in (
        scored / "best.valid.macro_f1.pt",
        exported,
        exported / "model.safetensors",
        exported / "model.onnx",
        tmp_path / "graph",
    ):
        assert probabilities("--model", form) == pytest.approx(expected, abs=1e-4), form
    moved = shutil.move(exported / "ast_tiny_synth.safetensors", tmp_path / "moved.safetensors")
    assert probabilities("--model", exported, "--backbone-file", moved) == pytest.approx(
        expected, abs=1e-6
    )


def test_a_graph_listens_as_torch_does(graphed, exported, tmp_path):
    paths = [tmp_path / name for name in ("a.wav", "none.wav", "b.wav")]
    for path, samples in zip(paths[::2], (190_000, 6_000)):
        soundfile.write(path, np.resize(SOUND[0], samples), 16_000)
    model, other_model = inference.load(exported), inference.load(exported / "model.onnx")
    assert other_model.classes == model.classes and other_model.threshold == model.threshold == 0.5
    for one, other in zip(
        model.predict_files(paths, batch_size=2), other_model.predict_files(paths), strict=True
    ):
        assert (one.path, one.start_s, one.end_s, str(one.error)) == (
            other.path,
            other.start_s,
            other.end_s,
            str(other.error),
        )
        if one.error is None:
            np.testing.assert_allclose(other.probabilities, one.probabilities, rtol=0, atol=1e-4)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: flip(path, -1), "sha256 .*changed or damaged; fetch"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b"flute", b"viola")),
            "sha256 .*changed or damaged; fetch",
        ),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-9]),
            "truncated or not a safetensors file",
        ),
        (lambda path: path.write_bytes(b"PK\3\4 not this"), "truncated or not a safetensors file"),
        (
            lambda path: shutil.copy(path.with_name("ast_tiny_synth.safetensors"), path),
            "without the header of an exported model",
        ),
        (lambda path: path.unlink(), "no such file, expected an exported model"),
    ],
)
def test_a_damaged_file_is_named(damage, expected, exported):
    damage(exported / "model.safetensors")
    with pytest.raises(safetensors.ReleaseError, match=f"model.safetensors: .*{expected}"):
        inference.load(exported / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda path: flip(path, path.stat().st_size // 2),
            "sha256 .*changed or damaged; fetch",
        ),  # in the middle of the weights
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b"flute", b"viola")),
            "sha256 .*changed or damaged; fetch",
        ),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b"sha256", b"sha257")),
            "a graph of another origin",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:-999]), "not an ONNX graph"),
        (lambda path: path.unlink(), "No such file .*expected an exported model"),
    ],
)
def test_a_damaged_graph_is_named(damage, expected, small_graph, tmp_path):
    shutil.copy(small_graph, tmp_path)
    damage(tmp_path / "model.onnx")
    with pytest.raises(onnx.GraphError, match=f"model.onnx: .*{expected}"):
        inference.load(tmp_path / "model.onnx")


def test_class_names_beside_the_model_must_be_its_own(graphed, exported):
    labels = exported / "labels.txt"
    labels.write_bytes(b"bass\r\nflute\r\nvoice")  # as an editor elsewhere would leave it
    inference.load(exported)
    for text in ("flute\nbass\nvoice\n", "bass\nflute\n"):
        labels.write_text(text)
        for form in (exported, exported / "model.onnx"):
            with pytest.raises(
                safetensors.ReleaseError,
                match="labels.txt: found .*the model's classes are bass, flute, voice, in this order",
            ):
                inference.load(form)
    labels.unlink()
    assert inference.load(exported).classes == ["bass", "flute", "voice"]


def test_the_backbone_must_be_there_and_the_right_one(
    exported, tiny_ast, spread, monkeypatch, tmp_path
):
    file = exported / "ast_tiny_synth.safetensors"
    weights.save(spread(tiny_ast(frames=1024, depth=1), seed=5), file)
    with pytest.raises(
        weights.WeightsError,
        match="synth.safetensors: the backbone's tensors have sha256 .*pass the right file",
    ):
        inference.load(exported)
    file.unlink()
    monkeypatch.setattr(inference.pretrained, "FOLDER", tmp_path / "installed without it")
    with pytest.raises(
        weights.WeightsError,
        match="no weights of the backbone ast_tiny_synth, expected at .*synth.safetensors; pass their file",
    ):
        inference.load(exported)


def test_another_front_end_is_refused(exported):
    state = safetensors.load(exported / "model.safetensors")
    state["about"]["feature_spec"]["window"] = "povey"
    safetensors.save(exported / "model.safetensors", state["learned"], state["about"])
    with pytest.raises(
        ValueError, match="model.safetensors: .*front end's window 'povey'.*use the version"
    ):
        inference.load(exported)


def test_tensors_of_another_shape_are_refused(exported):
    state = safetensors.load(exported / "model.safetensors")
    state["learned"]["head.linear.bias"] = torch.zeros(4)
    safetensors.save(exported / "model.safetensors", state["learned"], state["about"])
    with pytest.raises(
        checkpoint.CheckpointError, match="(?s)model.safetensors: .*head.linear.bias"
    ):
        inference.load(exported)


def test_the_cards_header_says_what_the_results_say(exported, scored):
    _, head, body = (exported / "README.md").read_text().split("---\n", 2)
    found, results = yaml.safe_load(head), json.loads((scored / "results.json").read_text())
    assert (
        found["library_name"] == "ast_repr"
        and found["pipeline_tag"] == "audio-classification"
        and found["license"] == "mit"
    )
    (result,) = found["model-index"][0]["results"]
    values = {one["type"]: one["value"] for one in result["metrics"]}
    assert values == {
        key: results["metrics"][key] for key in ("macro_f1", "positive_f1", "map")
    }  # AUROC is not known
    assert result["dataset"] == {"type": "synthetic", "name": "synthetic", "split": "test"}
    assert "| this model | 61.6 | 50.0 | 33.3 | - |" in body and "| always absent | 34.8 |" in body
    assert "no real recording" in body and "beside it as `ast_tiny_synth.safetensors`" in body


def test_a_run_that_was_not_scored_says_so(scored, tmp_path, capsys):
    (scored / "results.json").unlink()
    code, out, _ = tell(capsys, scored, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert code == 0 and "the run was not scored" in out and "This run was not scored" in text
    assert "model-index" not in yaml.safe_load(text.split("---\n")[1])


def test_the_cards_code_runs(graphed, exported, tmp_path, monkeypatch, capsys):
    soundfile.write(exported / "song.wav", SOUND[0], 16_000, subtype="FLOAT")
    soundfile.write(exported / "song.mp3", np.resize(SOUND[0], 48_000), 16_000)
    monkeypatch.chdir(exported)
    with_package, with_graph = (
        part.partition("```")[0]
        for part in (exported / "README.md").read_text().split("```python\n")[1:]
    )
    assert len(with_package.splitlines()) == 3
    exec(with_package, {})
    told = {}
    exec(with_graph.replace("print(", "told.update("), {"told": told})
    expected = inference.load(".")(SOUND[:1])[0]
    np.testing.assert_allclose(
        list(told.values()), expected, rtol=0, atol=2e-3
    )  # of another implementation of the log-mel
    assert list(told) == NAMES and "'bass': " in capsys.readouterr().out


def test_a_wrong_graph_is_not_left(small_graph, monkeypatch):
    """onnxruntime says something else than torch."""
    old = small_graph.read_bytes()
    monkeypatch.setattr(
        onnx.Graph,
        "__call__",
        lambda self, x: self.session.run(None, {"features": x.numpy()})[0] + np.float32(2e-4),
    )
    with pytest.raises(onnx.GraphError, match="not written, its probabilities differ by 0.0002"):
        onnx.save(small_graph, small(), (1, 64, 32), {"classes": []})
    assert small_graph.read_bytes() == old and not list(small_graph.parent.glob(".*"))


def test_a_model_without_a_graph_is_named(tmp_path):
    class Branching(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, : 2 if x.sum() > 0 else 3]

    with pytest.raises(onnx.GraphError, match="no ONNX graph .*export it without --onnx"):
        onnx.save(tmp_path / "model.onnx", Branching(), (1, 64, 32), {"classes": []})


def test_a_missing_package_is_named(small_graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        onnx.GraphError,
        match="onnxruntime is not installed, .*install it by: pip install 'ast_repr.onnx.'",
    ):
        inference.load(small_graph)


def test_what_cannot_be_exported_is_named(scored, backbone_file, spread, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    code, _, err = tell(capsys, scored, tmp_path / "mine")
    assert code == 1 and "mine: holds thesis.tex, expected a new folder or an earlier export" in err
    assert (
        "thesis.tex: a file, expected a new folder"
        in tell(capsys, scored, tmp_path / "mine" / "thesis.tex")[2]
    )
    conf = config.load(SHIPPED, "attention", "openmic") | {"run": conf_of("attention")["run"]}
    code, _, err = tell(
        capsys, make(tmp_path / "vggish", conf, backbone_file, spread), tmp_path / "out"
    )
    assert code == 1 and "take a model trained on logmel" in err and not (tmp_path / "out").exists()
    (scored / "best.valid.macro_f1.pt").rename(scored / "epoch.001.pt")
    code, _, err = tell(capsys, scored, tmp_path / "out")
    assert (
        code == 1
        and "no best.*.pt; expected the folder of a finished run" in err
        and err.count("\n") == 1
    )
    with pytest.raises(model_card.ResultsError, match="results.json: damaged"):
        (scored / "results.json").write_text("{")
        model_card.read(scored)
