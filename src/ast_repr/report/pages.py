"""Pages of results as text for a terminal, and as Markdown for RESULTS.md.

A page shows a Table: its explanations, accuracy, and complexity (parameters, multiply-accumulate
operations, time), without variants; then the accuracy of each study.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tabulate import SEPARATING_LINE, tabulate

from .. import escaping
from . import partial_labels, predominant, tables, tags
from .compare import compare_with_reference
from .results import Table
from .studies import Study
from .tables import ERROR, TEXT_COLUMNS, Line
from .wrapping import wrapped

WIDTH = 120  # columns of a terminal
LEAST_WIDTH = 28  # of the first column
REFERENCE = "ast_linear"  # the method that the others are compared with, by default
# Columns that a terminal too narrow for all of them lacks, the first one first.
DROPPED = ("MAC per clip", "pos. F1 %", "epoch", "truth AUROC %", "AUROC %", "mAP %", "norm", ERROR)
COSTS = (
    "MAC: multiply-accumulate operations of one clip's prediction; a student makes it without its "
    "teacher. Training time is the mean over seeds, on the machines that RESULTS.md lists."
)
SOURCES = (
    "Best source class of the frozen network per instrument: chosen by the average precision "
    "(AP) of its logit on the training labels, and its AP on the test split."
)
HEAD = (
    "# Results\n\nMade from the results.json of each run by the stage `report`; edits are lost.\n"
)


@dataclass(frozen=True)
class Heading:
    """A heading between blocks."""

    text: str
    level: int


# A Table stands for where it comes from: commands, weights, machines.
Block = Heading | str | list[Line] | Table


def blocks(
    table: Table, studies: Iterable[Study] = (), reference: str | None = REFERENCE
) -> list[Block]:
    """Compose the page of a table, whose methods are compared with the conf `reference`."""
    page: list[Block] = [Heading(table.title, 3), *tables.explanations(table)]
    main = table.main
    if main.methods:
        footnotes = tables.footnotes(main)
        page += _accuracy(main, reference, footnotes)
        predominant_lines = predominant.lines(main)
        if predominant_lines:
            page += [predominant.explanation(), predominant_lines]
        if tags.scored(main):
            page += [tags.explanation(main), *_tags(main, reference)]
        source_lines = tables.best_sources(main)
        if source_lines:
            page += [SOURCES, source_lines]
        page += [COSTS, tables.complexity(main, footnotes)]
        page += [f"[{number}] {text}" for number, text in enumerate(footnotes, 1)]
        page.append(main)
    for study in studies:
        shown = study.table(table)
        if shown is None:
            continue
        page.append(Heading(f"Study {study.name}: {study.question}", 4))
        missing = study.missing(shown)
        if missing:
            page.append(f"Not run: {', '.join(missing)}.")
        if study.figure == "partial_labels":
            measurement = partial_labels.measure(shown)
            page += tables.partial_labels_notes(shown, measurement)
            if measurement.parts:
                page += tables.partial_labels(measurement.parts)
        else:
            notes = _accuracy(shown, study.against or reference)
            if study.figure == "cost":
                notes[-1] = tables.with_cost(notes[-1], shown)
            page += notes
            if tags.scored(shown):
                page += _tags(shown, study.against or reference)
        page.append(shown)
    return page


def text(page: Iterable[Block]) -> str:
    """Format `blocks` for the terminal, at most WIDTH columns."""
    parts = []
    for block in page:
        if isinstance(block, Heading):
            parts.append(escaping.terminal(block.text))
        elif isinstance(block, str):
            parts.append(textwrap.fill(escaping.terminal(block), WIDTH))
        elif isinstance(block, list):
            lines, dropped = _fitted(_escaped(block, escaping.terminal))
            parts.append(_aligned(lines))
            if dropped:
                parts.append(f"Not shown for lack of width: {', '.join(dropped)}; see RESULTS.md.")
    return "\n\n".join(parts)


def markdown(page: Iterable[Block]) -> str:
    """Format `blocks` as Markdown."""
    parts = []
    for block in page:
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {escaping.markdown(block.text)}")
        elif isinstance(block, str):
            parts.append(escaping.markdown(block))
        elif isinstance(block, list):
            parts.append(table_markdown(block))
        else:
            parts += [_commands(block), _provenance(block)]
    return "\n\n".join(parts)


def accuracy_markdown(table: Table, reference: str | None = REFERENCE) -> str:
    """Format the terminal's columns of accuracy as Markdown, without explanations."""
    scores = tables.accuracy(table.main, compare_with_reference(table.main, reference))
    lines, _ = _fitted(scores)
    return table_markdown(lines)


