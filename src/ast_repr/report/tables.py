"""Tables as aligned text for a terminal, Markdown for RESULTS.md, CSV per instrument.

Each corpus, protocol and backbone has two: accuracy (macro-F1 and its company) and complexity
(parameters, multiply-accumulates, time), both of the plain confs; then an accuracy table for each
study. Numbers are percentages, mean +- standard deviation (n - 1) over seeds, with n in brackets;
"-" stands for none. Published numbers have a column if they are of the table's own corpus.
"""

import csv
import io
import shlex
import textwrap
from dataclasses import dataclass

from .. import escaping
from .compare import LEVEL, RESAMPLES, compare
from .results import ResultsError, corpus_options, mean_std, published, recipe
from .schema import FLOORS, METRICS, PER_INSTRUMENT

WIDTH = 120  # columns of a terminal
HEADINGS = [
    "method",
    "norm",
    "trained parameters",
    "macro-F1 %",
    "pos. F1 %",
    "mAP %",
    "AUROC %",
    "epoch",
]
COMPLEXITY = [
    "method",
    "trained parameters",
    "total parameters",
    "MAC per clip",
    "s per epoch",
    "epochs",
    "training time",
]
COSTS = (
    "MAC: multiply-accumulates of one clip's prediction. "
    "Times are those of the machines and commits that RESULTS.md names."
)


@dataclass(frozen=True)
class Cells:
    """A table as strings: headings, `lines` of one cell per heading, and notes for below it."""

    headings: list
    lines: list
    notes: list


def cells(table, spread):
    """Fill the accuracy table, without published numbers.

    Args:
        table: `results.Table`.
        spread: whether every metric shows its deviation; if not, only macro-F1 does, which fits a
            terminal.

    Returns:
        Cells: the two floors first, then the table's rows.
    """
    lines = []
    for floor, name in FLOORS.items():
        lines.append(
            [
                name,
                "-",
                "0",
                *(
                    _percent([table["constant_baselines"][floor][metric]], False)
                    for metric in METRICS
                ),
                "-",
            ]
        )
    for row in table.rows:
        macro_f1, *others = ([run["metrics"][metric] for run in row.runs] for metric in METRICS)
        scores = [
            _percent(macro_f1, True, count=True),
            *(_percent(values, spread) for values in others),
        ]
        epoch, _, _ = mean_std(row.values("selection", "epoch"))
        trained = f"{row['trainable_parameters']:,}"
        lines.append([row.label, row["norm"], trained, *scores, f"{round(epoch, 1):g}"])
    return Cells(HEADINGS, lines, [])


def complexity(table):
    """Fill the complexity table, without published numbers."""
    lines = []
    for row in table.rows:
        total, seconds, epochs, time = (
            mean_std(row.values(key))[0]
            for key in ("total_parameters", "seconds_per_epoch", "epochs", "train_seconds")
        )
        trained = f"{row['trainable_parameters']:,}"
        lines.append(
            [
                row.label,
                trained,
                f"{round(total):,}",
                _magnitude(row["macs"]),
                f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2g}",
                f"{round(epochs, 1):g}",
                _duration(time),
            ]
        )
    return Cells(COMPLEXITY, lines, [])


def with_published(table, accuracy, costs):
    """The two tables with a last column of published numbers, if some are of the table's corpus.

    Args:
        table: `results.Table`.
        accuracy, costs: its Cells, see `cells` and `complexity`.

    Returns:
        (accuracy, costs), the latter with the footnotes of both.
    """
    notes = []
    scores = ["-"] * len(FLOORS)
    parameters = []
    for row in table.rows:
        numbers = published(row, table)
        scores.append(_published(numbers, notes))
        parameters.append(_published_parameters(numbers, notes))
    accuracy = _with_column(accuracy, "published macro-F1 %", scores)
    costs = _with_column(costs, "published trained parameters", parameters)
    return accuracy, Cells(costs.headings, costs.lines, notes)


def _with_column(filled, heading, column):
    """`filled` with one more column, unless there is nothing in it."""
    if set(column) <= {"-"}:
        return filled
    lines = [[*line, cell] for line, cell in zip(filled.lines, column, strict=True)]
    return Cells([*filled.headings, heading], lines, filled.notes)


