"""Figures and studies are made from run folders alone; names do not overlap."""

import itertools
import json

import matplotlib
import numpy as np
import pytest
from helpers import call
from matplotlib.backends.backend_agg import FigureCanvasAgg
from report_runs import (
    PUBLISHED,
    arrays,
    entries,
    lines_of,
    make_run,
    record_files,
    run,
    scored,
    with_truth,
)

import report
from ast_repr.report import (
    compare,
    instruments,
    learning_curves,
    overview,
    pages,
    plots,
    published,
    results,
    schema,
    studies,
    study_figures,
    style,
    tables,
)
from ast_repr.run_folder import RunFolder

ALWAYS = {"methods", "accuracy_vs_cost", "heatmap", "instruments"}
NO_AST = {"name": "tiny", "weights": "none", "sha256": None}
LABELS = {
    "labels": {
        "question": "How few?",
        "confs": ["ast_linear+train.label_fraction=0.1", "ast_linear", "ast_unet"],
        "figure": "labels",
    }
}


def only(exp, known=None):
    (table,), _ = results.read(exp, known)
    return table


def read_studies(folder, values, requested=()):
    path = folder / "studies.yaml"
    path.write_text(json.dumps(values))  # JSON is YAML
    return studies.read(path, requested)


def names(figures):
    return {stem.removeprefix("clean.tiny.") for stem in figures}


