"""The frame of the benchmarks: what is timed, how it is kept, and the page that is made of it."""

import json
import sys
import time
from pathlib import Path

import pytest

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

    monkeypatch.setattr(record.torch.cuda, "is_available", lambda: False)  # names and titles differ where there is a GPU
    monkeypatch.setattr(record, "FOLDER", tmp_path / "benchmarks")
    monkeypatch.setattr(summary, "PAGE", tmp_path / "BENCHMARKS.md")
    return record, summary


def test_a_result_says_what_it_depends_on(frame, tmp_path, capsys):
    record, _ = frame
    record.save("step", ROWS, about="A title\n\nHow.")
    (path,) = (tmp_path / "benchmarks").iterdir()
    found = json.loads(path.read_text())
    assert found["rows"] == ROWS and found["command"] == "python tests/bench/step.py --repeats 3" and found["about"] == "A title\n\nHow."
    assert found.keys() >= {"benchmark", "commit", "date"} and found["machine"].keys() >= {"cpu", "cores", "threads", "memory GB", "gpu", "platform"}
    assert found["versions"].keys() >= {"python", "torch", "numpy"} and found["machine"]["memory GB"] > 0.1
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["clips", "name", "some", "s", "goal", "met"] and out[4].split() == ["4,000", "d", "8", "at", "most", "5", "s", "no"]


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
    for text in ("How it is measured.", "`python tests/bench/step.py --repeats 3`", "| 2,000 | c | 4 | at most 5 s: met |", "| 4,000 | d | 8 | at most 5 s: not met |",
                 "[A title](#a-title-yes): clips 4,000, name d | at most 5 s | not met |", "a\\|b", "| float32 | head | 1,234 |", "| bfloat16 | head | 0.01234 |"):  # fmt: skip
        assert text in page
    charts = {path.name for path in (tmp_path / "benchmarks").glob("*.png")}
    assert charts == {"step-clips.png", "step-components.png"} and all(f"(benchmarks/{name})" in page for name in charts)
    unmeasured = page.partition("## Not measured yet")[2]
    assert "- at all: " in unmeasured and "features" in unmeasured.splitlines()[2] and "step" not in unmeasured.splitlines()[2]
    assert "step" in unmeasured.splitlines()[3] and "on a GPU" in unmeasured


def test_callables_take_turns_after_a_warm_up(frame):
    record, _ = frame
    calls = []
    work = {"quick": lambda: calls.append("q"), "slow": lambda: (calls.append("s"), time.sleep(0.02))}
    found = record.alternate(work, repeats=3)
    assert "".join(calls) == "qsqsqsqs" and [len(seconds) for seconds in found.values()] == [3, 3]
    assert found["slow"].min() >= 0.02 > found["quick"].min()
    assert record.spread([1.0, 2.0, 4.0], "s") == {"s": 2.0, "quartiles s": "1.5 to 3"}


@pytest.mark.parametrize(("value", "met"), [(1.4, True), (1.5, True), (1.6, False)])
def test_a_goal_is_met_or_not(frame, value, met):
    record, _ = frame
    assert record.goal(value, most=1.5) == {"goal": "at most 1.5", "met": met}
    assert record.goal(-value, least=-1.5, unit=" s") == {"goal": "at least -1.5 s", "met": met}
