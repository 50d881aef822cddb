"""Tables as text for a terminal, Markdown for RESULTS.md, and CSV per instrument.

Each corpus, protocol and backbone has two: accuracy, and complexity (parameters,
multiply-accumulates, time), both without variants; then an accuracy table for each study. Numbers
are percentages, mean ± standard deviation (n - 1) over seeds. Accuracy is measured on the observed
labels and, if it is known, on the truth; macro-F1 is compared with that of a reference method.
Published numbers have a column if they were obtained on the table's corpus.
"""

import csv
import io
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tabulate import SEPARATING_LINE, tabulate

from .. import escaping
from .bootstrap import LEVEL, RESAMPLES, SIGNIFICANCE
from .compare import Comparison, Difference, compare_with_reference, kendall_tau
from .published import Published
from .results import Table, is_pretrained, mean_std
from .schema import BASELINES, METRICS, OBSERVED, PER_INSTRUMENT, TRUTH, TRUTH_METRICS
from .studies import Study

WIDTH = 120  # columns of a terminal
LEAST_WIDTH = 28  # of the first column
REFERENCE = "ast_linear"  # the method that the others are compared with, by default
ACCURACY = [
    "method",
    "norm",
    "trained parameters",
    "epoch",
    "macro-F1 %",
    "pos. F1 %",
    "mAP %",
    "AUROC %",
]
ON_TRUTH = ["truth macro-F1 %", "truth mAP %", "truth AUROC %"]
ERROR = "sampling error"
DIFFERENCE = "difference, points"
# Columns that a terminal too narrow for all of them lacks, the first one first.
DROPPED = ["pos. F1 %", "epoch", "truth AUROC %", "AUROC %", "mAP %", "norm", ERROR]
COMPLEXITY = [
    "method",
    "trained parameters",
    "total parameters",
    "MAC per clip",
    "s per epoch",
    "epochs",
    "training time",
]
NONE = "-"
COSTS = (
    "MAC: multiply-accumulate operations of one clip's prediction. Training time is the mean over "
    "seeds, on the machines that RESULTS.md lists."
)
HEAD = (
    "# Results\n\nMade from the results.json of each run by the stage `report`; edits are lost.\n"
)


@dataclass(frozen=True)
class Grid:
    """A table as strings: a cell per heading and line; the first `text_columns` hold text."""

    headings: list[str]
    lines: list[list[str]]
    text_columns: int

    def with_column(self, heading: str, cells: list[str]) -> "Grid":
        """Add a column, unless there is nothing in it."""
        if set(cells) <= {NONE}:
            return self
        lines = [[*line, cell] for line, cell in zip(self.lines, cells, strict=True)]
        return replace(self, headings=[*self.headings, heading], lines=lines)

    def without(self, heading: str) -> "Grid":
        """Remove a column."""
        place = self.headings.index(heading)
        headings = self.headings[:place] + self.headings[place + 1 :]
        lines = [line[:place] + line[place + 1 :] for line in self.lines]
        text_columns = self.text_columns - int(place < self.text_columns)
        return Grid(headings, lines, text_columns)

    def escaped(self, escape: Callable[[str], str]) -> "Grid":
        """Escape the columns that hold text."""
        count = self.text_columns
        lines = [[*map(escape, line[:count]), *line[count:]] for line in self.lines]
        return replace(self, lines=lines)

    @property
    def alignment(self) -> list[str]:
        numbers = len(self.headings) - self.text_columns
        return ["left"] * self.text_columns + ["right"] * numbers


@dataclass(frozen=True)
class Heading:
    """A heading between blocks."""

    text: str
    level: int


def accuracy(table: Table) -> Grid:
    """Fill the accuracy table: the constant baselines, then the methods."""
    lines = []
    baselines = table.scored_on(OBSERVED)["constant_baselines"]
    for baseline, name in BASELINES.items():
        scores = [_percent([baselines[baseline][key]]) for key in METRICS]
        lines.append([name, NONE, "0", NONE, *scores])
    for method in table.methods:
        epoch, _, _ = mean_std(method.values("selection", "epoch"))
        line = [method.label, method["norm"], f"{method['trainable_parameters']:,}"]
        line.append(f"{round(epoch, 1):g}")
        for key in METRICS:
            line.append(_percent(method.scores(OBSERVED, key), count=key == METRICS[0]))
        lines.append(line)
    grid = Grid(ACCURACY, lines, 2)
    if table.has_truth:
        baselines = table.scored_on(TRUTH)["constant_baselines"]
        for heading, key in zip(ON_TRUTH, TRUTH_METRICS, strict=True):
            cells = [_percent([baselines[baseline][key]]) for baseline in BASELINES]
            cells += [_percent(method.scores(TRUTH, key)) for method in table.methods]
            grid = grid.with_column(heading, cells)
    return grid


