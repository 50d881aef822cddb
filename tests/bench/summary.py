"""Write egs/openmic/BENCHMARKS.md from the JSON files of the benchmarks.

python tests/bench/summary.py
"""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import record

from ast_repr import atomic

PAGE = record.FOLDER.parent / "BENCHMARKS.md"
INTRODUCTION = """# Benchmarks

Compared variants alternate in one process or one run, so that other load on the machine affects
all of them. Figures are medians, with quartiles if there are several; sizes are the paper's
unless a section says otherwise. Each section names its command (set `PYTHONPATH=src` if the
package is not installed), the machine and the commit that was measured: later code may be faster,
and its scripts may have other rows. `python tests/bench/summary.py` writes this page.
"""


def main() -> None:
    """Write the page."""
    lines = [INTRODUCTION]
    paths = sorted(record.FOLDER.glob("*.json"))
    for path in paths:
        lines += section(json.loads(path.read_text(encoding="utf-8")))
    atomic.write_text(PAGE, "\n".join(lines))
    print(f"{PAGE}: {len(paths)} benchmarks")


def section(figures: dict) -> Iterator[str]:
    """Yield the lines of one benchmark: what it measures, where, and its tables."""
    script = Path(__file__).with_name(f"{figures['benchmark']}.py")
    docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    title, _, about = docstring.partition("\n")
    title = title.rstrip(".")
    gpu = " (GPU)" if figures["device"] == "cuda" else ""
    yield f"## {title}{gpu}\n"
    yield f"{about.strip()}\n"
    machine = figures["machine"]
    packages = [f"{name} {version}" for name, version in figures["versions"].items()]
    yield f"`{figures['command']}`, {figures['date']}, commit {figures['commit'] or 'unknown'},"
    yield f"{machine['cpu']}, {machine['usable cores']} of {machine['cores']} cores,"
    yield f"{machine['memory GB']:g} GB, GPU: {machine['gpu'] or 'none'}, {machine['platform']};"
    yield f"{', '.join(packages)}.\n"
    for table in record.tables(figures["rows"]):
        yield from markdown(table)


def markdown(rows: list[dict]) -> Iterator[str]:
    """Yield the lines of a Markdown table, numbers to the right."""
    rules = ["---:" if record.is_number(rows, key) else "---" for key in rows[0]]
    yield f"| {' | '.join(rows[0])} |"
    yield f"|{'|'.join(rules)}|"
    for row in rows:
        cells = [record.short(value).replace("|", "\\|") for value in row.values()]
        yield f"| {' | '.join(cells)} |"
    yield ""


if __name__ == "__main__":
    main()
