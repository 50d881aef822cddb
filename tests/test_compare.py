"""Paired comparison: the F1 of metrics on every resample, paired by clip and seed."""

import csv
import json

import numpy as np
import pytest
from helpers import call
from report_runs import (
    CLASSES,
    arrays,
    evaluate_on_truth,
    make_run,
    record_files,
    scored,
    with_truth,
)
from scipy import stats

import report
from ast_repr import metrics
from ast_repr.report import bootstrap, compare, pages, published, results, schema, tables
from ast_repr.run_folder import RunFolder


def methods(exp, *confs):
    (table,), _ = results.read(exp)
    return table.only(confs).methods


def test_f1_is_that_of_metrics_for_every_resample():
    found = arrays(0)
    found["mask"][:, 2] &= np.arange(24) < 2  # so rarely labelled that some resamples have none
    found["scores"][:, 1] = 0.0  # never said to be present
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, 24, (50, 24))
    weights = np.stack([np.bincount(one, minlength=24) for one in drawn]).astype(float)
    fast = bootstrap.macro_f1(bootstrap.cells(found, 0.5), weights)
    assert np.isnan(fast[:, 2]).any()
    for one, values in zip(drawn, fast, strict=True):
        slow = metrics.evaluate(
            found["targets"][one], found["mask"][one], found["scores"][one], classes=CLASSES
        )
        expected = [slow["per_instrument"][name]["macro_f1"] for name in CLASSES] + [
            slow["macro_f1"]
        ]
        np.testing.assert_allclose(values, np.array(expected, float), atol=1e-12)


def test_a_part_of_the_data_is_compared_with_the_same_part(tmp_path):
    exp = tmp_path / "synthetic"
    half = "+train.label_fraction=0.5"
    for conf, noise in (("ast_linear", 0.6), ("ast_unet", 0.3)):
        scored(exp, conf, 0, arrays(0, noise=noise))
        scored(exp, conf + half, 0, arrays(0, noise=2 * noise), label_fraction=0.5)
    scored(exp, "ast_unet+train.label_fraction=0.1", 0, arrays(0), label_fraction=0.1)
    (table,), _ = results.read(exp)
    differences = compare.compare_with_reference(table, "ast_linear", resamples=20).differences
    assert differences.keys() == {"ast_unet", "ast_unet" + half}
    for part in ("", half):
        pair = methods(exp, "ast_linear" + part, "ast_unet" + part)
        expected = compare.compare(*pair, resamples=20)["macro_f1"]["difference"]
        assert differences["ast_unet" + part].value == pytest.approx(expected)


def test_the_difference_by_hand(tmp_path):
    """Four clips, one instrument: a is right on 1 of 2 present and 2 of 2 absent, b on all."""
    common = {
        "clips": np.array(list("wxyz")),
        "classes": np.array(CLASSES[:1]),
        "mask": np.ones((4, 1), bool),
    }
    common["targets"] = np.array([[1], [1], [0], [0]], np.float32)
    for conf, said in (("ast_linear", [1, 0, 0, 0]), ("ast_unet", [1, 1, 0, 0])):
        found = common | {"scores": np.array(said, np.float32)[:, None]}
        value = metrics.evaluate(
            found["targets"], found["mask"], found["scores"], classes=CLASSES[:1]
        )
        folder = make_run(tmp_path / "synthetic", conf, metrics=value, classes=CLASSES[:1])
        np.savez_compressed(folder / "predictions.npz", **found)
        record_files(folder)
    got = compare.compare(*methods(tmp_path / "synthetic", "ast_linear", "ast_unet"), resamples=20)
    before = (2 / 3 + 4 / 5) / 2
    assert got["macro_f1"]["a"] == pytest.approx(before) and got["macro_f1"]["b"] == 1.0
    assert (
        got["macro_f1"]["difference"]
        == pytest.approx(1 - before)
        == pytest.approx(got["per_instrument"]["accordion"]["difference"])
    )
    assert got["by_seed"] == {"0": pytest.approx(1 - before)}


