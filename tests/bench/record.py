"""What every benchmark shares: callables timed in turn, rows printed as a table and kept as JSON with all that they depend on.

A row is a dict of plain values whose keys are the headings, units included ("clips/s"). What a key means to `summary.py`:
    goal, met          from `goal()`: they become one column, in words
    value              from `goal()` too: what was judged, for the list of goals; another column of the row has it already
    clips, "... s"     seconds against the number of clips: lines of the first chart
    component, ms      a part of the training step: a bar of the second chart
"""

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from ast_repr import atomic

ROOT = Path(__file__).resolve().parents[2]
FIGURES = "egs/openmic/benchmarks"
FOLDER = ROOT / FIGURES
PACKAGES = (
    "torch",
    "torchaudio",
    "transformers",
    "numpy",
    "scipy",
    "soundfile",
    "av",
    "soxr",
    "h5py",
)
QUICK = "--quick"  # small sizes, to try a benchmark out: what they give is not kept


def parser(about, device=True):
    """A parser of the options that benchmarks share; `about` is the script's docstring."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if device:
        made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    made.add_argument(
        QUICK, action="store_true", help="small sizes, to try it out; nothing is written"
    )
    return made


def save(name, rows, about=None, on="cpu"):
    """Print `rows` as a table and write them to egs/openmic/benchmarks/<name>.json, unless the sizes are the quick ones.

    What was measured on a GPU goes to <name>-gpu.json, so that both kinds of figures are kept.

    Args:
        rows: list of dicts of plain values; tables are cut where the keys change.
        about: what is measured and how, Markdown, the first line as title; default: the docstring of the script that runs.
        on: the device that was measured, as torch.device takes it.
    """
    for table in tables(rows):
        print(*aligned(table), "", sep="\n")
    if QUICK in sys.argv:
        return print("tried out only: nothing is written")
    script, kind = Path(sys.argv[0]).resolve().relative_to(ROOT), torch.device(on).type
    atomic.write_json(
        FOLDER / f"{name}{'-gpu' if kind == 'cuda' else ''}.json",
        {
            "benchmark": name,
            "device": kind,
            "about": (about or sys.modules["__main__"].__doc__).strip(),
            "command": f"python {script} {shlex.join(sys.argv[1:])}".strip(),
            "commit": commit(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "machine": machine(),
            "versions": versions(),
            "rows": rows,
        },
    )


def alternate(work, repeats, warmup=1):
    """Seconds of each of the callables {name: callable}, which take turns, so that a machine that slows down does so for all.

    Returns:
        {name: array (repeats,)}; a GPU has done its work when the clock is read.
    """
    taken = {name: [] for name in work}
    for turn in range(warmup + repeats):
        for name, do in work.items():
            synchronise()
            started = time.perf_counter()
            do()
            synchronise()
            if turn >= warmup:
                taken[name].append(time.perf_counter() - started)
    return {name: np.array(seconds) for name, seconds in taken.items()}


def spread(seconds, unit="ms"):
    """Median and quartiles of some seconds as columns of a row, in "s" or "ms"."""
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75]) * {"s": 1, "ms": 1000}[unit]
    return {unit: float(middle), f"quartiles {unit}": f"{short(low)} to {short(high)}"}


def goal(value, most=None, least=None, unit=""):
    """What says of a row whether `value` meets a goal."""
    said = f"at most {most:g}{unit}" if least is None else f"at least {least:g}{unit}"
    return {
        "goal": said,
        "value": float(value),
        "met": bool(value <= most if least is None else value >= least),
    }


def synchronise():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def commit():
    """The commit of the working tree, "-dirty" if files that git tracks differ from it, figures apart; None without git."""
    try:
        name = subprocess.run(
            ["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", ROOT, "diff", "--quiet", "HEAD", "--", ".", f":(exclude){FIGURES}"],
            capture_output=True,
        ).returncode
    except OSError:
        return None
    return f"{name}{'-dirty' if changed else ''}" if name else None


def machine():
    """What runs here, as plain values."""
    models = {
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    }
    return {
        "cpu": " and ".join(sorted(models)) or platform.processor(),
        "cores": os.cpu_count(),
        "usable cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory GB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(terse=True),
    }


def versions():
    """Versions of Python and of the packages that are there."""
    there = {found.name.lower() for found in metadata.distributions()}
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in PACKAGES if name in there
    }


def tables(rows):
    """The rows as lists of those that follow each other and have the same keys, less what was judged, which they have twice."""
    found = []
    for row in ({key: cell for key, cell in row.items() if key != "value"} for row in rows):
        if found and found[-1][0].keys() == row.keys():
            found[-1].append(row)
        else:
            found.append([row])
    return found


def aligned(rows):
    """Lines of a table, numbers to the right."""
    cells = [list(rows[0]), *([short(value) for value in row.values()] for row in rows)]
    right = [
        any(isinstance(row[key], (int, float)) and not isinstance(row[key], bool) for row in rows)
        for key in rows[0]
    ]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        "  ".join(
            f"{cell:{'>' if far else '<'}{width}}" for cell, width, far in zip(row, widths, right)
        ).rstrip()
        for row in cells
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def short(value):
    """A value as a table shows it: four digits of a fraction, thousands apart.

    >>> [short(value) for value in (20000, 1234.5, 0.012344, True, None, "x")]
    ['20,000', '1,234', '0.01234', 'yes', '-', 'x']
    """
    if value is None or isinstance(value, float) and value != value:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (float, np.floating)):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
