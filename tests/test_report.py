"""The report's tables: what differs or is damaged is left out, with the reason."""

import csv
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import call
from report_runs import CLASSES, CONFS, PUBLISHED, entries, lines_of, make_run, run, scores

import report
from ast_repr import choices, config, identity
from ast_repr.report import compare, overview, pages, plots, published, results, schema, tables

ROOT = Path(__file__).parents[1]
CONF_DIR = ROOT / "egs" / "openmic" / "conf"
OTHER_WEIGHTS = {"name": "tiny", "weights": "pretrained", "sha256": "cd" * 32}


def left_out(exp):
    """The only reason why something in `exp` is left out."""
    _, (reason,) = results.read(exp)
    return reason


def grids(table):
    """The two tables of a page's beginning: accuracy and complexity."""
    accuracy, costs = [block for block in pages.blocks(table) if isinstance(block, list)]
    return accuracy, costs


def test_numbers_are_mean_and_deviation_over_seeds(tmp_path):
    values = [0.701, 0.743, 0.688]
    for seed, value in enumerate(values):
        make_run(tmp_path / "synthetic", seed=seed, value=value)
    make_run(tmp_path / "synthetic", "ast_linear", value=0.612)
    (table,), left_out = results.read(tmp_path / "synthetic")
    assert left_out == []
    text = pages.text(pages.blocks(table))
    mean, deviation = 100 * sum(values) / 3, 100 * statistics.stdev(values)
    unet = lines_of(text, "ast_unet")[0]
    assert unet[1:5] == ["none", "5,125", "2", f"{mean:.1f} ± {deviation:.1f} (3)"]
    assert unet[5:7] == [f"{value:.1f} ± {deviation:.1f}" for value in (mean - 10, mean - 20)]
    assert unet[7:] == ["50.0 ± 0.0"]
    assert lines_of(text, "ast_unet")[1][1:] == [
        "5,125",
        "2,860,000",
        "2.31 G",
        "31.0",
        "3",
        "93 s",
    ]
    assert lines_of(text, "ast_linear")[0][4] == "61.2 (1)"


def test_the_cost_of_a_student_stands_beside_its_teachers(tmp_path):
    make_run(tmp_path / "synthetic", "ast_linear")
    make_run(tmp_path / "synthetic", "kd_ast", teacher_macs=7_100_000)
    (table,), _ = results.read(tmp_path / "synthetic")
    _, costs = grids(table)
    macs = {line["method"]: line["teacher's MAC per clip"] for line in costs}
    assert macs == {"ast_linear": "-", "kd_ast": "7.1 M"}
    (alone,) = tables.complexity(table.only(["ast_linear"]))
    assert "teacher's MAC per clip" not in alone


def test_baselines_come_first_then_methods_by_reprogrammer_and_parameters(tmp_path):
    for conf in CONFS:
        make_run(tmp_path / "synthetic", conf)
    (table,), _ = results.read(tmp_path / "synthetic", entries(ast_unet="AST-URP"))
    (accuracy, _) = grids(table)
    names = [line["method"] for line in accuracy]
    assert names[:2] == ["always absent", "always present"]
    assert names[2:] == ["ast_linear", "AST-URP (ast_unet)", "ast_noise"]
    assert lines_of(pages.text(pages.blocks(table)), "always absent")[0][4:6] == ["34.8", "24.8"]


def test_a_table_is_explained_before_it_is_shown(tmp_path):
    make_run(tmp_path / "synthetic", "ast_unet")
    known = {"ast_unet": published.Entry("AST-URP", "a U-Net before the AST")}
    (table,), _ = results.read(tmp_path / "synthetic", known)
    for page in (pages.text(pages.blocks(table)), pages.markdown(pages.blocks(table))):
        page = " ".join(page.split())
        explanation, _, _ = page.partition("trained parameters")
        words = ["AST-URP: a U-Net before the AST", "norm:", "'always absent'", "macro-F1:"]
        for word in [*words, "pos. F1:", "mAP:", "AUROC:"]:
            assert word in explanation
        assert page.index("MAC:") < page.index("2.31 G")