def test_intervals_are_those_of_a_plain_bootstrap(tmp_path):
    found = {
        (conf, seed): arrays(seed + shift)
        for conf, shift in (("ast_linear", 10), ("ast_unet", 20))
        for seed in (0, 1)
    }
    for (conf, seed), one in found.items():
        scored(tmp_path / "synthetic", conf, seed, one)
    got = compare.compare(
        *methods(tmp_path / "synthetic", "ast_linear", "ast_unet"), resamples=20, seed=3
    )
    differences = []
    for drawn in np.random.default_rng(3).integers(0, 24, (20, 24)):
        value = {
            key: metrics.evaluate(one["targets"][drawn], one["mask"][drawn], one["scores"][drawn])[
                "macro_f1"
            ]
            for key, one in found.items()
        }
        differences.append(
            np.mean([value["ast_unet", seed] - value["ast_linear", seed] for seed in (0, 1)])
        )
    low, high = np.percentile(differences, [2.5, 97.5])
    assert (got["macro_f1"]["low"], got["macro_f1"]["high"]) == (
        pytest.approx(low),
        pytest.approx(high),
    )
    assert got["seeds"] == [0, 1] and got["macro_f1"]["difference"] == pytest.approx(
        np.mean(list(got["by_seed"].values()))
    )


def make_tables(exp, shifts, clips=24, noise=0.6):
    """Runs of confs on two seeds, with truth; {conf: the predictions of each seed}."""
    made = {}
    for conf, shift in shifts.items():
        made[conf] = [with_truth(arrays(seed + shift, clips, noise)) for seed in (0, 1)]
        for seed, predictions in enumerate(made[conf]):
            scored(exp, conf, seed, predictions)
    (table,), _ = results.read(exp)
    return table, made


def test_a_table_is_compared_as_by_a_plain_bootstrap_on_the_truth(tmp_path):
    shifts = {"ast_linear": 10, "ast_unet": 20, "ast_noise": 30}
    table, made = make_tables(tmp_path / "synthetic", shifts)
    comparison = compare.compare_with_reference(table, "ast_linear", resamples=20, seed=3)
    values = {conf: [] for conf in made}
    for drawn in np.random.default_rng(3).integers(0, 24, (20, 24)):
        for conf, runs in made.items():
            samples = [{key: run[key][drawn] for key in ("truth", "scores")} for run in runs]
            values[conf].append(np.mean([evaluate_on_truth(each)["macro_f1"] for each in samples]))
    assert comparison.labels == schema.TRUTH and not comparison.problems
    for conf in made:
        assert comparison.errors[conf] == pytest.approx(np.std(values[conf], ddof=1))
    assert comparison.differences.keys() == {"ast_unet", "ast_noise"}
    for conf, difference in comparison.differences.items():
        expected = np.array(values[conf]) - values["ast_linear"]
        bounds = pytest.approx(np.percentile(expected, [2.5, 97.5]))
        assert (difference.low, difference.high) == bounds
        means = [
            np.mean([evaluate_on_truth(run)["macro_f1"] for run in made[name]])
            for name in (conf, "ast_linear")
        ]
        assert difference.value == pytest.approx(means[0] - means[1])


def test_a_table_shows_the_truth_the_sampling_error_and_what_differs(tmp_path):
    exp = tmp_path / "synthetic"
    make_tables(exp, {"ast_linear": 10, "ast_noise": 30}, clips=60)
    table, _ = make_tables(exp, {"ast_unet": 20}, clips=60, noise=0.1)
    page = pages.blocks(table)
    accuracy = next(block for block in page if isinstance(block, list))
    lines = {line["method"]: line for line in accuracy}
    assert lines["ast_unet"][tables.DIFFERENCE].endswith("] *")
    assert lines["ast_noise"][tables.DIFFERENCE].endswith("]")
    assert lines["ast_linear"][tables.DIFFERENCE] == "-"
    assert float(lines["ast_linear"][tables.ERROR]) > 0
    expected = table.only(["ast_unet"]).methods[0].scores(schema.TRUTH, "auroc")
    assert lines["ast_unet"]["truth AUROC %"].startswith(f"{100 * np.mean(expected):.1f} ± ")
    text = pages.text(page)
    assert max(map(len, text.splitlines())) <= pages.WIDTH
    explained, _, shown = " ".join(text.split()).partition("ast_unet")
    for word in ("Holm", "Sampling error", "180 cells", "minus that of ast_linear", "Kendall"):
        assert word in explained
    assert "truth mAP" in shown or "truth mAP" in explained


def test_a_method_is_compared_with_its_control(tmp_path):
    exp = tmp_path / "synthetic"
    for conf, seed in (("ast_unet", 1), ("ast_linear", 2)):
        scored(exp, conf, 0, with_truth(arrays(seed)))
    known = {"ast_unet": published.Entry("AST-URP", control="ast_linear")}
    (table,), _ = results.read(exp, known)
    pair = table.only(["ast_linear", "ast_unet"]).methods
    expected = compare.sentence(compare.compare(*pair, schema.TRUTH))
    page = " ".join(pages.text(pages.blocks(table)).split())
    assert f"AST-URP against its control, ast_linear: {expected}." in page
    alone = pages.text(pages.blocks(table.only(["ast_unet"])))
    assert "control" not in alone


