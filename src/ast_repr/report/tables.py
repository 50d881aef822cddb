"""Tables as text for a terminal, Markdown for RESULTS.md, and CSV per instrument.

Each corpus, protocol and backbone has two: accuracy, and complexity (parameters,
multiply-accumulates, time), both without variants; then an accuracy table for each study. Numbers
are percentages, mean ± standard deviation (n - 1) over seeds. Published numbers have a column if
they were obtained on the table's corpus.
"""

import csv
import io
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tabulate import SEPARATING_LINE, tabulate

from .. import escaping
from .compare import LEVEL, RESAMPLES, compare
from .published import Published
from .results import Method, ResultsError, Table, is_pretrained, mean_std
from .schema import BASELINES, METRICS, PER_INSTRUMENT
from .studies import Study

WIDTH = 120  # columns of a terminal
LEAST_WIDTH = 20  # of the first column
ACCURACY = [
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


def accuracy(table: Table, spread: bool) -> Grid:
    """Fill the accuracy table: the constant baselines, then the methods.

    Args:
        spread: whether every metric shows its deviation; otherwise only macro-F1 does, which fits a
            terminal.
    """
    lines = []
    for baseline, name in BASELINES.items():
        scores = [_percent([table["constant_baselines"][baseline][key]]) for key in METRICS]
        lines.append([name, NONE, "0", *scores, NONE])
    for method in table.methods:
        scores = []
        for key in METRICS:
            values = method.values("metrics", key)
            first = key == METRICS[0]
            scores.append(_percent(values, spread=spread or first, count=first))
        epoch, _, _ = mean_std(method.values("selection", "epoch"))
        trained = f"{method['trainable_parameters']:,}"
        lines.append([method.label, method["norm"], trained, *scores, f"{round(epoch, 1):g}"])
    return Grid(ACCURACY, lines, 2)


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
        mean = _percent([value / 100 for value in published.macro_f1], count=True)
        macro_f1[-1] = f"{mean} {note}"
        if published.trainable_parameters is not None:
            parameters[-1] = f"{published.trainable_parameters:.3f} M {note}"
    scores = scores.with_column("published macro-F1 %", macro_f1)
    costs = costs.with_column("published trained parameters", parameters)
    return scores, costs, notes


def with_differences(study: Study, table: Table, scores: Grid) -> tuple[Grid, list[str]]:
    """Add a column of differences from the method that a study compares the others with.

    Args:
        table: `study.table(...)`; `scores`: its accuracy table.

    Returns:
        (table, notes): a note for each method whose predictions do not allow a difference.
    """
    if study.against not in table.confs:
        return scores, []
    base = table.only([study.against]).methods[0]
    notes = [
        f"Difference: macro-F1 minus that of {study.against}, paired by seed and clip, "
        f"with a {LEVEL} % bootstrap interval over the test clips ({RESAMPLES:,} resamples)."
    ]
    differences = [NONE] * len(BASELINES)
    for method in table.methods:
        differences.append(_difference(base, method, notes))
    return scores.with_column("difference, points", differences), notes


def explanations(table: Table) -> list[str]:
    """Explain the data, the methods, the baselines and the columns of a table, in paragraphs."""
    paragraphs = [
        f"Split {table['split']!r}: {table['clips']:,} clips, {table['observed']:,} observed "
        f"labels, {len(table['classes'])} instruments.{_without_score(table)}"
    ]
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
        "macro-F1": "per instrument the mean of the F1 of 'present' and the F1 of 'absent' over "
        f"observed labels at threshold {table['threshold']:g}, then the mean over instruments",
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


def blocks(
    table: Table, studies: Iterable[Study], spread: bool
) -> Iterator[Heading | str | Grid | Table]:
    """Yield what a page shows of a table: headings, paragraphs, and grids.

    A Table stands for where it comes from (commands, weights, machines).
    """
    yield Heading(table.title, 3)
    yield from explanations(table)
    if table.main.methods:
        scores, costs, notes = with_published(
            table.main, accuracy(table.main, spread), complexity(table.main)
        )
        yield scores
        yield COSTS
        yield costs
        yield from notes
        yield table.main
    for study in studies:
        shown = study.table(table)
        if shown is None:
            continue
        yield Heading(f"Study {study.name}: {study.question}", 4)
        scores, notes = with_differences(study, shown, accuracy(shown, spread))
        missing = study.missing(shown)
        if missing:
            yield f"Not run: {', '.join(missing)}."
        yield from notes
        yield scores
        yield shown


def text(table: Table, studies: Iterable[Study] = ()) -> str:
    """Format a table and its studies for the terminal, at most WIDTH columns."""
    parts = []
    for block in blocks(table, studies, spread=False):
        if isinstance(block, Heading):
            parts.append(escaping.terminal(block.text))
        elif isinstance(block, Grid):
            parts.append(_aligned(block.escaped(escaping.terminal)))
        elif isinstance(block, str):
            parts.append(textwrap.fill(escaping.terminal(block), WIDTH))
    return "\n\n".join(parts)


def accuracy_text(table: Table) -> str:
    """Format the accuracy of a table's methods for the terminal, without explanations."""
    return _aligned(accuracy(table.main, spread=False).escaped(escaping.terminal))


def markdown(table: Table, studies: Iterable[Study] = ()) -> str:
    """Format a table and its studies as Markdown, with the deviation of every metric."""
    parts = []
    for block in blocks(table, studies, spread=True):
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {escaping.markdown(block.text)}")
        elif isinstance(block, Grid):
            parts.append(_piped(block.escaped(escaping.markdown)))
        elif isinstance(block, str):
            parts.append(escaping.markdown(block))
        else:
            parts += [_commands(block), _provenance(block)]
    return "\n\n".join(parts)


def document(sections: Mapping[str, Sequence[Table]], studies: Sequence[Study] = ()) -> str:
    """Compose RESULTS.md.

    Args:
        sections: the tables of each corpus, by the name of its folder in exp/.
    """
    parts = [HEAD.rstrip("\n")]
    for folder, tables in sections.items():
        parts.append(f"## {escaping.markdown(folder)}")
        parts += [markdown(table, studies) for table in tables]
        figures = escaping.markdown_code(f"exp/{folder}/figures/")
        instruments = escaping.markdown_code(f"exp/{folder}/per_instrument.csv")
        parts.append(f"Figures: {figures}; per instrument: {instruments}.")
    return "\n\n".join(parts) + "\n"


def per_instrument(tables: Iterable[Table]) -> str:
    """Write CSV of every instrument and method: fractions 0..1, empty if there is none."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = ["corpus", "protocol", "backbone", "conf", "method", "instrument"]
    head += ["present", "absent", "seeds"]
    for metric in PER_INSTRUMENT:
        head += [f"{metric}_mean", f"{metric}_std"]
    writer.writerow(head)
    for table in tables:
        place = [table.corpus, table.protocol, table.backbone]
        for baseline, name in BASELINES.items():
            scores = [table["constant_baselines"][baseline]]
            writer.writerows(_csv_lines([*place, baseline, name], table["classes"], scores, ""))
        for method in table.methods:
            scores = method.values("metrics")
            keys = [*place, method.conf, method.name]
            writer.writerows(_csv_lines(keys, table["classes"], scores, len(scores)))
    return file.getvalue()


def _csv_lines(keys, classes, scores, seeds):
    for name in classes:
        values = [score["per_instrument"][name] for score in scores]
        line = [escaping.csv_cell(key) for key in (*keys, name)]
        line += [values[0]["present"], values[0]["absent"], seeds]
        for metric in PER_INSTRUMENT:
            average, deviation, _ = mean_std(value[metric] for value in values)
            line += [average, deviation]
        yield line


def _list(items):
    return "; ".join(f"{name}: {explanation}" for name, explanation in items.items())


def _without_score(table):
    """A sentence about the instruments that have labels of one kind only."""
    names = []
    for name, scores in table["metrics"]["per_instrument"].items():
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


def _percent(values, spread=False, count=False):
    """Format the mean of fractions in per cent.

    >>> _percent([0.7, 0.72], spread=True, count=True), _percent([None])
    ('71.0 ± 1.4 (2)', '-')
    """
    average, deviation, n = mean_std(values)
    if average is None:
        return NONE
    text = f"{100 * average:.1f}"
    if spread and deviation is not None:
        text += f" ± {100 * deviation:.1f}"
    return f"{text} ({n})" if count else text


def _difference(base: Method, method: Method, notes: list[str]) -> str:
    """A method's difference from `base` in points of macro-F1, with its bootstrap interval.

    "-" if the two have no seed in common, or cannot be compared; for the latter a note is added.
    """
    if method is base or not set(base.values("seed")) & set(method.values("seed")):
        return NONE
    try:
        difference = compare(base, method)["macro_f1"]
    except ResultsError as error:
        notes.append(f"No difference for {method.conf}: {error}.")
        return NONE
    points = {key: 100 * value for key, value in difference.items()}
    return "{difference:+.1f} [{low:+.1f}, {high:+.1f}]".format(**points)


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


def _aligned(grid):
    """Format a grid for the terminal: headings and the first column wrap."""
    widths = []
    for column, heading in enumerate(grid.headings):
        cells = [line[column] for line in grid.lines]
        widths.append(max(map(len, [*cells, *heading.split()])))
    others = sum(widths[1:]) + 2 * len(widths[1:])
    widths[0] = min(widths[0], max(LEAST_WIDTH, WIDTH - others))
    headings = [_wrapped(*cell) for cell in zip(grid.headings, widths, strict=True)]
    lines = [[_wrapped(line[0], widths[0]), *line[1:]] for line in grid.lines]
    # As a heading of tabulate's own, each would be padded by two columns.
    return tabulate(
        [headings, SEPARATING_LINE, *lines],
        tablefmt="simple",
        colalign=grid.alignment,
        disable_numparse=True,
    )


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
