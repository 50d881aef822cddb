"""Shared by the benchmarks: timing of callables in turn, and rows printed and kept as JSON.

A row is a dict of plain values; its keys are headings, units included ("clips/s"). The keys `goal`,
`value` and `met` come from `goal()` and become one column.
"""

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from ast_repr import atomic

ROOT = Path(__file__).resolve().parents[2]
FIGURES = "egs/openmic/benchmarks"
FOLDER = ROOT / FIGURES
PACKAGES = ("torch", "transformers", "numpy", "scipy", "soundfile", "av", "soxr", "h5py")
QUICK = "--quick"


def parser(about: str, device: bool = True) -> argparse.ArgumentParser:
    """Make a parser of the options that benchmarks share; `about` is the script's docstring."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if device:
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(QUICK, action="store_true", help="small sizes to try it; writes nothing")
    return parser


def save(name: str, rows: list[dict], on: torch.device | str = "cpu") -> None:
    """Print the rows and, without --quick, write them to egs/openmic/benchmarks/NAME.json.

    Args:
        rows: a new table begins where the keys change.
        on: the device that was measured; figures of a GPU go to NAME-gpu.json.
    """
    for table in tables(rows):
        print(*aligned(table), "", sep="\n")
    if QUICK in sys.argv:
        print("small sizes: nothing is written")
        return
    kind = torch.device(on).type
    suffix = "-gpu" if kind == "cuda" else ""
    script = Path(sys.argv[0]).resolve().relative_to(ROOT)
    figures = {
        "benchmark": name,
        "device": kind,
        "command": f"python {script} {shlex.join(sys.argv[1:])}".strip(),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
        "rows": rows,
    }
    atomic.write_json(FOLDER / f"{name}{suffix}.json", figures)


def alternate(
    work: dict[str, Callable[[], object]],
    repeats: int,
    warmup: int = 1,
    clock: Callable[[], float | np.ndarray] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Time callables that take turns, so that other load on the machine affects all of them.

    Args:
        clock: time.process_time counts the CPU time of the process instead; a clock may also
            return an array of several times.

    Returns:
        {name: seconds (repeats,), or (repeats, times)}; a GPU has finished when the clock is read.
    """
    seconds = {name: [] for name in work}
    for turn in range(warmup + repeats):
        for name, function in work.items():
            synchronise()
            start = clock()
            function()
            synchronise()
            if turn >= warmup:
                seconds[name].append(clock() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def spread(seconds: Iterable[float], unit: str = "ms") -> dict:
    """Return median and quartiles of seconds as columns of a row, in "s" or "ms"."""
    factor = {"s": 1, "ms": 1000}[unit]
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75]) * factor
    return {unit: float(median), f"quartiles {unit}": f"{short(low)} to {short(high)}"}


def goal(
    value: float, most: float | None = None, least: float | None = None, unit: str = ""
) -> dict:
    """Return the columns that say whether `value` meets a goal, at most or at least a number."""
    if least is None:
        text = f"at most {most:g}{unit}"
        met = value <= most
    else:
        text = f"at least {least:g}{unit}"
        met = value >= least
    return {"goal": text, "value": float(value), "met": bool(met)}


def synchronise() -> None:
    """Wait until a GPU has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def commit() -> str | None:
    """Return the commit of the working tree, "-dirty" if tracked files differ; None without git."""
    git = ["git", "-C", ROOT]
    try:
        name = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    changed = subprocess.run(
        [*git, "diff", "--quiet", "HEAD", "--", ".", f":(exclude){FIGURES}"]
    ).returncode
    return f"{name}-dirty" if changed else name


def machine() -> dict:
    """Describe this machine in plain values."""
    models = set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            models.add(line.partition(":")[2].strip())
    return {
        "cpu": " and ".join(sorted(models)) or platform.processor(),
        "cores": os.cpu_count(),
        "usable cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory GB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(terse=True),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages."""
    installed = {package.name.lower(): package.version for package in metadata.distributions()}
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        if name in installed:
            found[name] = installed[name]
    return found


def tables(rows: list[dict]) -> list[list[dict]]:
    """Split rows into tables where the keys change; the column of a goal says if it was met."""
    split = []
    for row in rows:
        cells = {key: cell for key, cell in row.items() if key not in ("value", "met")}
        if row.get("goal"):
            result = {True: "met", False: "not met", None: "not judged"}[row["met"]]
            cells["goal"] = f"{row['goal']}: {result}"
        if split and split[-1][0].keys() == cells.keys():
            split[-1].append(cells)
        else:
            split.append([cells])
    return split


def aligned(rows: list[dict]) -> list[str]:
    """Return the lines of a table for a terminal, numbers to the right."""
    cells = [list(rows[0])]
    cells += [[short(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = []
        for key, cell, width in zip(rows[0], row, widths, strict=True):
            padded.append(cell.rjust(width) if is_number(rows, key) else cell.ljust(width))
        lines.append("  ".join(padded).rstrip())
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def is_number(rows: list[dict], key: str) -> bool:
    """Return whether a column of a table holds numbers."""
    return any(isinstance(row[key], int | float) for row in rows)


def short(value: object) -> str:
    """Format a cell: four digits of a fraction, thousands separated, "-" for nothing."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