def study_cells(study, table, spread):
    """Fill the accuracy table of a study.

    Args:
        study: `studies.Study`.
        table: `study.table(...)`.
        spread: see `cells`.

    Returns:
        Cells; if the study has `against`, with differences from it, and a note for each row whose
        predictions do not allow one.
    """
    filled = cells(table, spread)
    if study.against not in {row.conf for row in table.rows}:
        return filled
    (base,) = table.only([study.against]).rows
    notes = []
    differences = ["-"] * len(FLOORS) + [_difference(base, row, notes) for row in table.rows]
    filled = _with_column(filled, "difference, points", differences)
    return Cells(filled.headings, filled.lines, notes)


def caption(table, escape):
    """Sentences that say what the numbers are: labels, metric, and how the epoch was chosen.

    Args:
        escape: for names of classes and metrics, such as `escaping.markdown`.
    """
    chosen = sorted({_selection(run["selection"]) for run in table.runs})
    one_sided = [
        f"{name} ({scores['present']} present, {scores['absent']} absent)"
        for name, scores in table["metrics"]["per_instrument"].items()
        if scores["macro_f1"] is None
    ]
    missing = ""
    if one_sided:
        names = escape("; ".join(one_sided))
        missing = f" Left out of every mean, for want of labels of both kinds: {names}."
    return (
        f"Split {table['split']!r}: {table['clips']:,} clips, "
        f"{table['observed']:,} observed labels, {len(table['classes'])} instruments. "
        "macro-F1 is two-class: per instrument the mean of the F1 of present and the F1 of absent "
        f"over observed labels at threshold {table['threshold']:g}, then the mean over "
        "instruments; "
        f"pos. F1 is the F1 of present alone.{missing} "
        f"The epoch is {escape('; '.join(chosen))}. "
        "Mean ± standard deviation over seeds, (n seeds)."
    )


def _selection(selection):
    """How a run's epoch was chosen, in words."""
    metric = "{metric} ({mode}) on the split {split!r}".format(**selection)
    if selection.get("value", 0) is None:
        return f"the last one, as it has no {metric}"
    return f"the best one by {metric}"


def text(table):
    """Accuracy and complexity for the terminal, at most WIDTH columns, with footnotes below."""
    accuracy, costs = with_published(table, cells(table, spread=False), complexity(table))
    notes = map(escaping.terminal, costs.notes)
    sentences = (caption(table, escaping.terminal), COSTS, *notes)
    below = [textwrap.fill(line, WIDTH) for line in sentences]
    title = escaping.terminal(table.title)
    return "\n".join([title, "", *_aligned(accuracy, 2), "", *_aligned(costs, 1), "", *below])


def study_text(study, table):
    """The same for a study: its question, its rows, and which were not run.

    `table` is study.table(...).
    """
    filled = study_cells(study, table, False)
    notes = map(escaping.terminal, _study_notes(study, table) + filled.notes)
    below = [textwrap.fill(line, WIDTH) for line in notes]
    return "\n".join(
        [
            escaping.terminal(f"Study {study.name}: {study.question}"),
            escaping.terminal(table.title),
            "",
            *_aligned(filled, 2),
            "",
            *below,
        ]
    )


def markdown(table, studies=()):
    """A table's plain confs and its studies for RESULTS.md, with the deviation of every metric.

    Args:
        table: `results.Table` of plain confs and variants.
        studies: list of `studies.Study`; see there which of them are shown.
    """
    out, main = [f"### {escaping.markdown(table.title)}", ""], table.main
    if main.rows:
        accuracy, costs = with_published(main, cells(main, spread=True), complexity(main))
        out += [caption(main, escaping.markdown), "", *_bars(accuracy, 2), ""]
        out += [COSTS, "", *_bars(costs, 1)]
        for note in costs.notes:
            number, _, said = note.partition(" ")
            out += ["", f"{number} {escaping.markdown(said)}"]
        out += ["", *_provenance(main)]
    for study in studies:
        rows = study.table(table)
        if rows:
            filled = study_cells(study, rows, True)
            notes = []
            for note in _study_notes(study, rows) + filled.notes:
                notes += [escaping.markdown(note), ""]
            out += [
                "",
                f"#### {escaping.markdown(f'Study {study.name}: {study.question}')}",
                "",
                *_bars(filled, 2),
                "",
            ]
            for note in notes:
                out += [note, ""]
            out += _provenance(rows)
    return "\n".join(out)