def test_a_run_that_ended_at_its_cap_is_marked(tmp_path):
    make_run(tmp_path / "synthetic", "ast_unet", ended_at_cap=True)
    make_run(tmp_path / "synthetic", "ast_linear", ended_at_cap=False)
    make_run(tmp_path / "synthetic", "ast_noise")
    (table,), _ = results.read(tmp_path / "synthetic")
    page = pages.blocks(table)
    accuracy = next(block for block in page if isinstance(block, list))
    names = [line["method"] for line in accuracy]
    assert names[2:] == ["ast_linear", "ast_unet †", "ast_noise"]
    assert "†: training ended at its cap" in pages.text(page)
    assert "†" not in pages.text(pages.blocks(table.only(["ast_linear", "ast_noise"])))


def test_kendall_tau_is_that_of_scipy():
    first, second = np.random.default_rng(0).random((2, 9))
    expected = stats.kendalltau(first, second).statistic
    assert compare.kendall_tau(first, second) == pytest.approx(expected)
    assert compare.kendall_tau(first, first) == 1


def test_other_references_change_the_differences_alone(tmp_path):
    table, _ = make_tables(tmp_path / "synthetic", {"ast_linear": 10, "ast_unet": 20})
    there = compare.compare_with_reference(table, "ast_linear", resamples=20)
    back = compare.compare_with_reference(table, "ast_unet", resamples=20)
    assert there.errors == back.errors
    assert there.differences["ast_unet"].value == -back.differences["ast_linear"].value
    none = compare.compare_with_reference(table, "missing", resamples=20)
    assert none.errors == there.errors and not none.differences


def test_a_run_without_the_truth_has_no_difference_and_is_named(tmp_path):
    scored(tmp_path / "synthetic", "ast_linear", 0, with_truth(arrays(0)))
    scored(tmp_path / "synthetic", "ast_unet", 0, arrays(1))
    scored(tmp_path / "synthetic", "ast_noise", 0, with_truth(arrays(2)))
    (table,), _ = results.read(tmp_path / "synthetic")
    comparison = compare.compare_with_reference(table, "ast_linear", resamples=20)
    assert comparison.differences.keys() == {"ast_noise"}
    (problem,) = comparison.problems
    assert "ast_unet" in problem and "stage score" in problem
    comparison = compare.compare_with_reference(table, "ast_unet", resamples=20)
    assert comparison.errors.keys() == {"ast_linear", "ast_noise"} and not comparison.differences


def test_a_run_on_another_truth_is_left_out(tmp_path):
    for conf in ("ast_linear", "ast_unet"):
        scored(tmp_path / "synthetic", conf, 0, with_truth(arrays(0)))
    odd = scored(tmp_path / "synthetic", "ast_noise", 0, with_truth(arrays(0)))
    run_folder = RunFolder(odd)
    changed = run_folder.read_results()
    changed["truth"]["sha256"] = "00" * 32
    run_folder.write_results(changed)
    (table,), (reason,) = results.read(tmp_path / "synthetic")
    assert table.confs == ["ast_linear", "ast_unet"]
    assert reason.startswith(f"{odd / 'results.json'}: truth.sha256")


def test_instruments_have_their_truth_in_the_csv(tmp_path):
    table, made = make_tables(tmp_path / "synthetic", {"ast_unet": 0})
    line = list(csv.DictReader(tables.per_instrument([table]).splitlines()))[-1]
    values = [evaluate_on_truth(run)["per_instrument"]["voice"] for run in made["ast_unet"]]
    assert int(line["truth_present"]) == values[0]["present"]
    assert float(line["truth_ap_mean"]) == pytest.approx(np.mean([each["ap"] for each in values]))


def test_clips_are_paired_by_name_and_only_common_seeds_count(tmp_path):
    for seed in (0, 1, 2):
        scored(tmp_path / "synthetic", "ast_linear", seed, arrays(seed))
    for seed in (1, 2, 5):  # the same predictions, their clips in another order
        order = np.random.default_rng(seed).permutation(24)
        found = arrays(seed)
        scored(
            tmp_path / "synthetic",
            "ast_unet",
            seed,
            found | {key: found[key][order] for key in ("clips", "scores", "targets", "mask")},
        )
    got = compare.compare(*methods(tmp_path / "synthetic", "ast_linear", "ast_unet"), resamples=20)
    assert got["seeds"] == [1, 2]
    overall = got["macro_f1"]
    assert overall["a"] == pytest.approx(overall["b"])
    np.testing.assert_allclose(
        [overall[key] for key in ("difference", "low", "high")], 0, atol=1e-12
    )
    assert "includes zero" in compare.sentence(got) and "\n" not in compare.sentence(got)


