"""Names from outside are shown as text: no terminal obeys them, no program renders them."""

import csv
import html
import io
import json
import re

import numpy as np
import pytest
from report_runs import make_run, scores
from test_export import CONFIG

from ast_repr import cli, escaping
from ast_repr.audio import Window
from ast_repr.export import model_card
from ast_repr.inference import FilePrediction
from ast_repr.report import pages, plots, published, results, style, tables
from ast_repr.settings import Config
from ast_repr.viewer import page, predictions
from ast_repr.viewer import timeline as song

NAMES = [
    "\x1b]0;owned\x07\x1b[2J.wav",
    "line\nbreak\r\t\u2028.wav",
    "right\u202eto\u2066left\u200b",
    "\x9b31m \x7f \x00",
    "latin\udce9",
    "<img src=x onerror=alert(1)> & &lt; \"'",
    "a | b `c` ``d`` \\| [x](y) ![i](j) *e* _f_ __g__ ~h~ <!-- # -->",
    "=cmd|' /C calc'!A0",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "＝1",
    "mallet_percussion",
    "Björk 音楽",
    "$a_{b$ $\\frac$ $$",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_terminal_shows_one_line_of_printable_characters(name):
    shown = escaping.terminal(name)
    assert shown.isprintable() and shown.encode()
    printable = "".join(c for c in name if c.isprintable())
    assert re.sub(r"\\([ntr]|x..|u....)", "", shown) == re.sub(
        r"\\([ntr]|x..|u....)", "", printable
    )
    assert shown == name or not name.isprintable()


@pytest.mark.parametrize("name", NAMES)
def test_html_is_its_text_again(name):
    shown = escaping.html(name)
    assert not set("<>\"'") & set(shown) and html.unescape(shown) == escaping.terminal(name)


@pytest.mark.parametrize("name", NAMES)
def test_markdown_renders_as_the_text(name):
    """By an independent renderer, within a table."""
    markdown_it = pytest.importorskip("markdown_it")
    render = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).render
    cells = f"| {escaping.markdown(name)} | {escaping.markdown_code(name)} | end |"
    row = render(f"| a | b | c |\n|---|---|---|\n{cells}\n").split("<tbody>")[1]
    text, code, end = re.findall(r"<td>(.*?)</td>", row, re.DOTALL)
    shown = escaping.terminal(name)
    assert html.unescape(text) == shown.strip()
    assert html.unescape(re.sub("</?code>", "", code)).strip() == shown.strip()
    assert end == "end" and "<" not in text and code.count("<") == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_spreadsheet_computes_nothing_and_programs_read_json(name):
    cell = escaping.csv_cell(name)
    assert cell.removeprefix("'") == escaping.terminal(name)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝"))
    line = escaping.json_line({"file": name})
    assert line.isprintable() and json.loads(line) == {"file": name}


def test_an_error_is_one_line_of_any_terminal():
    for error in (ValueError(NAMES[0]), OSError(2, "No such file", NAMES[0])):
        line = cli.one_line(error)
        assert line.isprintable() and "\\x1b]0;owned" in line
    assert len(cli.one_line(ValueError("x" * 10**6))) < 5_000


@pytest.fixture
def told():
    """A prediction whose file and classes have the names; the last class is the likeliest."""
    values = np.linspace(0.1, 0.9, len(NAMES))
    window = np.array([[0.0, 10.0]])
    silent = np.array([False])
    return FilePrediction(NAMES[0] + NAMES[1], 10.0, window, values[None], values, silent)


@pytest.mark.parametrize("threshold", [0.0, 0.95])
@pytest.mark.parametrize("timeline", [False, True])
def test_predictions_are_safe_to_print_and_to_open(timeline, threshold, told):
    view = predictions.DisplayOptions(NAMES, threshold, timeline=timeline)
    for kind, write in predictions.FORMATS.items():
        text = "".join(write([told], view))
        assert all(line.isprintable() for line in text.split("\n")), kind
        if kind == "json":
            (found,) = json.loads(text)
            assert found["file"] == told.path
            assert {one["instrument"] for one in found["instruments"]} <= set(NAMES)
        if kind == "csv":
            for row in csv.reader(io.StringIO(text, newline="")):
                assert not any(re.match(r"[=+@\t\r]|-\D", cell) for cell in row)