def complexity(table: Table) -> Grid:
    """Fill the complexity table."""
    lines = []
    for method in table.methods:
        total, _, _ = mean_std(method.values("total_parameters"))
        seconds, _, _ = mean_std(method.values("seconds_per_epoch"))
        epochs, _, _ = mean_std(method.values("epochs"))
        time, _, _ = mean_std(method.values("train_seconds"))
        lines.append(
            [
                method.label,
                f"{method['trainable_parameters']:,}",
                f"{round(total):,}",
                _magnitude(method["macs"]),
                f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2g}",
                f"{round(epochs, 1):g}",
                _duration(time),
            ]
        )
    return Grid(COMPLEXITY, lines, 1)


def with_published(table: Table, scores: Grid, costs: Grid) -> tuple[Grid, Grid, list[str]]:
    """Add columns of published numbers to the accuracy and complexity tables.

    Returns:
        (accuracy, complexity, footnotes)
    """
    notes: list[str] = []
    macro_f1 = [NONE] * len(BASELINES)
    parameters = []
    for method in table.methods:
        published = table.published(method)
        macro_f1.append(NONE)
        parameters.append(NONE)
        if published is None:
            continue
        note = _footnote(published, notes)
        average, _, count = mean_std(published.macro_f1)
        macro_f1[-1] = f"{average:.1f} ({count}) {note}"
        if published.trainable_parameters is not None:
            parameters[-1] = f"{published.trainable_parameters:.3f} M {note}"
    scores = scores.with_column("published macro-F1 %", macro_f1)
    costs = costs.with_column("published trained parameters", parameters)
    return scores, costs, notes


def with_comparison(table: Table, scores: Grid, comparison: Comparison) -> Grid:
    """Add the sampling errors, and the differences from the reference, to an accuracy table."""
    errors = [NONE] * len(BASELINES)
    differences = [NONE] * len(BASELINES)
    for method in table.methods:
        error = comparison.errors.get(method.conf)
        errors.append(NONE if error is None else f"{100 * error:.1f}")
        difference = comparison.differences.get(method.conf)
        differences.append(NONE if difference is None else _points(difference))
    return scores.with_column(ERROR, errors).with_column(DIFFERENCE, differences)


def accuracy_with_comparison(table: Table, reference: str | None) -> tuple[Grid, list[str]]:
    """Fill the accuracy table with the comparison of its methods with one of them.

    Args:
        reference: its conf; the table may lack it.

    Returns:
        (table, paragraphs that explain the added columns and say what they lack)
    """
    comparison = compare_with_reference(table, reference)
    scores = with_comparison(table, accuracy(table), comparison)
    paragraphs = []
    if ERROR in scores.headings:
        paragraphs.append(
            f"Sampling error: bootstrap standard error, over test clips, of macro-F1 on the "
            f"{comparison.labels}, in points; ± is the standard deviation over seeds."
        )
    if DIFFERENCE in scores.headings:
        paragraphs.append(
            f"Difference: macro-F1 on the {comparison.labels} minus that of {reference}, paired by "
            f"seed and clip, with a {LEVEL} % bootstrap interval over the test clips "
            f"({RESAMPLES:,} resamples). *: it differs from zero after Holm's correction for the "
            f"number of differences, {len(comparison.differences)} (chance of a false mark in the "
            f"table: at most {100 * SIGNIFICANCE:g} %)."
        )
    return scores, paragraphs + _agreement(table) + comparison.problems