def test_methods_are_sorted_by_kind(tmp_path):
    none = {"name": "tiny", "weights": "none", "sha256": None}
    make_run(
        tmp_path / "synthetic", "ast_finetune", reprogrammer="none", trainable_parameters=2_860_000
    )
    make_run(tmp_path / "synthetic", "ast_unet")
    make_run(
        tmp_path / "synthetic",
        "ast_zero_shot",
        reprogrammer="none",
        trainable_parameters=0,
        macs=1,
        epochs=0,
    )
    make_run(
        tmp_path / "synthetic",
        "attention",
        reprogrammer="none",
        trainable_parameters=55_336,
        total_parameters=55_336,
        backbone=none,
    )
    make_run(
        tmp_path / "synthetic",
        "forest",
        reprogrammer="none",
        trainable_parameters=0,
        macs=None,
        backbone=none,
    )
    make_run(
        tmp_path / "synthetic",
        "unet_only",
        reprogrammer="unet",
        trainable_parameters=18_201,
        backbone=none,
    )
    (table,), _ = results.read(tmp_path / "synthetic")
    assert table.confs == [
        "forest",
        "unet_only",
        "attention",
        "ast_zero_shot",
        "ast_unet",
        "ast_finetune",
    ]
    assert [method.kind for method in table.methods] == [
        results.KINDS[k] for k in (0, 0, 0, 1, 2, 4)
    ]
    assert lines_of(pages.text(pages.blocks(table)), "forest")[1][3] == "-"  # multiply-accumulates


def test_the_main_table_holds_no_variants(tmp_path):
    for conf in ("ast_linear", "ast_linear+input.norm=corpus", "ast_unet+a.b=1+c.d=x"):
        make_run(tmp_path / "synthetic", conf)
    (table,), _ = results.read(tmp_path / "synthetic", entries(ast_unet="AST-URP"))
    assert table.main.confs == ["ast_linear"] and len(table.methods) == 3
    variant = table.only(["ast_unet+a.b=1+c.d=x"]).methods[0]
    assert (variant.base_conf, variant.label) == ("ast_unet", "ast_unet+a.b=1+c.d=x")
    lines = csv.DictReader(tables.per_instrument([table]).splitlines())
    assert {line["conf"] for line in lines} == {*schema.BASELINES, *table.confs}


def test_the_command_that_started_a_run_is_printed(tmp_path):
    command = "source run.sh --manifest '/music/my songs.csv' --conf ast_linear,ast_unet"
    for conf in ("ast_linear", "ast_unet"):
        folder = make_run(tmp_path / "songs", conf, command=command)
    make_run(tmp_path / "songs", "ast_noise", command="python train.py")
    (table,), _ = results.read(tmp_path / "songs")
    page = pages.markdown(pages.blocks(table))
    assert page.count(command) == page.count("python train.py") == 1
    (folder / "command.txt").write_text(f"{command}\n")
    (folder / "results.json").write_text("{}")
    assert left_out(tmp_path / "songs").endswith(command)


@pytest.mark.parametrize("key", ["feature", "macs", "label_fraction", "command"])
def test_results_of_an_older_form_are_to_be_scored_again(tmp_path, key):
    path = make_run(tmp_path / "synthetic") / "results.json"
    found = json.loads(path.read_text())
    del found[key]
    path.write_text(json.dumps(identity.seal(found)))
    reason = left_out(tmp_path / "synthetic")
    assert reason.startswith(f"{path}: ") and key in reason and "stage score" in reason


COPY = {"clips": 5_085, "observed": 10_522}  # of OpenMIC-2018's test split


def test_text_fits_the_terminal(tmp_path):
    source = replace(PUBLISHED, source="A source " * 20)
    known = {"ast_finetune": published.Entry("A name that is long " * 4, "Words " * 40, source)}
    for seed in range(3):
        make_run(tmp_path / "openmic", "ast_finetune", seed, trainable_parameters=86_204_180)
    (table,), _ = results.read(tmp_path / "openmic", known)
    text = pages.text(pages.blocks(table))
    assert max(map(len, text.splitlines())) <= pages.WIDTH
    assert "86,204,180" in text and "AUROC" in text


@pytest.mark.parametrize(("corpus", "counts"), [("openmic", {}), ("my_copy", COPY)])
def test_published_numbers_name_their_source(tmp_path, corpus, counts):
    known = {conf: published.Entry(conf, published=PUBLISHED) for conf in CONFS}
    for conf in (*CONFS, "mine"):
        make_run(tmp_path / corpus, conf, **counts)
    (table,), _ = results.read(tmp_path / corpus, known)
    accuracy, costs = grids(table)
    macro_f1 = sorted(line[tables.PUBLISHED] for line in accuracy)
    assert macro_f1 == ["-"] * 3 + ["81.0 (2) [1]"] * 3
    parameters = sorted(line[tables.PUBLISHED_PARAMETERS] for line in costs)
    assert parameters == ["-"] + ["0.018 M [1]"] * 3
    (note,) = tables.footnotes(table)
    assert note in pages.text(pages.blocks(table)).replace("\n", " ")
    assert all(word in note for word in ("The paper", "chosen on test", "OpenMIC-2018"))