def test_an_instrument_without_labels_has_no_difference(tmp_path):
    for conf, seed in (("ast_linear", 0), ("ast_unet", 1)):
        found = arrays(seed)
        found["mask"][:, 1] = False
        scored(tmp_path / "synthetic", conf, 0, found)
    got = compare.compare(*methods(tmp_path / "synthetic", "ast_linear", "ast_unet"), resamples=20)
    assert (
        set(got["per_instrument"]["banjo"].values()) == {None}
        and got["macro_f1"]["low"] is not None
    )


def spoil(found, kind):
    if kind == "fewer clips":
        return {key: value if key == "classes" else value[:-1] for key, value in found.items()}
    if kind == "other clips":
        return found | {"clips": np.char.add(found["clips"], "x")}
    if kind == "other labels":
        return found | {"targets": 1 - found["targets"]}
    return found | {"mask": ~found["mask"]}


@pytest.mark.parametrize("kind", ["fewer clips", "other clips", "other labels", "other mask"])
def test_what_is_not_paired_is_refused(tmp_path, kind):
    scored(tmp_path / "synthetic", "ast_linear", 0, arrays(0))
    scored(tmp_path / "synthetic", "ast_unet", 0, spoil(arrays(1), kind))
    run = RunFolder(tmp_path / "synthetic" / "ast_unet" / "seed0")
    run.write_results(run.read_results() | {"clips": 24})
    with pytest.raises(results.ResultsError, match="seed0: .*test clips and labels"):
        compare.compare(*methods(tmp_path / "synthetic", "ast_linear", "ast_unet"), resamples=5)


def test_no_common_seed_and_stale_or_missing_predictions_are_refused(tmp_path):
    scored(tmp_path / "synthetic", "ast_linear", 0, arrays(0))
    other = scored(tmp_path / "synthetic", "ast_unet", 1, arrays(1))
    with pytest.raises(results.ResultsError, match="seed .*ast_linear.*ast_unet"):
        compare.compare(*methods(tmp_path / "synthetic", "ast_linear", "ast_unet"))
    stale = scored(tmp_path / "synthetic", "ast_unet", 0, arrays(1))
    np.savez_compressed(stale / "predictions.npz", **arrays(2))
    with pytest.raises(results.ResultsError, match="ast_unet/seed0/predictions.npz: damaged"):
        compare.compare(*methods(tmp_path / "synthetic", "ast_linear", "ast_unet"), resamples=5)
    (stale / "predictions.npz").unlink()
    with pytest.raises(results.ResultsError, match="predictions.npz: missing"):
        compare.compare(*methods(tmp_path / "synthetic", "ast_linear", "ast_unet"), resamples=5)
    assert other.is_dir()


@pytest.mark.slow
def test_the_script_compares(tmp_path, capsys):
    exp = tmp_path / "exp" / "synthetic"
    for seed in (0, 1):
        scored(exp, "ast_linear", seed, with_truth(arrays(seed)))
        better = with_truth(arrays(seed + 10, noise=0.1))
        scored(exp, "ast_linear+input.norm=none", seed, better)
    options = ["--exp", exp, "--compare", "ast_linear"]
    code, out, err = call(capsys, report, *options, "ast_linear+input.norm=none")
    assert code == 0, err
    assert (
        "ast_linear+input.norm=none - ast_linear: +" in out
        and "excludes zero (seeds 0, 1; 24 clips, 2,000 resamples)" in out
    )
    stem = "clean.tiny.compare.ast_linear.ast_linear+input.norm=none"
    found = json.loads((exp / "figures" / f"{stem}.json").read_text())
    assert found["macro_f1"]["low"] > 0 and set(found["per_instrument"]) == set(CLASSES)
    on_truth = json.loads((exp / "figures" / f"{stem}.truth.json").read_text())
    assert on_truth["macro_f1"] != found["macro_f1"] and "on the truth" in out
    assert {path.name for path in (exp / "figures").iterdir()} == {
        f"{name}.{kind}" for name in (stem, f"{stem}.truth") for kind in ("png", "pdf", "json")
    }
    code, _, err = call(capsys, report, *options, "ast_lineal+input.norm=none")
    assert (
        code == 2 and "did you mean 'ast_linear+input.norm=none'?" in err and err.count("\n") == 1
    )
    assert call(capsys, report, "--exp", exp)[0] == 2
    options = ["--exp", exp, "--out", exp / "RESULTS.md", "--reference", "ast_lineal"]
    code, _, err = call(capsys, report, *options)
    assert code == 2 and err.count("\n") == 1 and "ast_linear" in err