def _agreement(table):
    """A paragraph on whether observed labels and the truth rank methods alike."""
    observed = []
    truth = []
    for method in table.methods:
        on_labels, _, _ = mean_std(method.scores(OBSERVED, "macro_f1"))
        on_truth, _, _ = mean_std(method.scores(TRUTH, "macro_f1"))
        if on_labels is not None and on_truth is not None:
            observed.append(on_labels)
            truth.append(on_truth)
    if len(truth) < 3:
        return []
    return [
        f"Macro-F1 on the observed labels and on the truth rank the {len(truth)} methods with "
        f"Kendall's tau {kendall_tau(observed, truth):.2f} (1: the same order, -1: reversed)."
    ]


def explanations(table: Table) -> list[str]:
    """Explain the data, the methods, the baselines and the columns of a table, in paragraphs."""
    paragraphs = [
        f"Split {table['split']!r}: {table['clips']:,} clips, {len(table['classes'])} instruments, "
        f"scored on {table['observed']:,} observed labels.{_without_score(table, OBSERVED)}"
    ]
    if table.has_truth:
        paragraphs.append(
            "Columns of the truth are scored on every instrument of every clip, "
            f"{table['clips'] * len(table['classes']):,} cells; nothing is trained or chosen on "
            f"the truth.{_without_score(table, TRUTH)}"
        )
    described = {}
    for method in table.methods:
        if method.entry and method.entry.description:
            described[method.name] = method.entry.description
    if described:
        paragraphs.append(f"Methods: {_list(described)}.")
    selections = sorted({_selection(run["selection"]) for run in table.runs})
    columns = {
        "norm": "statistics that normalise the input (backbone: those of the pre-training data; "
        "corpus: those of the training clips; none: not normalised)",
        "macro-F1": "per instrument the mean of the F1 of 'present' and the F1 of 'absent' at "
        f"threshold {table['threshold']:g}, then the mean over instruments",
        "pos. F1": "F1 of 'present'",
        "mAP": "mean average precision",
        "AUROC": "area under the ROC curve",
        "epoch": f"the evaluated one, {'; '.join(selections)}",
    }
    return [
        *paragraphs,
        "Baselines: 'always absent' and 'always present' are constant predictions, the same for "
        "every clip and instrument.",
        f"Columns: {_list(columns)}. Values are means ± standard deviations over seeds (number of "
        "seeds).",
    ]


Block = Heading | str | Grid | Table


def blocks(
    table: Table, studies: Iterable[Study] = (), reference: str | None = REFERENCE
) -> list[Block]:
    """Compose what a page shows of a table: headings, paragraphs, and grids.

    A Table stands for where it comes from (commands, weights, machines).

    Args:
        reference: the conf that the others are compared with; a study may name another.
    """
    page: list[Block] = [Heading(table.title, 3), *explanations(table)]
    if table.main.methods:
        scores, paragraphs = accuracy_with_comparison(table.main, reference)
        scores, costs, notes = with_published(table.main, scores, complexity(table.main))
        page += [*paragraphs, scores, COSTS, costs, *notes, table.main]
    for study in studies:
        shown = study.table(table)
        if shown is None:
            continue
        page.append(Heading(f"Study {study.name}: {study.question}", 4))
        missing = study.missing(shown)
        if missing:
            page.append(f"Not run: {', '.join(missing)}.")
        scores, paragraphs = accuracy_with_comparison(shown, study.against or reference)
        page += [*paragraphs, scores, shown]
    return page


def text(page: Iterable[Block]) -> str:
    """Format `blocks` for the terminal, at most WIDTH columns."""
    parts = []
    for block in page:
        if isinstance(block, Heading):
            parts.append(escaping.terminal(block.text))
        elif isinstance(block, Grid):
            grid, dropped = _fitted(block.escaped(escaping.terminal))
            parts.append(_aligned(grid))
            if dropped:
                parts.append(f"Not shown for lack of width: {', '.join(dropped)}; see RESULTS.md.")
        elif isinstance(block, str):
            parts.append(textwrap.fill(escaping.terminal(block), WIDTH))
    return "\n\n".join(parts)


def accuracy_markdown(table: Table, reference: str | None = REFERENCE) -> str:
    """Format the terminal's columns of accuracy as Markdown, without explanations."""
    scores, _ = accuracy_with_comparison(table.main, reference)
    grid, _ = _fitted(scores)
    return _piped(grid.escaped(escaping.markdown))