def test_published_mean_average_precision_has_its_own_column(tmp_path):
    entry = published.Entry("EAsT", published=replace(PUBLISHED, macro_f1=None, map=[84.7]))
    for conf in CONFS:
        make_run(tmp_path / "openmic", conf)
    (table,), _ = results.read(tmp_path / "openmic", {"ast_unet": entry})
    accuracy, _ = grids(table)
    shown = [line[tables.PUBLISHED_MAP] for line in accuracy]
    assert sorted(shown) == ["-"] * 4 + ["84.7 (1) [1]"]
    assert all(tables.PUBLISHED not in line for line in accuracy)
    overview.boxes(table)  # has no place for it


def test_the_best_source_classes_have_their_own_table(tmp_path):
    make_run(tmp_path / "openmic", "ast_linear")
    (table,), _ = results.read(tmp_path / "openmic")
    assert not tables.best_sources(table)
    sources = dict(zip(CLASSES, ["Accordion", "Banjo|", "Speech"], strict=True))
    for seed, value in enumerate([0.6, 0.7]):
        make_run(tmp_path / "openmic", "ast_best_source", seed, value, best_sources=sources)
    (table,), _ = results.read(tmp_path / "openmic")
    _, lines, _ = [block for block in pages.blocks(table) if isinstance(block, list)]
    assert {line["instrument"]: line["source class"] for line in lines} == sources
    assert lines[0]["AP %"] == "65.0 ± 7.1" and tables.TRUTH_AP not in lines[0]
    assert "Banjo\\|" in pages.table_markdown(lines)


@pytest.mark.parametrize("corpus", ["synthetic", "songs", "openmic-mini"])
def test_numbers_of_publications_stand_beside_no_other_corpus(tmp_path, corpus):
    make_run(tmp_path / corpus)
    known = {"ast_unet": published.Entry("AST-URP", published=PUBLISHED)}
    (table,), _ = results.read(tmp_path / corpus, known)
    for page in (pages.text(pages.blocks(table)), pages.markdown(pages.blocks(table))):
        assert "published" not in page.lower() and "The paper" not in page


def test_methods_are_named_by_their_network_and_publications_speak_of_ast(tmp_path):
    shipped = published.read(CONF_DIR / "published.yaml")
    shown = {}
    for name in ("ast_audioset", "musicnn_msd"):
        backbone = OTHER_WEIGHTS | {"name": name}
        make_run(tmp_path / name / "openmic", "ast_unet", backbone=backbone)
        backbone |= {"weights": "none", "sha256": None}
        make_run(tmp_path / name / "openmic", "unet_only", backbone=backbone)
        (table,), _ = results.read(tmp_path / name / "openmic", shipped)
        shown[name] = {m.name: table.published(m) is not None for m in table.methods}
    assert shown["ast_audioset"] == {"U-Net only": True, "AST-URP": True}
    assert shown["musicnn_msd"] == {"U-Net only": True, "musicnn-URP": False}


def test_the_shipped_entries_are_of_shipped_confs():
    shipped = published.read(CONF_DIR / "published.yaml")
    assert shipped.keys() <= set(choices.confs(CONF_DIR))
    assert shipped["forest"].of_run("vggish", "ast").name == "RF (VGGish)"
    for conf, entry in shipped.items():
        entry = entry.of_run("musicnn_mel", "musicnn")
        assert "{" not in entry.name + entry.description
        has_teacher = config.load(CONF_DIR, conf).teacher is not None  # its name stays
        assert has_teacher or "AST" not in entry.name + entry.description


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[", "YAML"),
        ("[ast_unet]", "entries"),
        ("ast_unet: AST-URP", "ast_unet"),
        ("ast_unet: {nmae: AST-URP}", "ast_unet.name"),
        ("ast_unet: {description: words}", "ast_unet.name"),
        ("ast_unet: {name: a, published: {macro_f1: [81]}}", "ast_unet.published.source"),
        (
            "ast_unet: {name: a, published: {source: s, corpus: c, protocol: p, macro_f1: [x]}}",
            "ast_unet.published.macro_f1",
        ),
    ],
)
def test_unusable_published_results_are_refused_by_key(tmp_path, text, named):
    path = tmp_path / "published.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=named) as caught:
        published.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "other", [{"protocol": "paper"}, {"backbone": OTHER_WEIGHTS | {"name": "base"}}], ids=str
)
def test_protocols_and_backbones_never_share_a_table(tmp_path, other):
    make_run(tmp_path / "synthetic", "ast_linear")
    make_run(tmp_path / "synthetic", "ast_unet", **other)
    found, _ = results.read(tmp_path / "synthetic")
    assert sorted(table.confs for table in found) == [["ast_linear"], ["ast_unet"]]
    assert len({table.title for table in found}) == len({table.stem for table in found}) == 2


