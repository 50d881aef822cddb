"""What partial labels hide: the metrics of ast_repr.metrics on every part, against the truth."""

import numpy as np
import pytest
from report_runs import arrays, make_run, scored, with_truth
from scipy import stats

from ast_repr import metrics
from ast_repr.report import pages, partial_labels, plots, results, schema, studies

CONFS = ("ast_linear", "ast_unet", "ast_noise", "forest")


def test_metrics_of_many_masks_are_those_of_each():
    rng = np.random.default_rng(0)
    present = rng.random((60, 4)) < 0.3
    scores = rng.random((60, 4)).round(1)  # many are equal
    masks = rng.random((7, 60, 4)) < 0.2
    masks[:, :, 3] &= ~present[:, 3]  # of one kind only
    values = partial_labels.evaluate(present, scores, masks, threshold=0.5)
    for mask, column in zip(masks, values.T, strict=True):
        expected = metrics.evaluate(present, mask, scores)
        assert column == pytest.approx([expected[name] for name in partial_labels.METRICS])
    nothing = partial_labels.evaluate(present, scores, np.zeros((1, 60, 4), bool), threshold=0.5)
    assert np.isnan(nothing).all()


@pytest.fixture
def table(tmp_path):
    for noise, conf in enumerate(CONFS, 3):
        for seed in (0, 1):
            run = with_truth(arrays(seed, clips=80, noise=0.2 * noise))
            scored(tmp_path / "synthetic", conf, seed, run)
    (table,), left_out = results.read(tmp_path / "synthetic")
    assert not left_out
    return table


def test_the_ends_are_the_truth_and_the_observed_labels(table):
    measurement = partial_labels.measure(table, draws=3)
    assert measurement.methods == len(CONFS) and not measurement.problems
    ends = {part.source: part for part in measurement.parts if part.draws == 1}
    for metric in partial_labels.METRICS:
        whole = ends[partial_labels.RANDOM]
        assert whole.share == 1
        assert whole.tau[metric].value == 1 and whole.bias[metric].value == pytest.approx(0)
        observed = [np.mean(m.scores(schema.OBSERVED, metric)) for m in table.methods]
        truth = [np.mean(m.scores(schema.TRUTH, metric)) for m in table.methods]
        part = ends[partial_labels.OBSERVED_LABELS]
        assert part.bias[metric].value == pytest.approx(np.mean(np.subtract(observed, truth)))
        assert part.tau[metric].value == pytest.approx(stats.kendalltau(observed, truth).statistic)
    found = arrays(0, clips=80)
    labels = with_truth(found)
    agree = (found["targets"] >= 0.5) == labels["truth"]
    assert measurement.correct == pytest.approx(agree[found["mask"]].mean())


def test_parts_grow_and_observed_ones_end_with_the_labels(table):
    parts = partial_labels.measure(table, draws=3).parts
    shares = {}
    for part in parts:
        shares.setdefault(part.source, []).append(part.share)
    observed = arrays(0, clips=80)["mask"].mean()
    assert shares[partial_labels.RANDOM] == pytest.approx(partial_labels.SHARES, abs=0.003)
    for source in (partial_labels.OBSERVED_CELLS, partial_labels.OBSERVED_LABELS):
        less = [share for share in partial_labels.SHARES if share < observed]
        assert shares[source] == pytest.approx([*less, observed], abs=0.003)
    for part in parts:
        for estimate in (*part.tau.values(), *part.bias.values()):
            assert np.isnan(estimate.low) or estimate.low <= estimate.value <= estimate.high


def study(*confs):
    return studies.Study("What is hidden?", list(confs), "partial_labels", name="hidden")


def test_the_study_has_its_tables_and_its_figure(table, monkeypatch):
    monkeypatch.setattr(partial_labels, "SHARES", (0.5, 1.0))
    page = pages.blocks(table, [study(*CONFS)])
    text = pages.text(page)
    assert max(map(len, text.splitlines())) <= pages.WIDTH
    taus, biases = [block for block in page if isinstance(block, list)][-2:]
    assert [line["share of cells"] for line in taus][:2] == ["50 %", "100 %"]
    assert taus[1]["tau mAP"] == "1.00" and biases[1]["bias mAP"] == "+0.0"
    assert "[" in taus[0]["tau mAP"] and "[" in biases[0]["bias AUROC"]
    figures = plots.draw(table, [study(*CONFS)])
    panels = figures["clean.tiny.study.hidden"].axes
    assert [panel.get_title() for panel in panels[:3]] == ["macro-F1", "mAP", "AUROC"]


def test_without_truth_or_methods_it_says_why(table, tmp_path):
    for conf in CONFS[:3]:
        make_run(tmp_path / "own", conf)
    (unknown,), _ = results.read(tmp_path / "own")
    for methods, confs, reason in ((unknown, CONFS[:3], "truth"), (table, CONFS[:2], "methods")):
        asked = study(*confs)
        page = pages.markdown(pages.blocks(methods, [asked]))
        assert reason in page.partition("What is hidden?")[2]
        assert not any("study" in stem for stem in plots.draw(methods, [asked]))
