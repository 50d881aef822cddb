"""The table of tags, as the literature of MagnaTagATune prints it: macro ROC-AUC and PR-AUC."""

import numpy as np

from . import bootstrap
from .compare import differences_of
from .published import name_of_corpus
from .results import Method, Table
from .schema import OBSERVED
from .tables import DIFFERENCE, NONE, Line, percent, points

COLUMNS = {"PR-AUC %": "map", "ROC-AUC %": "auroc"}  # the value of each heading
INTERVALS = ("PR-AUC interval", "ROC-AUC interval")


def lines(table: Table, reference: str | None = None) -> list[Line]:
    """Fill the table; empty if no run was scored on tags.

    Args:
        reference: conf whose PR-AUC is subtracted from that of the other methods; None: none.
    """
    methods = scored(table)
    if not methods:
        return []
    filled = [_line("constant probabilities", table.baseline_metrics("always_absent", OBSERVED))]
    scores = {method.conf: _resampled(method) for method in methods}
    differences = differences_of(_differences(scores, reference))
    for method in methods:
        line = _line(method.label, method.metrics(OBSERVED))
        values = np.mean(list(scores[method.conf].values()), axis=0)
        low, high = bootstrap.interval(values[:, 1:].T)
        for heading, *bounds in zip(INTERVALS, 100 * low, 100 * high, strict=True):
            line[heading] = "[{:.1f}, {:.1f}]".format(*bounds)
        line[DIFFERENCE] = points(differences.get(method.conf))
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


def difference_note(reference: str) -> str:
    """Explain the differences of `lines`."""
    return (
        f"Difference of tags: PR-AUC minus that of {reference}, paired by seed, with a "
        f"{bootstrap.LEVEL} % bootstrap interval over the groups. *: it differs from zero after "
        "Holm's correction for the number of differences."
    )


def _resampled(method):
    """PR-AUC and ROC-AUC on the groups as they are, then on samples: {seed: (2, 1 + R)}."""
    scores = {}
    for run in method.runs:
        scores[run["seed"]] = bootstrap.resampled_ranking(run.arrays("predictions.npz"))
    return scores


def _differences(scores, reference):
    """PR-AUC of each other conf minus the reference's, the mean over common seeds: (1 + R,)."""
    base = scores.get(reference, {})
    differences = {}
    for conf, by_seed in scores.items():
        paired = [by_seed[seed][0] - base[seed][0] for seed in by_seed if seed in base]
        if conf != reference and paired:
            differences[conf] = np.mean(paired, axis=0)
    return differences


def _line(name, metrics):
    line = {"method": name}
    for (heading, key), interval in zip(COLUMNS.items(), INTERVALS, strict=True):
        line[heading] = percent([values[key] for values in metrics])
        line[interval] = NONE
    return line | {DIFFERENCE: NONE}