def document(sections, studies=()):
    """RESULTS.md.

    Args:
        sections: dict of the name of a corpus' folder in exp/ to its list of Table.
        studies: list of `studies.Study`; see there which of them are shown.
    """
    out = [
        "# Results",
        "",
        "Made from the results.json of each run by the stage `report`; edits are lost.",
    ]
    for folder, tables in sections.items():
        out += ["", f"## {escaping.markdown(folder)}"]
        for table in tables:
            out += ["", markdown(table, studies)]
        figures = escaping.markdown_code(f"exp/{folder}/figures/")
        instruments = escaping.markdown_code(f"exp/{folder}/per_instrument.csv")
        out += ["", f"Figures: {figures}; each instrument: {instruments}."]
    return "\n".join(out) + "\n"


def commands(table):
    """The commands that remake a table's runs, one for each set of seeds.

    Returns:
        list of "source run.sh --corpus ... --protocol ... --conf a,b --seeds 0,1,2"
    """
    corpus = corpus_options(table.corpus, recipe(table.rows[0].runs[0].folder))
    start = f"source run.sh {corpus} --protocol {table.protocol}"
    confs = {}
    for row in table.rows:
        confs.setdefault(",".join(str(run["seed"]) for run in row.runs), []).append(row.conf)
    return [
        f"{start} --conf {shlex.quote(','.join(names))} --seeds {seeds}"
        for seeds, names in confs.items()
    ]


def per_instrument(tables):
    """CSV of every instrument under every row: fractions 0..1, empty where there is none.

    Args:
        tables: list of Table; their columns corpus, protocol and backbone keep them apart.
    """
    file = io.StringIO()
    head = [
        "corpus",
        "protocol",
        "backbone",
        "conf",
        "row",
        "instrument",
        "present",
        "absent",
        "seeds",
    ]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        head + [f"{metric}_{part}" for metric in PER_INSTRUMENT for part in ("mean", "std")]
    )
    for table in tables:
        sources = [
            (floor, name, [table["constant_baselines"][floor]]) for floor, name in FLOORS.items()
        ]
        sources += [(row.conf, row.name, row.values("metrics")) for row in table.rows]
        for conf, name, scores in sources:
            for instrument in table["classes"]:
                found = [score["per_instrument"][instrument] for score in scores]
                parts = [
                    part
                    for metric in PER_INSTRUMENT
                    for part in mean_std([one[metric] for one in found])[:2]
                ]
                seeds = "" if conf in FLOORS else len(scores)
                key = [table.corpus, table.protocol, table.backbone, conf, name, instrument]
                key = map(escaping.csv_cell, key)
                writer.writerow([*key, found[0]["present"], found[0]["absent"], seeds, *parts])
    return file.getvalue()


def _percent(values, spread, count=False):
    """
    >>> _percent([0.7, 0.72], True, count=True), _percent([None], True)
    ('71.0 ± 1.4 (2)', '-')
    """
    middle, deviation, n = mean_std(values)
    if middle is None:
        return "-"
    shown = f" ± {100 * deviation:.1f}" if spread and deviation is not None else ""
    return f"{100 * middle:.1f}{shown}" + (f" ({n})" if count else "")


def _difference(base, row, notes):
    """A row's difference from `base` in points of macro-F1, with its bootstrap interval.

    "-" if the two have no seed in common, or cannot be compared; for the latter a note is added.
    """
    if row is base or not set(base.values("seed")) & set(row.values("seed")):
        return "-"
    try:
        difference = compare(base, row)["macro_f1"]
    except ResultsError as error:
        notes.append(f"No difference for {row.conf}: {error}.")
        return "-"
    points = {key: 100 * value for key, value in difference.items()}
    return "{difference:+.1f} [{low:+.1f}, {high:+.1f}]".format(**points)


def _published(numbers, notes):
    """Mean of published macro-F1s with the number of its footnote, which `notes` gets if new."""
    if numbers is None:
        return "-"
    mean = _percent([value / 100 for value in numbers["macro_f1"]], False, count=True)
    return f"{mean} {_footnote(numbers, notes)}"


def _published_parameters(numbers, notes):
    """The same for the published number of trained parameters, in millions."""
    if numbers is None or "trainable_parameters" not in numbers:
        return "-"
    return f"{numbers['trainable_parameters']:.3f} M {_footnote(numbers, notes)}"


