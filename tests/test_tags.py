"""Scoring of tags: scarce ones, the table with its intervals, published results."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from report_runs import StoredRun

from ast_repr import evaluation, metrics, typecheck
from ast_repr.manifest import Clip
from ast_repr.report import bootstrap, pages, predominant, published, tags
from ast_repr.report.results import Method, Table
from ast_repr.report.tables import DIFFERENCE
from ast_repr.settings import Score

CONF = Path(__file__).parents[1] / "egs" / "magnatagatune" / "conf"
CLASSES = ["flute", "fast", "choral"]


def clips():
    """30 clips with "flute" in each split; "fast" in 20 of validation; no "choral" in test."""
    split_clips = []
    for split in ("train", "valid", "test"):
        for i in range(30):
            labels = {"flute": 1.0, "choral": float(split == "valid")}
            labels["fast"] = float(i < 20 or split == "test")
            split_clips.append(Clip(f"{split} {i}", "g", "a.ogg", 0.0, split, labels))
    return split_clips


def test_scarce_tags_have_few_clips_in_a_split_that_scores():
    assert evaluation.scarce_tags(clips(), CLASSES) == {
        "fast": {"valid": 20, "test": 30},
        "choral": {"valid": 30, "test": 0},
    }


def test_the_section_score_names_the_task():
    assert typecheck.build(Score, {"aggregate": "mean"}) == Score("mean", "half", [], "predominant")
    tags_score = {"task": "tags", "aggregate": "mean"}
    score = typecheck.build(Score, tags_score)
    assert typecheck.build(Score, asdict(score)) == score and score.task == "tags"
    with pytest.raises(typecheck.RecordError, match="did you mean 'tags'"):
        typecheck.build(Score, tags_score | {"task": "tag"}, "score")


@pytest.fixture
def table(tmp_path):
    runs = []
    for seed in range(2):
        rng = np.random.default_rng(0)
        targets = (rng.random((60, 3)) < 0.4).astype(float)
        scores = np.clip(np.random.default_rng(seed).normal(0.3 + 0.3 * targets, 0.3), 0, 1)
        mask = np.ones(targets.shape, bool)
        arrays = {"targets": targets, "scores": scores, "mask": mask}
        arrays["groups"] = np.repeat([f"artist {i}" for i in range(15)], 4)
        results = {
            "seed": seed,
            "tags": {"scarce": {"choral": {"valid": 3, "test": 131}}},
            "metrics": metrics.evaluate(targets, mask, scores, classes=CLASSES),
            "constant_baselines": metrics.constant_baselines(targets, mask, CLASSES),
            "arrays": arrays,
            "clips": 60,
            "observed": 180,
            "backbone": {"weights": "none"},
        }
        runs.append(StoredRun(tmp_path, results))
    entries = {}
    for name in ("clean", "full"):
        results = published.Published(
            "A paper", f"MagnaTagATune, {name}", "its split", map=[46.1], auroc=[91.5]
        )
        entries[name] = published.Entry(f"Student, {name}", published=results)
    return Table("magnatagatune", "clean", "none", [Method("mobilefcn", runs)], entries)


def test_the_table_has_constant_probabilities_methods_and_intervals(table):
    constant, line = tags.lines(table)
    prevalence = np.mean(table.runs[0].results["arrays"]["targets"])
    assert constant["PR-AUC %"] == f"{100 * prevalence:.1f}" and constant["ROC-AUC %"] == "50.0"
    for key, heading in (("map", "PR-AUC"), ("auroc", "ROC-AUC")):
        mean = 100 * np.mean([run["metrics"][key] for run in table.runs])
        assert line[f"{heading} %"].startswith(f"{mean:.1f} ± ")
        low, high = map(float, line[f"{heading} interval"].strip("[]").split(", "))
        assert low < mean < high
    assert table.methods[0].samples_groups and predominant.lines(table) == []
    text = tags.explanation(table)
    assert "15 groups" in text and "choral (131, 3)" in text


def test_differences_are_of_pr_auc_and_paired_by_seed(table):
    (method,) = table.methods
    first, second = method.runs
    worse = replace(first, results=first.results | {"arrays": dict(first.results["arrays"])})
    worse.results["arrays"]["scores"] = 1 - first.results["arrays"]["scores"]
    table = replace(table, methods=[method, Method("worse", [worse]), Method("same", [second])])
    lines = {line["method"]: line[DIFFERENCE] for line in tags.lines(table, "mobilefcn")}
    values = [
        bootstrap.resampled_ranking(run.arrays("predictions.npz"))[0] for run in (worse, first)
    ]
    low, high = 100 * np.array(bootstrap.interval(np.subtract(*values)[1:]))
    difference = 100 * (values[0][0] - values[1][0])
    assert lines["worse"] == f"{difference:+.1f} [{low:+.1f}, {high:+.1f}] *" and high < 0
    assert lines["same"] == "+0.0 [+0.0, +0.0]"  # beside its own seed, not the other
    assert lines["mobilefcn"] == lines["constant probabilities"] == "-"


@pytest.mark.parametrize(
    ("clips", "observed", "name"), [(4_332, 216_600, "clean"), (5_329, 266_450, "full")]
)
def test_published_results_stand_beside_runs_on_the_same_clips_alone(table, clips, observed, name):
    assert len(tags.lines(table)) == 2
    for run in table.runs:
        run.results.update(clips=clips, observed=observed)
    line = tags.lines(table)[-1]
    assert line["method"] == f"published: Student, {name} (A paper; its split)"
    assert (line["PR-AUC %"], line["ROC-AUC %"]) == ("46.1", "91.5")
    assert "Student" in pages.table_markdown(tags.lines(table))


@pytest.mark.parametrize(("clips", "observed", "count"), [(4_332, 216_600, 6), (5_329, 266_450, 5)])
def test_shipped_results_of_both_splits(table, clips, observed, count):
    for run in table.runs:
        run.results.update(clips=clips, observed=observed)
    entries = published.read(CONF / "published.yaml")
    lines = tags.lines(replace(table, entries=entries))[2:]
    assert len(lines) == count and all(line["PR-AUC %"] > "38" for line in lines)
    mert = [line for line in lines if "MERT-95M" in line["method"]]
    assert mert[0]["ROC-AUC %"] == "-"


def test_a_table_of_other_runs_has_none(table):
    for run in table.runs:
        del run.results["tags"]
    assert tags.lines(table) == []
