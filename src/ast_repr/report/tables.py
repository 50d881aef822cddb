"""Tables of macro-F1 and its company: aligned text for a terminal, Markdown for RESULTS.md, CSV per instrument.

Numbers are percentages, mean +- standard deviation (n - 1) over seeds, with n in brackets; "-" stands for none.
"""

import csv
import io
import textwrap
from dataclasses import dataclass

from .results import FLOORS, METRICS, PER_INSTRUMENT, corpus_options, mean_std

WIDTH = 120  # columns of a terminal
HEADINGS = [
    "method", "norm", "trained parameters", "macro-F1 %", "pos. F1 %", "mAP %", "AUROC %", "epoch", "s per epoch", "training time",
    "published macro-F1 %",
]  # fmt: skip


@dataclass(frozen=True)
class Cells:
    """A table as strings: `lines` of one cell a heading, and the footnotes that its cells refer to."""

    lines: list
    notes: list


def cells(table, spread):
    """Fill a table's cells.

    Args:
        table: `results.Table`.
        spread: whether every metric shows its deviation; without, only macro-F1 does, which fits a terminal.

    Returns:
        Cells: the two floors first, then the table's rows.
    """
    notes, lines = [], []
    for floor, name in FLOORS.items():
        scores = [_percent([table["floors"][floor][metric]], False) for metric in METRICS]
        lines.append([name, "-", "0", *scores, "-", "-", "-", "-"])
    for row in table.rows:
        macro_f1, *others = ([run["metrics"][metric] for run in row.runs] for metric in METRICS)
        scores = [_percent(macro_f1, True, count=True), *(_percent(values, spread) for values in others)]
        epoch, seconds, total = (
            mean_std(row.values(*keys))[0] for keys in (("selection", "epoch"), ("seconds_per_epoch",), ("train_seconds",))
        )
        lines.append([
            f"{row.name} ({row.conf})", row["norm"], f"{row['trainable_parameters']:,}", *scores,
            f"{round(epoch, 1):g}", f"{seconds:.1f}", _duration(total), _published(row["published"], table, notes),
        ])  # fmt: skip
    return Cells(lines, notes)


def caption(table):
    """Sentences that say what a table's numbers are: the labels scored, the metric, and who chose the epoch."""
    chosen = sorted({"{metric} ({mode}) on the split {split!r}".format(**run["selection"]) for run in table.runs})
    unobserved = [name for name, scores in table["metrics"]["per_instrument"].items() if scores["macro_f1"] is None]
    missing = f" Left out of every mean, for want of labels: {', '.join(unobserved)}." if unobserved else ""
    return (
        f"Split {table['split']!r}: {table['clips']:,} clips, {table['observed']:,} observed labels, "
        f"{len(table['classes'])} instruments. macro-F1 is two-class: per instrument the mean of the F1 of present and the F1 of "
        f"absent over observed labels at threshold {table['threshold']:g}, then the mean over instruments; "
        f"pos. F1 is the F1 of present alone.{missing} "
        f"The epoch was chosen by {'; '.join(chosen)}. Mean ± standard deviation over seeds, (n seeds)."
    )


def text(table):
    """A table for the terminal, at most WIDTH columns: names wrap, the footnotes stand below."""
    filled = cells(table, spread=False)
    widths = [max(map(len, [*column, *heading.split()])) for heading, *column in zip(HEADINGS, *filled.lines)][1:]
    longest = max(len(line[0]) for line in filled.lines)
    first = min(longest, max(20, WIDTH - sum(widths) - 2 * len(widths)))

    def aligned(name, values):
        norm, *numbers = values
        return "  ".join([name.ljust(first), norm.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])]).rstrip()

    heads = [textwrap.wrap(heading, width, break_on_hyphens=False) for heading, width in zip(HEADINGS, [first, *widths])]
    height = max(map(len, heads))
    raised = [[""] * (height - len(head)) + head for head in heads]
    out = [aligned(level[0], level[1:]) for level in zip(*raised)]
    out.append("-" * max(map(len, out)))
    for name, *values in filled.lines:
        wrapped = textwrap.wrap(name, first, subsequent_indent="  ", break_on_hyphens=False)
        out += [aligned(wrapped[0], values), *wrapped[1:]]
    below = [textwrap.fill(line, WIDTH) for line in (caption(table), *filled.notes)]
    return "\n".join([table.title, "", *out, "", *below])