def _footnote(numbers, notes):
    """The number, "[1]", of the footnote that says where published numbers are from."""
    note = (
        f"Published on {numbers['corpus']}; protocol: {numbers['protocol']}; "
        f"source: {numbers['source']}"
    )
    texts = [text.split("] ", 1)[1] for text in notes]
    if note not in texts:
        notes.append(f"[{len(notes) + 1}] {note}")
        texts.append(note)
    return f"[{texts.index(note) + 1}]"


def _duration(seconds):
    """
    >>> _duration(93.1), _duration(1000), _duration(9000)
    ('93 s', '17 min', '2.5 h')
    """
    return (
        f"{seconds:.0f} s"
        if seconds < 600
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _magnitude(count):
    """
    >>> _magnitude(2_311_000_000), _magnitude(55_336), _magnitude(None)
    ('2.31 G', '55.3 k', '-')
    """
    if count is None:
        return "-"
    power = min(4, (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.3g} {['', 'k', 'M', 'G', 'T'][power]}".strip()


def _aligned(filled, left):
    """Lines of a table for the terminal, at most WIDTH columns.

    Names wrap; the first `left` columns hold text and stand to the left.
    """
    filled = _escaped(filled, left, escaping.terminal)
    widths = [
        max(map(len, [*column, *heading.split()]))
        for heading, *column in zip(filled.headings, *filled.lines, strict=True)
    ]
    widths[0] = min(
        max(len(line[0]) for line in filled.lines),
        max(20, WIDTH - sum(widths[1:]) - 2 * len(widths[1:])),
    )

    def aligned(values):
        sides = [str.ljust] * left + [str.rjust] * (len(widths) - left)
        return "  ".join(
            side(value, width) for side, value, width in zip(sides, values, widths, strict=True)
        ).rstrip()

    heads = [
        textwrap.wrap(heading, width, break_on_hyphens=False)
        for heading, width in zip(filled.headings, widths, strict=True)
    ]
    height = max(map(len, heads))
    raised = [[""] * (height - len(head)) + head for head in heads]
    out = [aligned(level) for level in zip(*raised, strict=True)]
    out.append("-" * max(map(len, out)))
    for name, *values in filled.lines:
        wrapped = textwrap.wrap(name, widths[0], subsequent_indent="  ", break_on_hyphens=False)
        out += [aligned([wrapped[0], *values]), *wrapped[1:]]
    return out


def _bars(filled, left):
    """The same lines in Markdown."""
    filled = _escaped(filled, left, escaping.markdown)
    rows = [
        filled.headings,
        [":--"] * left + ["--:"] * (len(filled.headings) - left),
        *filled.lines,
    ]
    return [f"| {' | '.join(row)} |" for row in rows]


def _escaped(filled, left, escape):
    """The Cells with their first `left` columns, which hold text, escaped."""
    lines = [[*map(escape, line[:left]), *line[left:]] for line in filled.lines]
    return Cells(filled.headings, lines, filled.notes)


def _study_notes(study, table):
    """Sentences below a study's table."""
    missing = study.not_run(table)
    notes = [f"Not run: {', '.join(missing)}."] if missing else []
    if study.against in {row.conf for row in table.rows}:
        notes.append(
            f"Difference: macro-F1 minus that of {study.against}, paired by seed and clip, "
            f"with a {LEVEL} % bootstrap interval over the test clips ({RESAMPLES:,} resamples)."
        )
    return notes


def _provenance(table):
    """Markdown: the commands, frozen weights, machines, versions and commits behind a table."""
    places = {}
    for row in table.rows:
        for run in row.runs:
            where = "{device}, {cores} cores, {platform}, Python {python}, torch {torch}".format(
                **run["machine"]
            )
            places.setdefault(f"{where}, commit {run['commit'] or 'unknown'}", set()).add(row.conf)
    weights = sorted(
        {
            run["backbone"]["sha256"] or "unknown"
            for run in table.runs
            if run["backbone"]["weights"] not in ("random", "none")
        }
    )
    out = ["```", *map(escaping.terminal, commands(table)), "```"]
    lines = [f"frozen weights: {table.backbone}, sha256 {sha256}" for sha256 in weights]
    for place, confs in places.items():
        named = f" ({', '.join(sorted(confs))})" if len(places) > 1 else ""
        lines.append(place + named)
    return out + [f"- {escaping.markdown(line)}" for line in lines]