def markdown(page: Iterable[Block]) -> str:
    """Format `blocks` as Markdown."""
    parts = []
    for block in page:
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {escaping.markdown(block.text)}")
        elif isinstance(block, Grid):
            parts.append(_piped(block.escaped(escaping.markdown)))
        elif isinstance(block, str):
            parts.append(escaping.markdown(block))
        else:
            parts += [_commands(block), _provenance(block)]
    return "\n\n".join(parts)


def document(sections: Mapping[str, Sequence[Sequence[Block]]]) -> str:
    """Compose RESULTS.md.

    Args:
        sections: the `blocks` of each table of each corpus, by the name of its folder in exp/.
    """
    parts = [HEAD.rstrip("\n")]
    for folder, pages in sections.items():
        parts.append(f"## {escaping.markdown(folder)}")
        parts += [markdown(page) for page in pages]
        figures = escaping.markdown_code(f"exp/{folder}/figures/")
        instruments = escaping.markdown_code(f"exp/{folder}/per_instrument.csv")
        parts.append(f"Figures: {figures}; per instrument: {instruments}.")
    return "\n\n".join(parts) + "\n"


def per_instrument(tables: Iterable[Table]) -> str:
    """Write CSV of every instrument and method: fractions 0..1, empty if there is none.

    Columns that begin with "truth" are on the truth, the others on the observed labels.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = ["corpus", "protocol", "backbone", "conf", "method", "instrument", "seeds"]
    head += _csv_headings("")
    head += _csv_headings("truth_")
    writer.writerow(head)
    for table in tables:
        place = [table.corpus, table.protocol, table.backbone]
        for baseline, name in BASELINES.items():
            observed = [table.scored_on(OBSERVED)["constant_baselines"][baseline]]
            truth = []
            if table.has_truth:
                truth = [table.scored_on(TRUTH)["constant_baselines"][baseline]]
            keys = [*place, baseline, name]
            writer.writerows(_csv_lines(keys, table["classes"], "", observed, truth))
        for method in table.methods:
            observed = method.metrics(OBSERVED)
            truth = method.metrics(TRUTH)
            keys = [*place, method.conf, method.name]
            seeds = len(method.runs)
            writer.writerows(_csv_lines(keys, table["classes"], seeds, observed, truth))
    return file.getvalue()


def _csv_headings(prefix):
    headings = [f"{prefix}present", f"{prefix}absent"]
    for metric in PER_INSTRUMENT:
        headings += [f"{prefix}{metric}_mean", f"{prefix}{metric}_std"]
    return headings


def _csv_lines(keys, classes, seeds, observed, truth):
    for name in classes:
        keys_of_line = [escaping.csv_cell(key) for key in (*keys, name)]
        yield [*keys_of_line, seeds, *_csv_values(name, observed), *_csv_values(name, truth)]


def _csv_values(name, scores):
    """The values of an instrument below `_csv_headings`; empty without scores."""
    if not scores:
        return [None] * len(_csv_headings(""))
    values = [score["per_instrument"][name] for score in scores]
    line = [values[0]["present"], values[0]["absent"]]
    for metric in PER_INSTRUMENT:
        average, deviation, _ = mean_std(value[metric] for value in values)
        line += [average, deviation]
    return line


def _list(items):
    return "; ".join(f"{name}: {explanation}" for name, explanation in items.items())


def _without_score(table, labels):
    """A sentence about the instruments that have labels of one kind only."""
    names = []
    for name, scores in table.scored_on(labels)["metrics"]["per_instrument"].items():
        if scores["macro_f1"] is None:
            names.append(f"{name} ({scores['present']} present, {scores['absent']} absent)")
    if not names:
        return ""
    return f" Left out of every mean, for lack of labels of both kinds: {'; '.join(names)}."


def _selection(selection):
    """How a run's epoch was chosen, in words."""
    metric = "{metric} ({mode}) on the split {split!r}".format(**selection)
    if selection.get("value", 0) is None:
        return f"the last, as there is no {metric}"
    return f"the best by {metric}"


def _percent(values, count=False):
    """Format fractions in per cent: the mean, the deviation, and how many there are.

    >>> _percent([0.7, 0.72], count=True), _percent([None])
    ('71.0 ± 1.4 (2)', '-')
    """
    average, deviation, n = mean_std(values)
    if average is None:
        return NONE
    text = f"{100 * average:.1f}"
    if deviation is not None:
        text += f" ± {100 * deviation:.1f}"
    return f"{text} ({n})" if count else text


