"""Every benchmark runs with its small sizes."""

import runpy
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "budget",
        "decoding",
        "embeddings",
        "features",
        "loader",
        "peers",
        "prediction",
        "scaling",
        "scalogram",
        "step",
        "warp",
    ],
)
def test_a_benchmark_runs_and_writes_nothing(name, monkeypatch, capsys):
    if name in ("peers", "step"):
        pytest.importorskip("transformers", reason="needs the extra `test-heavy`")
    monkeypatch.syspath_prepend(str(BENCH))
    script = BENCH / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--quick"])
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.endswith("nothing is written\n")