def drawn(figure):
    """Draw a figure, which puts its texts in their places; returns what asks for their extent."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


@pytest.mark.slow
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
    record_files(folder)
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
        record_files(folder)
    table = only(tmp_path / "synthetic")
    assert [method.conf for method in learning_curves.with_curves(table)] == ["ast_unet"]
    panels = learning_curves.curves(table).axes
    titles = [panel.get_title() for panel in panels if panel.axison]
    assert titles == ["ast_unet", ""]  # the second axes are those of the loss


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


def test_bars_choose_methods_by_kind_and_never_by_score(tmp_path):
    exp = tmp_path / "synthetic"
    plain = {"reprogrammer": "none", "trainable_parameters": 0}
    make_run(exp, "forest", backbone=NO_AST, **plain)
    attention = plain | {"trainable_parameters": 55_336}
    make_run(exp, "attention", value=0.99, backbone=NO_AST, **attention)
    make_run(exp, "ast_zero_shot", value=0.98, **plain)
    make_run(exp, "ast_linear")
    make_run(exp, "ast_finetune", value=0.5, **(plain | {"trainable_parameters": 2_800_000}))
    make_run(exp, "ast_mine", value=0.97)
    known = {}
    for conf in ("forest", "ast_linear", "ast_cnn", "ast_unet", "ast_noise"):
        known[conf] = published.Entry(conf, published=PUBLISHED)
    for conf in ("ast_cnn", "ast_unet", "ast_noise"):
        make_run(exp, conf)
    table = only(exp, known)
    default = ["forest", "ast_linear", "ast_cnn", "ast_unet", "ast_noise", "ast_finetune"]
    assert instruments.chosen(table).confs == default
    assert instruments.chosen(table, ["ast_mine", "forest"]).confs == ["ast_mine", "forest"]
    assert instruments.chosen(table, ["elsewhere"]).confs == default


@pytest.mark.parametrize(("corpus", "there"), [("openmic", True), ("synthetic", False)])
def test_published_runs_are_drawn_on_their_own_corpus_only(tmp_path, corpus, there):
    make_run(tmp_path / corpus)
    known = {"ast_unet": published.Entry("AST-URP", published=PUBLISHED)}
    figure = overview.boxes(only(tmp_path / corpus, known))
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == ([[80.0, 82.0]] if there else [])
    assert ("published run" in [text.get_text() for text in figure.legends[0].texts]) == there


def test_points_of_methods_look_different_and_are_at_their_cost(tmp_path):
    for index in range(16):
        trained = 0 if index == 0 else 4285 + index
        seconds = 0.0 if index < 2 else 0.1 * index
        make_run(
            tmp_path / "synthetic",
            f"m_{index:02d}",
            trainable_parameters=trained,
            seconds_per_epoch=seconds,
        )
    table = only(tmp_path / "synthetic")
    about = {"question": "At what cost?", "confs": table.confs, "figure": "cost"}
    (study,) = read_studies(tmp_path, {"cost": about})
    figure = plots.draw(table, [study])["clean.tiny.study.cost"]
    parameters, seconds = figure.axes
    handles, names = parameters.get_legend_handles_labels()
    looks = {(handle[0].get_marker(), handle[0].get_color()) for handle in handles}
    assert sorted(names) == sorted(table.confs) and len(looks) == 16
    for axes, costs in ((parameters, [4286 / 4, 4286]), (seconds, [0.2 / 4, 0.2 / 4, 0.2])):
        places = sorted(line.get_xdata()[0] for line in axes.lines if line.get_marker() != "None")
        assert places[: len(costs)] == pytest.approx(costs)
        assert "none" in [label.get_text() for label in axes.get_xticklabels()]
    assert figure.get_suptitle().startswith("At what cost?")


def test_the_table_of_a_study_of_cost_has_the_cost(tmp_path):
    for conf, seconds in (("ast_linear", 0.25), ("ast_unet", 31.0)):
        make_run(tmp_path / "synthetic", conf, seconds_per_epoch=seconds)
    table = only(tmp_path / "synthetic")
    about = {"question": "At what cost?", "confs": table.confs, "figure": "cost"}
    page = pages.blocks(table, read_studies(tmp_path, {"cost": about}))
    *_, lines = [block for block in page if isinstance(block, list)]
    assert [line["s per epoch"] for line in lines] == ["-", "-", "0.25", "31.0"]
    assert lines[2]["MAC per clip"] == "2.31 G" and "macro-F1 %" in lines[2]


def test_a_line_per_conf_against_the_fraction_of_labels(tmp_path):
    for k, conf in enumerate(("a", "b", "c", "d")):
        for fraction in (0.01, 0.1, 1.0):
            variant = conf if fraction == 1 else f"{conf}+train.label_fraction={fraction}"
            for seed in (0, 1):
                value = 0.6 + 0.001 * k + 0.01 * seed
                make_run(
                    tmp_path / "synthetic", variant, seed, value=value, label_fraction=fraction
                )
    table = only(tmp_path / "synthetic", entries(b="B name"))
    about = {"question": "How few?", "confs": table.confs, "figure": "labels"}
    (study,) = read_studies(tmp_path, {"labels": about})
    with matplotlib.rc_context(style.STYLE):
        figure = study_figures.labels(study, study.table(table))
        renderer = drawn(figure)
    axes = figure.axes[0]
    legend = figure.legends[0]
    # In the order of the lines' right ends.
    assert [text.get_text() for text in legend.texts] == ["d", "c", "B name (b)", "a"]
    assert legend.get_window_extent(renderer).x0 >= axes.get_window_extent(renderer).x1
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["B name (b)"].get_xdata(), [1, 10, 100])
    np.testing.assert_allclose(lines["B name (b)"].get_ydata(), [60.6] * 3)
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["1 %", "2 %", "5 %", "10 %", "25 %", "50 %", "100 %"]


def test_a_line_per_conf_against_the_number_of_clips_and_its_difference_below(tmp_path):
    exp = tmp_path / "synthetic"
    for conf, noise in (("ast_linear", 0.8), ("ast_unet", 0.5)):
        for fraction, clips in ((0.1, 64), (1.0, 640)):
            variant = conf if fraction == 1 else f"{conf}+train.clip_fraction={fraction}"
            part = {"clip_fraction": fraction, "train_clips": clips}
            scored(exp, variant, 0, with_truth(arrays(0, noise=noise / fraction**0.5)), **part)
    table = only(exp)
    about = {"question": "?", "confs": table.confs, "figure": "clips", "against": "ast_linear"}
    (study,) = read_studies(tmp_path, {"data": about})
    above, below = study_figures.clips(study, study.table(table)).axes
    lines = {line.get_label(): line for line in above.lines}
    np.testing.assert_allclose(lines["ast_unet"].get_xdata(), [64, 640])
    on_truth = [
        100 * table.only([conf]).methods[0].scores(schema.TRUTH, "macro_f1")[0]
        for conf in ("ast_unet+train.clip_fraction=0.1", "ast_unet")
    ]
    np.testing.assert_allclose(lines["ast_unet"].get_ydata(), on_truth)
    (difference,) = [line for line in below.lines if len(line.get_xdata()) == 2][:1]
    np.testing.assert_allclose(
        difference.get_ydata(), np.subtract(on_truth, lines["ast_linear"].get_ydata())
    )
    assert "truth" in above.get_ylabel() and "ast_linear" in below.get_ylabel()


def test_instruments_show_their_counts_and_intervals(tmp_path):
    found = with_truth(arrays(0))
    found["truth"][:, 0] = np.arange(24) < 3  # three clips with an accordion
    scored(tmp_path / "synthetic", "ast_linear", 0, found)
    table = only(tmp_path / "synthetic")
    axes, colours = instruments.heatmap(table).axes
    assert "accordion, 3 / 21" in [label.get_text() for label in axes.get_xticklabels()]
    assert all("±" in text.get_text() for text in axes.texts)
    assert "truth" in colours.get_ylabel() and "axis from" in colours.get_ylabel()
    (panel,) = instruments.bars(table).axes
    assert panel.get_yticklabels()[0].get_text() == "accordion\n3 / 21"
    (whiskers,) = [item for item in panel.collections if len(item.get_segments()) == 3][:1]
    low, high = compare.intervals(table)["ast_linear"]
    for segment, *ends in zip(whiskers.get_segments(), low[:3], high[:3], strict=True):
        np.testing.assert_allclose(segment[:, 0], 100 * np.array(ends))


def test_curves_show_the_training_loss(tmp_path):
    make_run(tmp_path / "synthetic")
    scores, losses = learning_curves.curves(only(tmp_path / "synthetic")).axes
    np.testing.assert_allclose(losses.lines[0].get_ydata(), [1, 1 / 2, 1 / 3])
    assert scores.lines


def test_long_names_of_bars_do_not_touch(tmp_path):
    long = "+".join(f"reprogrammer.option_{k}=value" for k in range(4))
    for k in range(6):
        make_run(tmp_path / "synthetic", f"ast_linear+train.epochs={k}+{long}")
    table = only(tmp_path / "synthetic")
    (study,) = read_studies(tmp_path, {"x": {"question": "?", "confs": table.confs}})
    with matplotlib.rc_context(style.STYLE):
        figure = study_figures.bars(study, table)
        renderer = drawn(figure)
    boxes = [label.get_window_extent(renderer) for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) == 6 and not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert max(map(len, pages.text(pages.blocks(table, [study])).splitlines())) <= pages.WIDTH


def test_a_study_keeps_its_order_and_names_what_is_missing(tmp_path):
    exp = tmp_path / "synthetic"
    for seed in (0, 1):
        scored(exp, "ast_linear", seed, arrays(seed))
        scored(exp, "ast_linear+input.norm=none", seed, arrays(seed + 5))
    about = {
        "question": "Which norm?",
        "confs": ["ast_linear+input.norm=none", "missing+a=b", "ast_linear"],
        "figure": "bars",
    }
    known = {"norm": about | {"against": "ast_linear"}}
    (study,) = read_studies(tmp_path, known, requested=["norm"])
    table = only(exp, entries(ast_linear="AST-BS"))
    assert study.table(table).confs == ["ast_linear+input.norm=none", "ast_linear"]
    text = pages.text(pages.blocks(table, [study]))
    assert max(map(len, text.splitlines())) <= pages.WIDTH
    assert "Which norm?" in text and "Not run: missing+a=b." in text
    text = text.partition("Study norm")[2]
    (variant,) = lines_of(text, "ast_linear+input.norm=none")
    (plain,) = lines_of(text, "AST-BS (ast_linear)")
    assert plain[-1] == "-" and variant[-1][0] in "+-" and "[" in variant[-1]
    assert "#### Study norm: Which norm?" in pages.markdown(pages.blocks(table, [study]))
    assert names(plots.draw(table, [study])) == ALWAYS | {"curves", "study.norm"}
    other = {"x": {"question": "?", "confs": ["ast_linear", "ast_cnn"]}}
    (other,) = read_studies(tmp_path, other, requested=["x"])
    assert other.table(table) is None
    assert "Study x" not in pages.markdown(pages.blocks(table, [other]))


def test_a_study_is_shown_if_asked_for_or_complete(tmp_path):
    for conf in ("ast_linear", "ast_unet"):
        make_run(tmp_path / "synthetic", conf)
    known = {
        "partly": {"question": "?", "confs": ["ast_linear", "ast_unet", "ast_unet+a.b=1"]},
        "whole": {"question": "?", "confs": ["ast_unet", "ast_linear"]},
    }
    table = only(tmp_path / "synthetic")

    def shown(requested):
        with_bars = {name: about | {"figure": "bars"} for name, about in known.items()}
        parsed = read_studies(tmp_path, with_bars, requested)
        drawn = {name for name in names(plots.draw(table, parsed)) if name.startswith("study.")}
        page = pages.markdown(pages.blocks(table, parsed))
        assert drawn == {f"study.{name}" for name in known if f"Study {name}:" in page}
        return drawn

    assert shown([]) == shown(["ast_unet"]) == {"study.whole"}
    for requested in (["ast_unet", "partly"], ["ast_unet+a.b=1"]):
        assert shown(requested) == {"study.whole", "study.partly"}


def test_predictions_that_are_damaged_cost_a_study_one_difference(tmp_path):
    for conf in ("ast_linear", "ast_unet", "ast_noise"):
        scored(tmp_path / "synthetic", conf, 0, arrays(0))
    bad = tmp_path / "synthetic" / "ast_unet" / "seed0" / "predictions.npz"
    bad.write_bytes(b"PK")
    about = {"question": "?", "confs": ["ast_linear", "ast_unet", "ast_noise"]}
    (study,) = read_studies(tmp_path, {"x": about | {"against": "ast_linear"}})
    table = study.table(only(tmp_path / "synthetic"))
    page = pages.blocks(table, [study])
    differences = [line[tables.DIFFERENCE] for line in page[-2]]
    assert differences[2:4] == ["-", "-"] and "[" in differences[4]
    note = page[-3]
    assert "ast_unet" in note and str(bad) in note
    assert str(bad) in pages.markdown(page)


@pytest.mark.parametrize(
    ("about", "key"),
    [
        (None, "confs"),
        ({"question": "?"}, "confs"),
        ({"question": "?", "confs": ["a", "b"], "figur": "bars"}, "figur"),
        ({"question": "?", "confs": ["a"]}, "confs"),
        ({"question": "?", "confs": ["a", "a"]}, "confs"),
        ({"question": "?", "confs": "a,b"}, "confs"),
        ({"question": "?", "confs": ["a", "b"], "figure": "pie"}, "figure"),
        ({"question": "?", "confs": ["a", "b"], "against": "c"}, "against"),
    ],
)
def test_wrong_studies_are_named(about, key, tmp_path):
    with pytest.raises(ValueError, match=f"studies.yaml: x.*{key}"):
        read_studies(tmp_path, {"x": about})


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
def test_the_script_makes_the_same_bytes_in_another_process(tmp_path, capsys):
    exp = tmp_path / "exp" / "synthetic"
    file = tmp_path / "studies.yaml"
    out = tmp_path / "RESULTS.md"
    for seed in (0, 1):
        for conf in ("ast_linear", "ast_linear+train.label_fraction=0.1", "ast_unet"):
            make_run(
                exp, conf, seed, value=0.6 + 0.1 * seed, label_fraction=0.1 if "+" in conf else 1.0
            )
    file.write_text(json.dumps(LABELS))  # JSON is YAML
    options = ["--exp", exp, "--out", out, "--conf-dir", tmp_path, "--methods", "ast_unet"]
    code, printed, err = call(capsys, report, *options)
    assert code == 0, err
    first = files(exp / "figures") | files(tmp_path)
    done = run(*options)
    assert done.returncode == 0, done.stderr
    assert files(exp / "figures") | files(tmp_path) == first
    assert names(name.removesuffix(".png") for name in first if name.endswith(".png")) == ALWAYS | {
        "curves",
        "study.labels",
    }
    assert "Study labels: How few?" in printed
    assert "ast_linear+train.label_fraction=0.1" in printed
    code, _, err = call(capsys, report, *options[:-1], "ast_unte")
    assert code == 2 and err.count("\n") == 1 and "ast_unet" in err
    file.write_text("[")
    code, _, err = call(capsys, report, *options)
    assert code == 1 and err.count("\n") == 1 and "YAML" in err
