"""The main job, before and after: `run.sh` of several commits, with nothing there but the environment

Each commit is cloned into an empty folder, where its `egs/openmic/run.sh` renders the corpus, extracts, trains three rows, scores and reports, with the Python that
runs this. Commits take turns. A stage's seconds are those of the log lines that `run.sh` prints. The first commit is what the others are compared with.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import record

from ast_repr import devices

STAGES = ("prepare", "extract", "train", "score", "report")


def main(args):
    options = ["--clips", "200", "--conf", "ast_linear"] if args.quick else []
    names = {
        commit: subprocess.check_output(
            ["git", "-C", record.ROOT, "rev-parse", "--short=12", commit], text=True
        ).strip()
        for commit in args.commits
    }
    taken = {commit: [] for commit in args.commits}
    for _ in range(args.repeats):
        for commit in args.commits:
            taken[commit].append(stages(commit, options))
            print(f"{names[commit]}: {taken[commit][-1]['all']:.0f} s", file=sys.stderr)
    rows = []
    for commit, runs in taken.items():
        found = {stage: float(np.median([run[stage] for run in runs])) for stage in runs[0]}
        rows.append(
            {
                "commit": names[commit],
                "runs": len(runs),
                **{f"{stage}, s": seconds for stage, seconds in found.items()},
            }
        )
    for row in rows:
        row["times the first"] = row["all, s"] / rows[0]["all, s"]
    record.save("recipe", rows, on=devices.choose())


def stages(commit, options):
    """{stage: seconds} of one run of a commit, and "all" of it."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", record.ROOT, clone], check=True)
        subprocess.run(["git", "-C", clone, "checkout", "-q", commit], check=True)
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(clone / "src"),
        }
        started = time.perf_counter()
        said = subprocess.run(
            ["bash", clone / "egs" / "openmic" / "run.sh", *options],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        seconds = time.perf_counter() - started
    begun = {name: int(at) for at, name in re.findall(r"^\[(\d+) s\] (\w+)", said, re.M)}
    ends = [*(begun[stage] for stage in STAGES[1:]), begun["done"]]
    return {stage: end - begun[stage] for stage, end in zip(STAGES, ends)} | {"all": seconds}


def parse():
    parser = record.parser(__doc__, device=False)
    parser.add_argument("commits", nargs="+", help="names of commits, the one before first")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