def test_the_page_shows_names_as_text(told):
    shown = page.instruments(told, predictions.DisplayOptions(NAMES, 0.5))
    for piece in (shown, page.problem(NAMES[0]), page.note(NAMES[5]), page.section(*NAMES[5:7])):
        assert "<img" not in piece and piece.isprintable()
    assert html.unescape(shown).count(escaping.terminal(NAMES[5])) == 1


def test_figures_draw_names_as_text(told, tmp_path):
    log_mel = song.LongLogMel()
    log_mel.add(0, 10, np.random.default_rng(0).normal(size=(998, 8)))
    figure = song.draw(told, predictions.DisplayOptions(NAMES, 0.5), log_mel)
    style.save(figure, tmp_path, "song", ["png"])
    shown = {label.get_text().rpartition("  ")[0] for label in figure.axes[0].get_yticklabels()}
    assert style.plain(NAMES[-1]) in shown


@pytest.fixture
def scored(tmp_path):
    """Tables of a corpus, a conf and classes with the names."""
    names = {"classes": NAMES, "metrics": scores(0.7, NAMES)}
    names["constant_baselines"] = {
        key: scores(0.3, NAMES) for key in ("always_absent", "always_present")
    }
    machine = {"device": "<b>|`x`", "cores": 1, "python": "3", "torch": "2", "platform": "*p*"}
    exp = tmp_path / "a|b <b>c`$d$"
    make_run(exp, "ast_unet", machine=machine, command="run \x1b[2J", **names)
    make_run(exp, "+$y$`z|", **names)
    make_run(exp, "=1", **names)
    return results.read(exp, {"ast_unet": published.Entry("<i>|$x$ \x1b[2J", "*d* <b>")})[0]


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")  # of names that long
def test_tables_show_names_as_text(scored, tmp_path):
    (table,) = scored
    assert all(line.isprintable() for line in pages.text(pages.blocks(table)).split("\n"))
    document = pages.document({table.corpus: [pages.blocks(table)]})
    assert all(line.isprintable() for line in document.split("\n"))
    cells = csv.reader(io.StringIO(tables.per_instrument(scored), newline=""))
    assert not any(cell.startswith(("=", "+", "@")) for row in cells for cell in row)
    markdown_it = pytest.importorskip("markdown_it")
    rendered = markdown_it.MarkdownIt("commonmark").enable("table").render(document)
    assert "<b>" not in rendered and "<i>" not in rendered
    for body in re.findall(r"<tr>.*?</tr>", rendered, re.DOTALL):
        assert len(re.findall("<t[hd]", body)) in (7, 8)
    for stem, figure in plots.draw(table, [], []).items():
        style.save(figure, tmp_path / "figures", stem, ["pdf"])


def test_a_model_card_shows_names_as_text(tmp_path):
    names = {"corpus": "a|b\n<b>", "conf": "c`d|"}
    config = Config.from_dict(CONFIG | {"run": CONFIG["run"] | names})
    about = {
        "classes": NAMES,
        "threshold": 0.5,
        "trainable_parameters": 1,
        "total_parameters": 2,
        "backbone": {
            "name": "n|",
            "file": "f",
            "file_sha256": "0",
            "url": None,
            "licence": None,
        },
        "spec": {"backbone": {"name": "ast", "finetune": False}},
        "feature": {"name": "mine.Own"},
    }
    make_run(tmp_path / "x", classes=NAMES, metrics=scores(0.5, NAMES))
    results = json.loads((tmp_path / "x/ast_unet/seed0/results.json").read_text())
    card = model_card.render(about, config, Window(), results, False, False, False)
    text = card.split("---\n", 2)[2]
    assert "It is built from `mine.Own`" in text
    assert all(line.isprintable() for line in text.split("\n"))
    markdown_it = pytest.importorskip("markdown_it")
    rendered = markdown_it.MarkdownIt("commonmark").enable("table").render(text)
    assert "<b>" not in rendered and "<img" not in rendered
    rows = re.findall("<tr>.*?</tr>", rendered, re.DOTALL)
    cells = [len(re.findall("<t[hd]", row)) for row in rows]
    # Two tables of five columns: of this model and the floors, and of the classes; each has a head.
    assert set(cells) == {2, 5} and cells.count(5) == (1 + 3) + (1 + len(NAMES))