def markdown(table):
    """The same table for RESULTS.md, with the deviation of every metric."""
    filled = cells(table, spread=True)
    rows = [HEADINGS, [":--", ":--", *["--:"] * (len(HEADINGS) - 2)], *filled.lines]
    body = ["| " + " | ".join(value.replace("|", "\\|") for value in row) + " |" for row in rows]
    notes = [line for note in filled.notes for line in ("", note)]
    return "\n".join([f"### {table.title}", "", caption(table), "", *body, *notes, "", *_provenance(table)])


def document(sections):
    """RESULTS.md.

    Args:
        sections: dict of the name of a corpus' folder in exp/ to its list of Table.
    """
    out = ["# Results", "", "Made from the results.json of each run by the stage `report`; edits are lost."]
    for folder, tables in sections.items():
        out += ["", f"## {folder}"]
        for table in tables:
            out += ["", markdown(table)]
        out += ["", f"Figures: `exp/{folder}/figures/`; each instrument: `exp/{folder}/per_instrument.csv`."]
    return "\n".join(out) + "\n"


def commands(table):
    """The commands that remake a table's runs, one for each set of seeds.

    Returns:
        list of "source run.sh --corpus ... --protocol ... --conf a,b --seeds 0,1,2"
    """
    start, confs = f"source run.sh {corpus_options(table.corpus)} --protocol {table.protocol}", {}
    for row in table.rows:
        confs.setdefault(",".join(str(run["seed"]) for run in row.runs), []).append(row.conf)
    return [f"{start} --conf {','.join(names)} --seeds {seeds}" for seeds, names in confs.items()]


def per_instrument(tables):
    """CSV of every instrument under every row: fractions 0..1, empty where there is none.

    Args:
        tables: list of Table; their columns corpus, protocol and backbone keep them apart.
    """
    file = io.StringIO()
    head = ["corpus", "protocol", "backbone", "conf", "row", "instrument", "present", "absent", "seeds"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head + [f"{metric}_{part}" for metric in PER_INSTRUMENT for part in ("mean", "std")])
    for table in tables:
        sources = [(floor, name, [table["floors"][floor]]) for floor, name in FLOORS.items()]
        sources += [(row.conf, row.name, row.values("metrics")) for row in table.rows]
        for conf, name, scores in sources:
            for instrument in table["classes"]:
                found = [score["per_instrument"][instrument] for score in scores]
                parts = [part for metric in PER_INSTRUMENT for part in mean_std([one[metric] for one in found])[:2]]
                seeds = "" if conf in FLOORS else len(scores)
                key = [table.corpus, table.protocol, table.backbone, conf, name, instrument]
                writer.writerow([*key, found[0]["present"], found[0]["absent"], seeds, *parts])
    return file.getvalue()


def _percent(values, spread, count=False):
    """
    >>> _percent([0.7, 0.72], True, count=True), _percent([0.7, 0.72], False), _percent([None], True)
    ('71.0 ± 1.4 (2)', '71.0', '-')
    """
    middle, deviation, n = mean_std(values)
    if middle is None:
        return "-"
    shown = f" ± {100 * deviation:.1f}" if spread and deviation is not None else ""
    return f"{100 * middle:.1f}{shown}" + (f" ({n})" if count else "")


def _published(published, table, notes):
    """Mean of published macro-F1s, with the number of its footnote, which is added to `notes` when new."""
    if published is None:
        return "-"
    elsewhere = "" if table.corpus.lower() in published["corpus"].lower() else f": another corpus than {table.corpus}"
    note = f"Published on {published['corpus']}{elsewhere}; protocol: {published['protocol']}; source: {published['source']}"
    numbers = [text.split("] ", 1)[1] for text in notes]
    if note not in numbers:
        notes.append(f"[{len(notes) + 1}] {note}")
        numbers.append(note)
    return f"{_percent([value / 100 for value in published['macro_f1']], False, count=True)} [{numbers.index(note) + 1}]"


def _duration(seconds):
    """
    >>> _duration(93.1), _duration(1000), _duration(9000)
    ('93 s', '17 min', '2.5 h')
    """
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _provenance(table):
    """Markdown: the commands, frozen weights, machines, versions and commits behind a table."""
    places = {}
    for row in table.rows:
        for run in row.runs:
            where = "{device}, {cores} cores, {platform}, Python {python}, torch {torch}".format(**run["machine"])
            places.setdefault(f"{where}, commit {run['commit'] or 'unknown'}", set()).add(row.conf)
    weights = sorted({run["backbone"]["sha256"] or "unknown" for run in table.runs if run["backbone"]["weights"] != "random"})
    out = ["```", *commands(table), "```"]
    out += [f"- frozen weights: {table.backbone}, sha256 {sha256}" for sha256 in weights]
    return out + [f"- {place}" + (f" ({', '.join(sorted(confs))})" if len(places) > 1 else "") for place, confs in places.items()]