def table_markdown(lines: list[Line]) -> str:
    """Format a table as Markdown."""
    return _piped(_escaped(lines, escaping.markdown))


def document(sections: Mapping[str, Sequence[Sequence[Block]]]) -> str:
    """Compose RESULTS.md from the `blocks` of tables, by the corpus' folder in exp/."""
    parts = [HEAD.rstrip("\n")]
    for folder, pages in sections.items():
        parts.append(f"## {escaping.markdown(folder)}")
        parts += [markdown(page) for page in pages]
        figures = escaping.markdown_code(f"exp/{folder}/figures/")
        instruments = escaping.markdown_code(f"exp/{folder}/per_instrument.csv")
        parts.append(f"Figures: {figures}; per instrument: {instruments}.")
    return "\n\n".join(parts) + "\n"


def _accuracy(table, reference, footnotes=()):
    """The accuracy of a table's methods, after the paragraphs that explain the comparison."""
    comparison = compare_with_reference(table, reference)
    notes = tables.comparison_notes(table, comparison, reference)
    return [*notes, tables.accuracy(table, comparison, footnotes)]


def _tags(table, reference):
    """The table of tags, after the paragraph on its differences if the reference is in it."""
    lines = tags.lines(table, reference)
    if reference not in table.confs:
        return [lines]
    return [tags.difference_note(reference), lines]


def _escaped(lines, escape):
    escaped = []
    for line in lines:
        escaped.append(
            {key: escape(cell) if key in TEXT_COLUMNS else cell for key, cell in line.items()}
        )
    return escaped


def _fitted(lines):
    """Drop columns until a table fits the terminal; return it and the headings that it lacks."""
    dropped = []
    for heading in DROPPED:
        first, *others = _widths(lines)
        if min(first, LEAST_WIDTH) + sum(others) + 2 * len(others) <= WIDTH:
            break
        if heading in lines[0]:
            lines = [{key: line[key] for key in line if key != heading} for line in lines]
            dropped.append(heading.removesuffix(" %"))
    return lines, dropped


def _aligned(lines):
    """Format a table for the terminal: headings and the first column wrap."""
    widths = _widths(lines)
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * len(widths[1:]))
    headings = [wrapped(heading, width) for heading, width in zip(lines[0], widths, strict=True)]
    cells = []
    for line in lines:
        first, *others = line.values()
        cells.append([wrapped(first, widths[0]), *others])
    # As a heading of tabulate's own, each would be padded by two columns.
    return tabulate(
        [headings, SEPARATING_LINE, *cells],
        tablefmt="simple",
        colalign=_alignment(lines),
        disable_numparse=True,
    )


def _piped(lines):
    """Format a table as Markdown."""
    return tabulate(
        lines,
        headers="keys",
        tablefmt="pipe",
        colalign=_alignment(lines),
        disable_numparse=True,
    )


def _alignment(lines):
    return ["left" if heading in TEXT_COLUMNS else "right" for heading in lines[0]]


def _widths(lines):
    """The width of each column, with its heading's words on separate lines."""
    widths = []
    for heading in lines[0]:
        cells = [line[heading] for line in lines]
        widths.append(max(map(len, [*cells, *heading.split()])))
    return widths


def _commands(table):
    """Markdown: the commands that started a table's runs."""
    commands = dict.fromkeys(run["command"] for run in table.runs)
    return "\n".join(["```", *map(escaping.terminal, commands), "```"])


def _provenance(table):
    """Markdown: the frozen weights, machines, versions and commits behind a table."""
    lines = set()
    for run in table.runs:
        if run.is_pretrained:
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