def _points(difference: Difference) -> str:
    """Format a difference in points, with its interval and, if it is significant, a mark."""
    numbers = (difference.value, difference.low, difference.high)
    value, low, high = [f"{100 * number:+.1f}" for number in numbers]
    mark = " *" if difference.significant else ""
    return f"{value} [{low}, {high}]{mark}"


def _footnote(published: Published, notes: list[str]) -> str:
    """The number, "[1]", of the footnote about the source of published numbers."""
    note = (
        f"Published on {published.corpus}; protocol: {published.protocol}; "
        f"source: {published.source}"
    )
    texts = [text.partition(" ")[2] for text in notes]
    if note not in texts:
        notes.append(f"[{len(notes) + 1}] {note}")
        texts.append(note)
    return f"[{texts.index(note) + 1}]"


def _duration(seconds):
    """Format seconds.

    >>> _duration(93.1), _duration(1000), _duration(9000)
    ('93 s', '17 min', '2.5 h')
    """
    if seconds < 600:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _magnitude(count):
    """Format a count with three digits.

    >>> _magnitude(2_311_000_000), _magnitude(55_336), _magnitude(None)
    ('2.31 G', '55.3 k', '-')
    """
    if count is None:
        return NONE
    power = min(4, (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.3g} {['', 'k', 'M', 'G', 'T'][power]}".strip()


def _fitted(grid: Grid) -> tuple[Grid, list[str]]:
    """Drop columns until a grid fits the terminal; return it and what it lacks."""
    dropped = []
    for heading in DROPPED:
        if _width(grid) <= WIDTH:
            break
        if heading in grid.headings:
            grid = grid.without(heading)
            dropped.append(heading.removesuffix(" %"))
    return grid, dropped


def _width(grid):
    """The width of a grid for the terminal, whose first column may be wrapped."""
    first, *others = _widths(grid)
    return min(first, LEAST_WIDTH) + sum(others) + 2 * len(others)


def _aligned(grid):
    """Format a grid for the terminal: headings and the first column wrap."""
    widths = _widths(grid)
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * len(widths[1:]))
    headings = [_wrapped(*cell) for cell in zip(grid.headings, widths, strict=True)]
    lines = [[_wrapped(line[0], widths[0]), *line[1:]] for line in grid.lines]
    # As a heading of tabulate's own, each would be padded by two columns.
    return tabulate(
        [headings, SEPARATING_LINE, *lines],
        tablefmt="simple",
        colalign=grid.alignment,
        disable_numparse=True,
    )


def _widths(grid):
    """The width of each column, with its heading's words on separate lines."""
    widths = []
    for column, heading in enumerate(grid.headings):
        cells = [line[column] for line in grid.lines]
        widths.append(max(map(len, [*cells, *heading.split()])))
    return widths


def _piped(grid):
    """Format a grid as Markdown."""
    return tabulate(
        grid.lines,
        grid.headings,
        tablefmt="pipe",
        colalign=grid.alignment,
        disable_numparse=True,
    )


def _wrapped(text, width):
    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))


def _commands(table):
    """Markdown: the commands that started a table's runs."""
    commands = dict.fromkeys(run["command"] for run in table.runs)
    return "\n".join(["```", *map(escaping.terminal, commands), "```"])


def _provenance(table):
    """Markdown: the frozen weights, machines, versions and commits behind a table."""
    lines = set()
    for run in table.runs:
        if is_pretrained(run):
            sha256 = run["backbone"]["sha256"] or "unknown"
            lines.add(f"frozen weights: {table.backbone}, sha256 {sha256}")
    lines = sorted(lines)
    machines: dict[str, set[str]] = {}
    for run in table.runs:
        machine = "{device}, {cores} cores, {platform}, Python {python}, torch {torch}".format(
            **run["machine"]
        )
        machine += f", commit {run['commit'] or 'unknown'}"
        machines.setdefault(machine, set()).add(run["conf"])
    for machine, confs in machines.items():
        lines.append(f"{machine} ({', '.join(sorted(confs))})" if len(machines) > 1 else machine)
    return "\n".join(f"- {escaping.markdown(line)}" for line in lines)