def test_position_embeddings_of_another_stride_are_of_the_same_weights(tmp_path):
    make_run(tmp_path / "synthetic", "ast_unet")
    make_run(tmp_path / "synthetic", "ast_linear", backbone=OTHER_WEIGHTS | {"stride": 20})
    (table,), left_out = results.read(tmp_path / "synthetic")
    assert sorted(table.confs) == ["ast_linear", "ast_unet"] and left_out == []


def test_random_frozen_weights_stand_beside_pretrained_ones_and_say_so(tmp_path):
    make_run(tmp_path / "synthetic", "ast_linear")
    for seed in (0, 1):
        backbone = {"name": "tiny", "weights": "random", "sha256": str(seed) * 64}
        make_run(
            tmp_path / "synthetic",
            "ast_linear_r",
            seed,
            reprogrammer="none",
            trainable_parameters=4265,
            backbone=backbone,
        )
    (table,), _ = results.read(tmp_path / "synthetic")
    assert [method.name for method in table.methods] == [
        "ast_linear",
        "ast_linear_r, random frozen weights",
    ]


@pytest.mark.parametrize(
    ("key", "value"), [("clips", 249), ("threshold", 0.4), ("backbone", OTHER_WEIGHTS)]
)
def test_a_run_scored_on_other_labels_or_weights_is_left_out(tmp_path, key, value):
    make_run(tmp_path / "synthetic", "ast_linear")
    make_run(tmp_path / "synthetic", "ast_noise")
    odd = make_run(tmp_path / "synthetic", "ast_cnn", **{key: value})
    (table,), (reason,) = results.read(tmp_path / "synthetic")
    assert table.confs == ["ast_linear", "ast_noise"]
    assert reason.startswith(f"{odd / 'results.json'}: {key}") and "not comparable" in reason


def test_seeds_of_a_conf_with_other_settings_are_left_out(tmp_path):
    for seed, norm in enumerate(("corpus", "none", "none")):
        make_run(tmp_path / "synthetic", seed=seed, norm=norm)
    (table,), (reason,) = results.read(tmp_path / "synthetic")
    assert [run["seed"] for run in table.runs] == [1, 2] and "seed0/results.json: norm" in reason


def test_a_run_that_is_not_scored_yet_is_left_out_and_named(tmp_path):
    make_run(tmp_path / "synthetic")
    waiting = make_run(tmp_path / "synthetic", seed=1)
    (waiting / "results.json").unlink()
    (table,), (reason,) = results.read(tmp_path / "synthetic")
    assert len(table.runs) == 1 and reason.startswith(str(waiting))


def test_no_runs_is_an_error(tmp_path):
    with pytest.raises(results.ResultsError, match="no such folder"):
        results.read(tmp_path / "synthetic")
    (tmp_path / "synthetic").mkdir()
    with pytest.raises(results.ResultsError, match="no run"):
        results.read(tmp_path / "synthetic")


