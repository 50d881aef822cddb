"""The frame of the benchmarks: what is timed, how it is kept, and the page that is made of it."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parent / "bench"
ROWS = [
    {"clips": 1000, "name": "a|b", "some s": 2.0, "goal": None, "met": None},
    {"clips": 2000, "name": "c", "some s": 4.0, "goal": "at most 5 s", "met": True},
    {"clips": 4000, "name": "d", "some s": 8.0, "goal": "at most 5 s", "met": False},
    {"precision": "float32", "component": "head", "ms": 1234.5},
    {"precision": "bfloat16", "component": "head", "ms": 0.012344},
]


@pytest.fixture
def frame(monkeypatch, tmp_path):
    """The modules record and summary, writing below tmp_path."""
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.setattr(sys, "argv", [str(BENCH / "step.py"), "--repeats", "3"])
    import record
    import summary

    monkeypatch.setattr(record, "FOLDER", tmp_path / "benchmarks")
    monkeypatch.setattr(summary, "PAGE", tmp_path / "BENCHMARKS.md")
    return record, summary


@pytest.fixture
def step(frame):
    """The benchmark of the training step."""
    import step

    return step


@pytest.fixture
def model(step):
    return step.own_model({"embed_dim": 12, "depth": 2, "num_heads": 2}, "cpu")


def test_a_result_says_what_it_depends_on(frame, tmp_path, capsys):
    record, _ = frame
    record.save("step", ROWS, about="A title\n\nHow.")
    (path,) = (tmp_path / "benchmarks").iterdir()
    found = json.loads(path.read_text())
    assert (
        found["rows"] == ROWS
        and found["command"] == "python tests/bench/step.py --repeats 3"
        and found["about"] == "A title\n\nHow."
    )
    assert (
        found.keys() >= {"benchmark", "commit", "date"}
        and found["device"] == "cpu"
        and found["machine"].keys() >= {"cpu", "cores", "threads", "memory GB", "gpu", "platform"}
    )
    assert (
        found["versions"].keys() >= {"python", "torch", "numpy"}
        and found["machine"]["memory GB"] > 0.1
    )
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["clips", "name", "some", "s", "goal", "met"] and out[4].split() == [
        "4,000",
        "d",
        "8",
        "at",
        "most",
        "5",
        "s",
        "no",
    ]


def test_quick_sizes_are_not_kept(frame, tmp_path, monkeypatch):
    record, _ = frame
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--quick"])
    record.save("step", ROWS)
    assert not (tmp_path / "benchmarks").exists()


def test_the_page_has_every_table_goal_and_chart(frame, tmp_path):
    record, summary = frame
    record.save("step", ROWS, about="A title: yes\n\nHow it is measured.")
    summary.main()
    page = (tmp_path / "BENCHMARKS.md").read_text()
    for text in (
        "How it is measured.",
        "`python tests/bench/step.py --repeats 3`",
        "| 2,000 | c | 4 | at most 5 s: met |",
        "| 4,000 | d | 8 | at most 5 s: not met |",
        "[A title](#a-title-yes): clips 4,000, name d | at most 5 s | - | not met |",
        "a\\|b",
        "| float32 | head | 1,234 |",
        "| bfloat16 | head | 0.01234 |",
    ):
        assert text in page
    charts = {path.name for path in (tmp_path / "benchmarks").glob("*.png")}
    assert charts == {"step-clips.png", "step-components.png"} and all(
        f"(benchmarks/{name})" in page for name in charts
    )
    unmeasured = page.partition("## Not measured yet")[2]
    assert (
        "- at all: " in unmeasured
        and "features" in unmeasured.splitlines()[2]
        and "step" not in unmeasured.splitlines()[2]
    )
    on_a_gpu = unmeasured.splitlines()[3]
    assert (
        "on a GPU" in on_a_gpu
        and "step" in on_a_gpu
        and "features" not in on_a_gpu
        and "decoding" not in on_a_gpu
    )
    assert "| `step`: bfloat16 on an H100 | at least 55 % of ceiling | - | not measured |" in page


@pytest.mark.parametrize("on", ["cuda", torch.device("cuda:1")])
def test_what_was_measured_on_a_gpu_is_kept_beside_the_rest(frame, tmp_path, on):
    record, summary = frame
    judged = {"name": "e", "s": 1.25, **record.goal(1.25, least=2, unit="x")}
    record.save("step", ROWS, about="A title\n\nHow.")
    record.save("step", [judged], about="A title\n\nHow.", on=on)
    summary.main()
    page = (tmp_path / "BENCHMARKS.md").read_text()
    assert {path.name for path in (tmp_path / "benchmarks").glob("*.json")} == {
        "step.json",
        "step-gpu.json",
    }
    assert "\n## A title\n" in page and "\n## A title (GPU)\n" in page
    assert (
        "[A title (GPU)](#a-title-gpu): name e | at least 2x | 1.25 | not met |" in page
        and "| e | 1.25 | at least 2x: not met |" in page
    )
    assert (
        "| `step`: " not in page
        and "| `budget`: the whole table on an H100 | at most 1 h | - | not measured |" in page
    )
    assert "step" not in page.partition("- on a GPU: ")[2]


def test_figures_of_before_devices_were_written_are_of_a_cpu(frame, tmp_path):
    record, summary = frame
    record.save("step", ROWS, about="A title\n\nHow.")
    (path,) = (tmp_path / "benchmarks").iterdir()
    found = json.loads(path.read_text())
    del found["device"]
    path.write_text(json.dumps(found))
    summary.main()
    page = (tmp_path / "BENCHMARKS.md").read_text()
    assert "\n## A title\n" in page and "| `step`: " in page


def test_options_are_not_shortened(frame, capsys):
    record, _ = frame
    with pytest.raises(SystemExit):
        record.parser("About.").parse_args(["--qui"])  # sizes would be the quick ones, and kept
    assert "--qui" in capsys.readouterr().err


def test_callables_take_turns_after_a_warm_up(frame):
    record, _ = frame
    calls = []
    work = {
        "quick": lambda: calls.append("q"),
        "slow": lambda: (calls.append("s"), time.sleep(0.02)),
    }
    found = record.alternate(work, repeats=3)
    assert "".join(calls) == "qsqsqsqs" and [len(seconds) for seconds in found.values()] == [3, 3]
    assert found["slow"].min() >= 0.02 > found["quick"].min()
    assert record.spread([1.0, 2.0, 4.0], "s") == {"s": 2.0, "quartiles s": "1.5 to 3"}


@pytest.mark.parametrize(("value", "met"), [(1.4, True), (1.5, True), (1.6, False)])
def test_a_goal_is_met_or_not(frame, value, met):
    record, _ = frame
    assert record.goal(value, most=1.5) == {"goal": "at most 1.5", "value": value, "met": met}
    assert record.goal(-value, least=-1.5, unit=" s") == {
        "goal": "at least -1.5 s",
        "value": -value,
        "met": met,
    }


def test_freed_memory_is_kept_only_after_all_was_measured_without(step, monkeypatch):
    done = []
    monkeypatch.setattr(step.devices, "keep_freed_memory", lambda: done.append("keep"))
    passes = {
        ("float32", 4): {("ours", "float32"): lambda: done.append("a")},
        ("bfloat16", 4): {("ours", "bfloat16"): lambda: done.append("b")},
    }
    taken = step.with_both_memories(passes, torch.device("cpu"), repeats=1)
    assert done == ["a", "a", "b", "b", "keep", "a", "a", "b", "b"]
    assert taken.keys() == passes.keys() and list(taken["bfloat16", 4]) == [
        ("ours", "bfloat16", "given back"),
        ("ours", "bfloat16", "kept"),
    ]


def test_the_quickest_step_of_each_side_is_judged_by_the_ceiling_of_its_precision(step):
    seconds = {
        ("product by PyTorch", torch.float32, "given back"): 4.0,
        ("product by oneDNN", torch.float32, "given back"): 2.0,
        ("product by PyTorch", torch.float32, "kept"): 2.0,
        ("product by oneDNN", torch.float32, "kept"): 2.5,
        ("product by PyTorch", torch.bfloat16, "kept"): 0.1,
        ("this project", torch.float32, "given back"): 4.0,
        ("this project", torch.float32, "kept"): 2.0,
        ("transformers", torch.float32, "given back"): 2.2,
        ("transformers", torch.float32, "kept"): 3.0,
        ("unfused", torch.float32, "given back"): 9.0,
        ("unfused", torch.float32, "kept"): 8.0,
    }
    taken = {
        who: [0.5 * second, second, 3 * second] for who, second in seconds.items()
    }  # a slow moment meets all alike
    rows = step.compare(taken, step.speeds_of(taken, 14e9, 20e9), 4, torch.device("cpu"))
    assert [row["times this project's best"] for row in rows] == [2, 1, 1.1, 1.5, 4.5, 4]
    assert [row["of ceiling, %"] for row in rows[:2]] == [35, 70]
    assert [(row["goal"] or "-").partition(",")[0] for row in rows] == [
        "-",
        "at least 60 % of ceiling",
        "at least 1.15x",
        "-",
        "-",
        "at least 3x",
    ]
    assert [row["met"] for row in rows] == [None, True, False, None, None, True]


def test_only_the_same_network_takes_part(step, model):
    other = step.own_model({"embed_dim": 12, "depth": 2, "num_heads": 2}, "cpu")
    models = {"this project": model, "transformers": other, "unfused": other}
    found = step.entrants(models, torch.bfloat16, 1, torch.device("cpu"), unfused=True)
    assert list(found) == [
        ("this project", torch.bfloat16),
        ("transformers", torch.bfloat16),
        ("unfused", torch.float32),
    ]
    other.head.linear.bias.data += 0.01
    with pytest.raises(RuntimeError, match="unfused in float32 is another network"):
        step.entrants(models, torch.bfloat16, 1, torch.device("cpu"), unfused=True)


def test_a_variant_that_fails_has_no_figure(step, model, monkeypatch, capsys):
    def fail(*args):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(step, "whole_forward", fail)
    with torch._dynamo.config.patch(
        disable=True
    ):  # --compile then changes nothing, and takes no time
        rows = {
            row["variant"]: row
            for row in step.gains(model, torch.float32, 1, torch.device("cpu"), repeats=1)
        }
    assert len(rows) == 5 and len({tuple(row) for row in rows.values()}) == 1
    failed = rows.pop("without the shortened last block (all its tokens)")
    assert failed["s"] is None and failed["times the full step"] is None
    assert (
        all(row["s"] > 0 for row in rows.values())
        and rows["the full step"]["times the full step"] == 1
    )
    assert (
        capsys.readouterr().err
        == "without the shortened last block (all its tokens): RuntimeError: no compiler\n"
    )


def test_the_parts_of_a_step_make_the_whole(step, model):
    rows = step.components(model, torch.float32, 1, torch.device("cpu"), repeats=1)
    assert [row["component"] for row in rows] == [
        "U-Net",
        "AST: matrix products",
        "AST: attention",
        "head",
        "AST: rest (by difference)",
    ]
    assert sum(row["share, %"] for row in rows) == pytest.approx(100) and all(
        row["ms"] > 0 for row in rows[:-1]
    )
    assert all(parameter.grad is None for parameter in model.parameters())
