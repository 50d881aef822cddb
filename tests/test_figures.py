"""Figures and studies: from run folders alone, the same bytes each time, nothing overlaps."""

import itertools
import json

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from test_compare import arrays, scored
from test_report import lines_of, make_run, run

from ast_repr.report import (
    instruments,
    learning_curves,
    overview,
    plots,
    results,
    schema,
    studies,
    study_figures,
    style,
    tables,
)
from ast_repr.run_folder import RunFolder

ALWAYS = {"methods", "accuracy_vs_parameters", "heatmap", "instruments"}
NO_AST = {"name": "tiny", "weights": "none", "sha256": None}
LABELS = {
    "labels": {
        "question": "How few?",
        "confs": ["ast_linear+train.label_fraction=0.1", "ast_linear", "ast_unet"],
        "figure": "labels",
    }
}


def only(exp):
    (table,), _ = results.read(exp)
    return table


def names(figures):
    return {stem.removeprefix("clean.tiny.") for stem in figures}


def drawn(figure):
    """Draw a figure, which puts its texts in their places; returns what asks for their extent."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def test_figures_are_whole_files(tmp_path):
    make_run(tmp_path / "synthetic", "ast_linear", example=True)
    for seed in (0, 1):
        make_run(tmp_path / "synthetic", "ast_unet", seed, example=seed == 1)
    make_run(tmp_path / "synthetic", "ast_unet+input.norm=corpus", example=True)
    figures = plots.draw(only(tmp_path / "synthetic"))
    # What has no reprogrammer has nothing to show before and after; variants are in studies alone.
    assert names(figures) == ALWAYS | {"curves", "example.ast_unet"}
    for stem, figure in figures.items():
        png, pdf = style.save(figure, tmp_path / "figures", stem)
        assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and png.stat().st_size > 10_000
        assert pdf.read_bytes()[:5] == b"%PDF-" and pdf.stat().st_size > 5_000
    assert len(list((tmp_path / "figures").iterdir())) == 2 * len(figures)


def test_letters_that_the_font_lacks_are_drawn_as_boxes_without_a_warning(tmp_path, recwarn):
    figure = matplotlib.figure.Figure()
    figure.suptitle("日本")
    assert (
        all(path.stat().st_size > 1000 for path in style.save(figure, tmp_path, "letters"))
        and not recwarn.list
    )


def test_a_protocol_without_validation_split_has_no_curves(tmp_path):
    folder = make_run(tmp_path / "synthetic", protocol="paper")
    (folder / "history.jsonl").write_text('{"epoch": 1, "loss": 0.5}\n{"epoch": 2, "loss": 0.4}\n')
    assert names(plots.draw(only(tmp_path / "synthetic"))) == {
        f"paper.tiny.{name}" for name in ALWAYS
    }


def test_rows_trained_in_one_go_or_not_at_all_have_no_curve(tmp_path):
    make_run(tmp_path / "synthetic", "ast_unet")
    for conf, line in (
        ("forest", {"epoch": 1, "loss": None, "valid": {"macro_f1": 0.6}}),
        ("ast_zero_shot", {"epoch": 0, "loss": None}),
    ):
        folder = make_run(tmp_path / "synthetic", conf, reprogrammer="none", trainable_parameters=0)
        (folder / "history.jsonl").write_text(json.dumps(line) + "\n")
    table = only(tmp_path / "synthetic")
    assert [row.conf for row in learning_curves.learning(table)] == ["ast_unet"]
    panels = learning_curves.curves(table).axes
    assert [panel.get_title() for panel in panels if panel.axison] == ["Row of ast_unet (ast_unet)"]


def test_unobserved_instruments_are_left_blank(tmp_path):
    for seed in (0, 1):
        folder = make_run(tmp_path / "synthetic", seed=seed)
        found = json.loads((folder / "results.json").read_text())
        for one in (found["metrics"], *found["constant_baselines"].values()):
            one["per_instrument"]["banjo"] = dict.fromkeys(schema.PER_INSTRUMENT) | {
                "present": 0,
                "absent": 0,
            }
        RunFolder(folder).write_results(found)
    table = only(tmp_path / "synthetic")
    assert [text.get_text() for text in instruments.heatmap(table).axes[0].texts] == [
        "70.0",
        "70.0",
        "-",
        "72.0",
    ]
    style.save(instruments.bars(table), tmp_path, "instruments")


def test_bars_choose_rows_by_kind_and_never_by_score(tmp_path):
    exp, published = (
        tmp_path / "synthetic",
        {"macro_f1": [80.0], "source": "s", "corpus": "OpenMIC-2018", "protocol": "p"},
    )
    make_run(
        exp,
        "forest",
        reprogrammer="none",
        trainable_parameters=0,
        backbone=NO_AST,
        published=published,
    )
    make_run(
        exp,
        "attention",
        value=0.99,
        reprogrammer="none",
        trainable_parameters=55_336,
        backbone=NO_AST,
    )
    make_run(exp, "ast_zero_shot", value=0.98, reprogrammer="none", trainable_parameters=0)
    make_run(exp, "ast_linear", published=published)
    make_run(exp, "ast_finetune", reprogrammer="none", trainable_parameters=2_800_000, value=0.5)
    make_run(exp, "ast_mine", value=0.97)
    for conf in ("ast_cnn", "ast_unet", "ast_noise"):
        make_run(exp, conf, published=published)
    table = only(exp)
    default = ["forest", "ast_linear", "ast_cnn", "ast_unet", "ast_noise", "ast_finetune"]
    assert [row.conf for row in instruments.chosen(table).rows] == default
    assert [row.conf for row in instruments.chosen(table, ["ast_mine", "forest"]).rows] == [
        "ast_mine",
        "forest",
    ]
    assert [row.conf for row in instruments.chosen(table, ["elsewhere"]).rows] == default


@pytest.mark.parametrize(("corpus", "there"), [("openmic", True), ("synthetic", False)])
def test_published_runs_are_drawn_on_their_own_corpus_only(tmp_path, corpus, there):
    published = {"macro_f1": [80.0, 82.0], "source": "s", "corpus": "OpenMIC-2018", "protocol": "p"}
    make_run(tmp_path / corpus, published=published)
    figure = overview.boxes(only(tmp_path / corpus))
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == ([[80.0, 82.0]] if there else [])
    assert ("published run" in [text.get_text() for text in figure.legends[0].texts]) == there


@pytest.mark.parametrize("count", [3, 16])
def test_numbers_of_points_do_not_touch(tmp_path, count):
    for index in range(count):  # in one place almost: the worst case
        value, trained = 0.7 + 0.002 * (index % 4), 0 if index == 0 else 4285 + index
        make_run(
            tmp_path / "synthetic", f"row_{index:02d}", value=value, trainable_parameters=trained
        )
    with matplotlib.rc_context(style.STYLE):
        figure = overview.accuracy_vs_parameters(only(tmp_path / "synthetic"))
        renderer = drawn(figure)
    boxes = [
        Text.get_window_extent(text, renderer) for text in figure.axes[0].texts
    ]  # without the lines that lead to them
    assert [text.get_text() for text in figure.axes[0].texts] == [
        str(number + 1) for number in range(count)
    ]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert "none" in [label.get_text() for label in figure.axes[0].get_xticklabels()]


def test_names_of_lines_do_not_touch(tmp_path):
    for k, conf in enumerate(("a", "b", "c", "d")):
        for fraction in (0.01, 0.1, 1.0):
            variant = conf if fraction == 1 else f"{conf}+train.label_fraction={fraction}"
            for seed in (0, 1):
                make_run(
                    tmp_path / "synthetic",
                    variant,
                    seed,
                    value=0.6 + 0.001 * k + 0.01 * seed,
                    row=f"{conf} row",
                    label_fraction=fraction,
                )
    table = only(tmp_path / "synthetic")
    (study,) = studies.parse(
        {
            "labels": {
                "question": "How few?",
                "confs": [row.conf for row in table.rows],
                "figure": "labels",
            }
        },
        "f",
    )
    with matplotlib.rc_context(style.STYLE):
        figure = study_figures.labels(study, study.table(table))
        axes, renderer = figure.axes[0], drawn(figure)
    boxes = [
        Text.get_window_extent(text, renderer) for text in axes.texts
    ]  # without the lines that lead to them
    assert sorted(text.get_text() for text in axes.texts) == ["a row", "b row", "c row", "d row"]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["b row (b)"].get_xdata(), [1, 10, 100])
    np.testing.assert_allclose(lines["b row (b)"].get_ydata(), [60.6] * 3)
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "1 %",
        "2 %",
        "5 %",
        "10 %",
        "25 %",
        "50 %",
        "100 %",
    ]


def test_long_names_of_bars_do_not_touch(tmp_path):
    long = "+".join(f"reprogrammer.option_{k}=value" for k in range(4))
    for k in range(6):
        make_run(tmp_path / "synthetic", f"ast_linear+train.epochs={k}+{long}")
    table = only(tmp_path / "synthetic")
    (study,) = studies.parse(
        {"x": {"question": "?", "confs": [row.conf for row in table.rows]}}, "f"
    )
    with matplotlib.rc_context(style.STYLE):
        figure = study_figures.bars(study, table)
        renderer = drawn(figure)
    boxes = [label.get_window_extent(renderer) for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) == 6 and not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert max(map(len, tables.study_text(study, table).splitlines())) <= tables.WIDTH


def test_a_study_shows_its_rows_in_its_order_and_names_the_missing(tmp_path):
    exp = tmp_path / "synthetic"
    for seed in (0, 1):
        scored(exp, "ast_linear", seed, arrays(seed), row="AST-BS")
        scored(exp, "ast_linear+input.norm=none", seed, arrays(seed + 5), row="AST-BS")
    about = {
        "question": "Which norm?",
        "confs": ["ast_linear+input.norm=none", "missing+a=b", "ast_linear"],
        "figure": "bars",
    }
    known = {"norm": about | {"against": "ast_linear"}}
    (study,) = studies.parse(known, "studies.yaml", asked=["norm"])
    table = study.table(only(exp))
    assert [row.conf for row in table.rows] == ["ast_linear+input.norm=none", "ast_linear"]
    text = tables.study_text(study, table)
    assert max(map(len, text.splitlines())) <= tables.WIDTH
    assert "Which norm?" in text and "Not run: missing+a=b." in text
    none, plain = lines_of(text, "AST-BS")
    assert (none[0], plain[0]) == ("AST-BS, input.norm=none", "AST-BS (ast_linear)")
    assert plain[-1] == "-" and none[-1][0] in "+-" and "[" in none[-1]
    assert "#### Study norm: Which norm?" in tables.markdown(only(exp), [study])
    assert names(plots.draw(only(exp), [study])) == ALWAYS | {"curves", "study.norm"}
    other = {"x": {"question": "?", "confs": ["ast_linear", "ast_cnn"]}}
    other = studies.parse(other, "f", asked=["x"])[0]
    assert other.table(only(exp)) is None and "Study x" not in tables.markdown(only(exp), [other])


def test_a_study_is_shown_if_asked_for_or_complete(tmp_path):
    for conf in ("ast_linear", "ast_unet"):
        make_run(tmp_path / "synthetic", conf)
    known = {
        "partly": {"question": "?", "confs": ["ast_linear", "ast_unet", "ast_unet+a.b=1"]},
        "whole": {"question": "?", "confs": ["ast_unet", "ast_linear"]},
    }
    table = only(tmp_path / "synthetic")

    def shown(asked):
        found = studies.parse(
            {name: x | {"figure": "bars"} for name, x in known.items()}, "f", asked
        )
        drawn = {name for name in names(plots.draw(table, found)) if name.startswith("study.")}
        page = tables.markdown(table, found)
        assert drawn == {f"study.{name}" for name in known if f"Study {name}:" in page}
        return drawn

    assert shown([]) == shown(["ast_unet"]) == {"study.whole"}
    for asked in (["ast_unet", "partly"], ["ast_unet+a.b=1"]):
        assert shown(asked) == {"study.whole", "study.partly"}


def test_predictions_that_are_damaged_cost_a_study_one_difference(tmp_path):
    for conf in ("ast_linear", "ast_unet", "ast_noise"):
        scored(tmp_path / "synthetic", conf, 0, arrays(0))
    bad = tmp_path / "synthetic" / "ast_unet" / "seed0" / "predictions.npz"
    bad.write_bytes(b"PK")
    about = {"question": "?", "confs": ["ast_linear", "ast_unet", "ast_noise"]}
    (study,) = studies.parse({"x": about | {"against": "ast_linear"}}, "f")
    table = study.table(only(tmp_path / "synthetic"))
    filled = tables.study_cells(study, table, spread=False)
    assert [line[-1] for line in filled.lines[2:4]] == ["-", "-"] and "[" in filled.lines[4][-1]
    (note,) = filled.notes
    assert "ast_unet" in note and str(bad) in note
    assert str(bad) in tables.markdown(table, [study])


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (None, "study 'x': has None; expected question, confs"),
        ({"question": "?"}, "study 'x': has question; expected"),
        ({"question": "?", "confs": ["a", "b"], "figur": "bars"}, "figur; expected"),
        ({"question": "?", "confs": ["a"]}, "expected two or more"),
        ({"question": "?", "confs": ["a", "a"]}, "each once"),
        ({"question": "?", "confs": "a,b"}, "confs is 'a,b', expected a list"),
        ({"question": "?", "confs": ["a", "b"], "figure": "pie"}, "expected bars or labels"),
        ({"question": "?", "confs": ["a", "b"], "against": "c"}, "expected one of its confs"),
    ],
)
def test_wrong_studies_are_named(about, message):
    with pytest.raises(studies.StudyError) as caught:
        studies.parse({"x": about}, "studies.yaml")
    assert str(caught.value).startswith("studies.yaml: ") and message in str(caught.value)


def test_the_script_makes_the_same_bytes_twice(tmp_path):
    exp, file, out = (
        tmp_path / "exp" / "synthetic",
        tmp_path / "studies.yaml",
        tmp_path / "RESULTS.md",
    )
    for seed in (0, 1):
        for conf in ("ast_linear", "ast_linear+train.label_fraction=0.1", "ast_unet"):
            make_run(
                exp, conf, seed, value=0.6 + 0.1 * seed, label_fraction=0.1 if "+" in conf else 1.0
            )
    file.write_text(json.dumps(LABELS))  # JSON is YAML
    options = ["--exp", exp, "--out", out, "--studies", file, "--rows", "ast_unet"]
    written = []
    for _ in range(2):
        done = run(*options)
        assert done.returncode == 0, done.stderr
        written.append(
            {path.name: path.read_bytes() for path in (exp / "figures").iterdir()}
            | {out.name: out.read_bytes()}
        )
    assert written[0] == written[1]
    assert names(
        name.removesuffix(".png") for name in written[0] if name.endswith(".png")
    ) == ALWAYS | {"curves", "study.labels"}
    assert (
        "Study labels: How few?" in done.stdout
        and "Row of ast_linear+train.label_fraction=0.1, train.label_fraction=0.1" in done.stdout
    )
    file.write_text("[")
    for wrong, message in (
        (options, "not readable as YAML"),
        ([*options[:-1], "ast_unte"], "did you mean 'ast_unet'?"),
    ):
        done = run(*wrong)
        assert done.returncode in (1, 2) and message in done.stderr and done.stderr.count("\n") == 1
