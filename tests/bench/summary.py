"""egs/openmic/BENCHMARKS.md and its charts, from what the benchmarks have written: every figure comes from a JSON file beside them.

python tests/bench/summary.py
"""

import json
from itertools import takewhile
from pathlib import Path

import matplotlib
import record
from matplotlib.figure import Figure

from ast_repr import atomic
from ast_repr.report import style

PAGE = record.FOLDER.parent / "BENCHMARKS.md"
FRAME = ("record", "summary", "networks")  # the scripts here that measure nothing
CPU_ONLY = ("features", "decoding")  # these have nothing to do on a GPU
GPU_GOALS = (  # (benchmark, what, goal): listed as long as there are no figures of a GPU
    ("step", "bfloat16 on an H100", "at least 55 % of ceiling"),
    ("step", "against transformers, on a GPU", "at least 1.3x"),
    ("step", "against the unfused step, on a GPU", "at least 3x"),
    ("budget", "the whole table on an H100", "at most 1 h"),
)
INTRODUCTION = """# Benchmarks

What each part costs, measured side by side: what is compared takes turns in one process or one run, so that a slow moment meets all alike. Figures are
medians, with quartiles where there are several. Each section names its command, which measures it anew (set `PYTHONPATH=src` where the package
is not installed), and the machine. Sizes are the paper's unless a section says otherwise. `python tests/bench/summary.py` writes this page.
"""


def main():
    found = [
        json.loads(path.read_text(encoding="utf-8")) | {"stem": path.stem}
        for path in sorted(record.FOLDER.glob("*.json"))
    ]
    text = [
        INTRODUCTION,
        *goals(found),
        *(line for one in found for line in section(one)),
        *missing(found),
    ]
    atomic.write_text(PAGE, "\n".join(text))
    print(f"{PAGE}: {len(found)} benchmarks")


def goals(found):
    """Lines: every goal, what was measured, and whether that meets it. What a CPU cannot judge is left to the goals for a GPU."""
    rows = [
        {
            "what": f"[{title(one).partition(':')[0]}](#{anchor(one)}): {what(row)}",
            "goal": row["goal"],
            "value": row.get("value"),
            "result": verdict(row),
        }
        for one in found
        for row in one["rows"]
        if row.get("goal") and (row["met"] is not None or on_gpu(one))
    ]
    measured = {one["benchmark"] for one in found if on_gpu(one)}
    rows += [
        {"what": f"`{name}`: {about}", "goal": goal, "value": None, "result": "not measured"}
        for name, about, goal in GPU_GOALS
        if name not in measured
    ]
    return ["## Goals", "", *markdown(rows), ""] if rows else []


def section(one):
    """Lines: what one benchmark measured, where, and its tables and charts."""
    machine = one["machine"]
    where = f"{machine['cpu']}, {machine['usable cores']} of {machine['cores']} cores, {machine['memory GB']:g} GB, GPU: {machine['gpu'] or 'none'}"
    packages = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    yield from (
        f"## {title(one)}",
        "",
        one["about"].partition("\n")[2].strip(),
        "",
        f"`{one['command']}`, {one['date']}, commit {one['commit'] or 'unknown'}",
    )
    yield from (f"on {where}, {machine['platform']}; {packages}.", "")
    for table in record.tables(one["rows"]):
        yield from (*markdown([told(row) for row in table]), "")
    for kind, draw in CHARTS.items():
        with matplotlib.rc_context(style.STYLE):
            figure = draw(one)
        if figure:
            path = save(figure, f"{one['stem']}-{kind}")
            yield from (f"![{title(one)}: {kind}]({path.relative_to(PAGE.parent)})", "")


def missing(found):
    """Lines: the benchmarks of which there are no figures, on the CPU or a GPU."""
    scripts = sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in FRAME
    )
    lacking = {
        "at all": [name for name in scripts if name not in {one["benchmark"] for one in found}],
        "on a GPU": [
            name
            for name in scripts
            if name not in CPU_ONLY
            and name not in {one["benchmark"] for one in found if on_gpu(one)}
        ],
    }
    said = [f"- {where}: {', '.join(names)}" for where, names in lacking.items() if names]
    return ["## Not measured yet", "", *said, ""] if said else []


