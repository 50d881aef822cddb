"""The table of tags, as the literature of MagnaTagATune prints it: macro ROC-AUC and PR-AUC."""

import numpy as np

from . import bootstrap
from .published import name_of_corpus
from .results import Method, Table
from .schema import OBSERVED
from .tables import NONE, Line, percent

COLUMNS = {"PR-AUC %": "map", "ROC-AUC %": "auroc"}  # the value of each heading
INTERVALS = ("PR-AUC interval", "ROC-AUC interval")


def lines(table: Table) -> list[Line]:
    """Fill the table; empty if no run was scored on tags."""
    methods = scored(table)
    if not methods:
        return []
    filled = [_line("constant probabilities", table.baseline_metrics("always_absent", OBSERVED))]
    for method in methods:
        line = _line(method.label, method.metrics(OBSERVED))
        for heading, (low, high) in zip(INTERVALS, intervals(method), strict=True):
            line[heading] = f"[{100 * low:.1f}, {100 * high:.1f}]"
        filled.append(line)
    corpus = name_of_corpus(table.corpus, table["clips"], table["observed"])
    for entry in table.entries.values():
        published = entry.published
        if published and published.corpus == corpus:
            filled.append(_line(entry.published_label, [published.fractions(COLUMNS.values())]))
    return filled


def scored(table: Table) -> list[Method]:
    """List the methods whose runs were scored on tags."""
    return [m for m in table.methods if all("tags" in run.results for run in m.runs)]


def explanation(table: Table) -> str:
    """Explain the columns of `lines`, and name the scarce tags."""
    method = scored(table)[0]
    groups = len(np.unique(method.runs[0].arrays("predictions.npz")["groups"]))
    text = (
        "Tags: average precision (PR-AUC) and area under the ROC curve, means over tags; the score "
        "of a clip combines those of its windows. Interval: "
        f"{bootstrap.LEVEL} % bootstrap over the {groups:,} groups of the test split, such as "
        "albums, whose clips are alike."
    )
    counts = []
    for name, count in method["tags"]["scarce"].items():
        counts.append(f"{name} ({count['test']}, {count['valid']})")
    if counts:
        text += (
            " Scarce tags, of which a single value is mostly chance (clips in test, in "
            f"validation): {', '.join(counts)}."
        )
    return text


def intervals(method: Method) -> list[tuple[float, float]]:
    """Compute the bootstrap intervals of PR-AUC and ROC-AUC, the means over a method's runs."""
    values = []
    for run in method.runs:
        values.append(bootstrap.resampled_ranking(run.arrays("predictions.npz"))[:, 1:])
    low, high = bootstrap.interval(np.mean(values, axis=0).T)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _line(name, metrics):
    line = {"method": name}
    for (heading, key), interval in zip(COLUMNS.items(), INTERVALS, strict=True):
        line[heading] = percent([values[key] for values in metrics])
        line[interval] = NONE
    return line