def damage(text):
    whole = json.loads(text)
    return {
        "empty": "",
        "truncated": text[: len(text) // 2],
        "a list": "[]",
        "binary": "\x00\xff",
        "not finite": text.replace("93.1", "NaN"),
        "a key less": json.dumps({key: whole[key] for key in list(whole)[1:]}),
        "deep": "[" * 100_000,
        "another number": json.dumps(whole | {"label_fraction": 0.9}),
    }


@pytest.mark.parametrize("kind", damage("{}"))
def test_damaged_results_are_left_out_with_a_remedy(tmp_path, kind):
    make_run(tmp_path / "synthetic", "ast_linear")
    path = make_run(tmp_path / "synthetic", "ast_unet", 1) / "results.json"
    path.write_text(damage(path.read_text())[kind])
    (table,), (reason,) = results.read(tmp_path / "synthetic")
    assert table.confs == ["ast_linear"]
    assert reason.startswith(f"{path}: ") and "\n" not in reason
    assert "stage score" in reason


def test_a_copied_run_folder_is_not_counted_twice(tmp_path):
    folder = make_run(tmp_path / "synthetic")
    shutil.copytree(folder, folder.with_name("seed1"))
    (table,), (reason,) = results.read(tmp_path / "synthetic")
    assert [run.folder for run in table.runs] == [folder]
    assert "seed1" in reason and "ast_unet/seed0" in reason


def test_a_run_of_another_corpus_is_left_out(tmp_path):
    make_run(tmp_path / "synthetic", "ast_linear")
    make_run(tmp_path / "songs", "ast_unet")
    shutil.copytree(tmp_path / "songs" / "ast_unet", tmp_path / "synthetic" / "ast_unet")
    (table,), (reason,) = results.read(tmp_path / "synthetic")
    assert (table.corpus, table.confs) == ("synthetic", ["ast_linear"])
    assert "synthetic/ast_unet/seed0" in reason and "corpus songs" in reason


@pytest.mark.parametrize("content", [None, b"", b'{"epoch": 1, "lo', b"\xff\xfe\x00"])
def test_a_damaged_history_costs_a_run_its_curve_only(tmp_path, content):
    make_run(tmp_path / "synthetic", seed=1)
    path = make_run(tmp_path / "synthetic") / "history.jsonl"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    (table,), (reason,) = results.read(tmp_path / "synthetic")
    assert reason.startswith(f"{path}: ") and "stage score" in reason
    assert [len(run.history) for run in table.runs] == [0, 3]
    plots.draw(table)


def test_a_damaged_example_costs_a_run_its_figure_only(tmp_path):
    folder = make_run(tmp_path / "synthetic", example=True)
    (folder / "example.npz").write_bytes(b"not an archive")
    (table,), (reason,) = results.read(tmp_path / "synthetic")
    assert reason.startswith(f"{folder / 'example.npz'}: ")
    assert not any("example" in name for name in plots.draw(table))


def test_csv_has_every_instrument_of_every_method_and_baseline(tmp_path):
    for seed, value in enumerate((0.6, 0.7)):
        make_run(tmp_path / "synthetic", seed=seed, value=value)
    rows = list(
        csv.DictReader(tables.per_instrument(results.read(tmp_path / "synthetic")[0]).splitlines())
    )
    assert [row["conf"] for row in rows] == ["always_absent"] * 3 + ["always_present"] * 3 + [
        "ast_unet"
    ] * 3
    assert (rows[-1]["instrument"], rows[-1]["seeds"], rows[-1]["present"]) == ("voice", "2", "10")
    assert float(rows[-1]["macro_f1_mean"]) == pytest.approx(0.67)
    assert float(rows[-1]["macro_f1_std"]) == pytest.approx(statistics.stdev((0.62, 0.72)))


def test_one_sided_instruments_are_left_blank_and_named(tmp_path):
    found = {
        "metrics": scores(0.6),
        "constant_baselines": {"always_absent": scores(0.3), "always_present": scores(0.3)},
    }
    for one in (found["metrics"], *found["constant_baselines"].values()):
        one["per_instrument"]["banjo"] = dict.fromkeys(schema.PER_INSTRUMENT) | {
            "present": 0,
            "absent": 1,
        }
    for seed in (0, 1):
        make_run(tmp_path / "synthetic", seed=seed, **found)
    (table,), _ = results.read(tmp_path / "synthetic")
    page = " ".join(pages.text(pages.blocks(table)).split())
    assert "banjo (0 present, 1 absent)" in page and "voice" not in page
    rows = csv.DictReader(tables.per_instrument([table]).splitlines())
    assert {row["macro_f1_mean"] for row in rows if row["instrument"] == "banjo"} == {""}


def test_a_split_that_allows_no_score_has_a_table_of_dashes(tmp_path):
    nothing = scores(0.5)
    nothing |= dict.fromkeys(("macro_f1", "positive_f1", "weighted_f1", "map", "auroc"))
    blank = dict.fromkeys(schema.PER_INSTRUMENT) | {"present": 3, "absent": 0}
    nothing["per_instrument"] = dict.fromkeys(CLASSES, blank)
    baselines = dict.fromkeys(schema.BASELINES, nothing)
    for conf in ("ast_linear", "ast_unet"):
        make_run(tmp_path / "synthetic", conf, metrics=nothing, constant_baselines=baselines)
    (table,), left_out = results.read(tmp_path / "synthetic")
    assert left_out == [] and plots.draw(table) == {}
    assert lines_of(pages.text(pages.blocks(table)), "ast_unet")[0][4:] == ["-"] * 4
    with pytest.raises(results.ResultsError, match="both kinds"):
        compare.compare(*table.methods)


@pytest.mark.slow
def test_the_script_writes_everything_without_torch(tmp_path, capsys):
    make_run(tmp_path / "exp" / "synthetic", "ast_linear")
    make_run(tmp_path / "exp" / "synthetic", "ast_unet", 1)
    make_run(tmp_path / "exp" / "openmic", "ast_cnn", value=0.8)
    out = tmp_path / "RESULTS.md"
    prelude = "atexit.register(lambda: print('torch imported:', 'torch' in sys.modules))"
    exp = tmp_path / "exp" / "synthetic"
    assert call(capsys, report, "--exp", exp, "--out", exp / "RESULTS.md")[0] == 0
    assert "\n## openmic\n" not in (exp / "RESULTS.md").read_text()
    done = run("--exp", exp, "--all-corpora", "--out", out, prelude=prelude)
    assert done.returncode == 0, done.stderr
    assert "torch imported: False" in done.stdout
    assert (
        "Corpus synthetic, protocol clean, backbone tiny, 1 seed\n" in done.stdout
        and "openmic" not in done.stdout
    )
    written = out.read_text()
    own, other = written.split("\n## openmic\n")
    assert "\n## synthetic\n" in own and "ast_cnn" not in own and "ast_unet" not in other
    assert "source run.sh --conf ast_linear --seeds 0\nsource run.sh --conf ast_unet" in own
    assert "torch 2.11.0" in own and "abc1234" in own and "ab" * 32 in own
    assert len(list((tmp_path / "exp/synthetic/figures").glob("*.pdf"))) == 5
    assert (tmp_path / "exp/synthetic/per_instrument.csv").stat().st_size > 0


def test_a_page_that_was_not_made_here_is_not_replaced(tmp_path, capsys):
    make_run(tmp_path / "exp" / "synthetic", "ast_linear")
    out = tmp_path / "notes.md"
    out.write_text("# Results\n\nof mine\n")
    options = ["--exp", tmp_path / "exp" / "synthetic", "--out", out]
    code, _, err = call(capsys, report, *options)
    assert code == 2 and err.count("\n") == 1 and str(out) in err
    assert out.read_text() == "# Results\n\nof mine\n"


def test_bad_runs_are_listed_and_the_others_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plots, "draw", lambda *_: {})  # figures have their own tests
    make_run(tmp_path / "exp" / "synthetic", "ast_linear")
    bad = make_run(tmp_path / "exp" / "synthetic", "ast_unet") / "results.json"
    bad.write_text("{")
    elsewhere = make_run(tmp_path / "exp" / "songs") / "results.json"
    elsewhere.write_text("[1]")
    options = (
        "--exp",
        tmp_path / "exp" / "synthetic",
        "--out",
        tmp_path / "RESULTS.md",
        "--all-corpora",
    )
    code, printed, err = call(capsys, report, *options)
    assert code == 0, err
    assert "\nast_linear " in printed and "ast_unet" not in printed
    assert [line.split(": ")[:2] for line in err.splitlines()] == [
        ["left out", str(path)] for path in (bad, elsewhere)
    ]
    bad.with_name("results.json").parents[2].joinpath("ast_linear/seed0/results.json").unlink()
    code, _, err = call(capsys, report, *options)
    assert code == 1 and err.count("left out: ") == 2
    assert err.splitlines()[-1].startswith("error: ")


def test_the_script_fails_with_one_line(tmp_path, capsys):
    options = ["--exp", tmp_path / "exp" / "synthetic", "--out", tmp_path / "RESULTS.md"]
    code, _, err = call(capsys, report, *options)
    assert code == 1
    assert err.startswith("error: ") and err.count("\n") == 1 and "no such folder" in err
    assert not (tmp_path / "RESULTS.md").exists()