def told(row):
    """The row, with whether its goal is met in words."""
    if "goal" not in row:
        return row
    return {key: value for key, value in row.items() if key not in ("goal", "met")} | {
        "goal": f"{row['goal']}: {verdict(row)}" if row["goal"] else None
    }


def verdict(row):
    return {True: "met", False: "not met", None: "not judged"}[row["met"]]


def markdown(rows):
    """Lines of a Markdown table, numbers to the right."""
    numbers = {
        key
        for key in rows[0]
        if any(
            isinstance(row[key], (int, float)) and not isinstance(row[key], bool) for row in rows
        )
    }
    yield from (
        f"| {' | '.join(rows[0])} |",
        f"|{'|'.join('---:' if key in numbers else '---' for key in rows[0])}|",
    )
    for row in rows:
        cells = (record.short(value).replace("|", "\\|") for value in row.values())
        yield f"| {' | '.join(cells)} |"


def title(one):
    return one["about"].partition("\n")[0].rstrip(".") + (" (GPU)" if on_gpu(one) else "")


def on_gpu(one):
    return one.get("device") == "cuda"  # files of before this was written are of CPUs


def anchor(one):
    """What GitHub makes of a heading."""
    return "".join(
        letter
        for letter in title(one).lower().replace(" ", "-")
        if letter.isalnum() or letter in "-_"
    )


def what(row):
    """The cells that say what a row is about: those before the first that was measured."""
    cells = takewhile(lambda cell: isinstance(cell[1], (str, int)), row.items())
    return ", ".join(f"{key} {record.short(value)}" for key, value in cells)


def against_clips(one):
    """Seconds against the number of clips, or None where nothing was measured for several numbers."""
    rows = [row for row in one["rows"] if "clips" in row]
    if len({row["clips"] for row in rows}) < 3:
        return None
    figure = Figure((style.WIDTH, 3.2), layout="constrained")
    axes = figure.add_subplot(xlabel="clips", ylabel="seconds")
    for index, key in enumerate(key for key in rows[0] if key.endswith(" s")):
        colour, line, _, marker = style.look(index)
        axes.plot(
            [row["clips"] for row in rows],
            [row[key] for row in rows],
            color=colour,
            linestyle=line,
            marker=marker,
            label=key.removesuffix(" s"),
        )
    axes.set(xlim=0, ylim=0)
    axes.grid(**style.GRID)
    axes.legend(frameon=False)
    return figure


def by_component(one):
    """Milliseconds of each component, bars side by side for each precision, or None where there are none."""
    rows = [row for row in one["rows"] if "component" in row]
    if not rows:
        return None
    names, kinds = (
        list(dict.fromkeys(row.get(key) for row in rows)) for key in ("component", "precision")
    )
    figure = Figure((style.WIDTH, 0.6 + 0.25 * len(rows)), layout="constrained")
    axes, width = figure.add_subplot(xlabel="milliseconds"), 0.8 / len(kinds)
    for index, kind in enumerate(kinds):
        own = [row for row in rows if row.get("precision") == kind]
        places = [names.index(row["component"]) + index * width for row in own]
        bars = axes.barh(
            places, [row["ms"] for row in own], width, color=style.COLOURS[index], label=kind
        )
        axes.bar_label(bars, [record.short(row["ms"]) for row in own], padding=3)
    axes.set_yticks([place + (len(kinds) - 1) * width / 2 for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    if len(kinds) > 1:
        axes.legend(frameon=False)
    return figure


def save(figure, stem):
    path = record.FOLDER / f"{stem}.png"
    with matplotlib.rc_context(style.STYLE), atomic.replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=200)
    return path


CHARTS = {"clips": against_clips, "components": by_component}


if __name__ == "__main__":
    main()
