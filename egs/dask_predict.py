"""Predict a library of audio files in shards, as tasks of Dask.

    pip install '.[dask]'
    python egs/dask_predict.py --shards 8 --output predictions -- ~/library --nj 2
    python egs/dask_predict.py --scheduler tcp://head:8786 --shards 64 --output /shared/lines \
        -- /shared/library --precision auto

What follows `--` are arguments of `ast-repr predict`. Without --scheduler, the shards run on two
workers of this machine. Each writes JSON lines to OUTPUT/I-of-N.jsonl; the same command continues
after a kill, on any workers that see the same folders. `cat OUTPUT/*.jsonl` joins them.
"""

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path

from distributed import Client, LocalCluster, as_completed

WORKERS = 2  # on this machine
AST_REPR = "from ast_repr.commands import main; main()"  # by the Python of the worker


def predict_shard(index: int, count: int, output: Path, arguments: list[str]) -> tuple[int, str]:
    """Run `ast-repr predict` for one shard; return its exit code and messages."""
    file = output / f"{index}-of-{count}.jsonl"
    command = [sys.executable, "-c", AST_REPR, "predict", *arguments, "--resume"]
    command += ["--shard", f"{index}/{count}", "--format", "jsonl", "--output", file]
    run = subprocess.run(command, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
    return run.returncode, run.stderr


def main(args: argparse.Namespace) -> int:
    """Run all shards; return the largest exit code."""
    args.output.mkdir(parents=True, exist_ok=True)
    task = partial(
        predict_shard, count=args.shards, output=args.output.resolve(), arguments=args.arguments
    )
    cluster = args.scheduler or LocalCluster(n_workers=WORKERS, threads_per_worker=1)
    worst = 0
    with Client(cluster) as client:
        shards = client.map(task, range(1, args.shards + 1), pure=False)
        for done, (_, result) in enumerate(as_completed(shards, with_results=True), 1):
            code, messages = result
            print(messages, end="")
            print(f"{done} of {args.shards} shards done, exit code {code}", flush=True)
            worst = max(worst, code)
    return worst


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scheduler", help="address of a running cluster's scheduler")
    parser.add_argument("--shards", type=int, required=True, metavar="N")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("arguments", nargs="+", metavar="PATH", help="of `ast-repr predict`")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main(parse()))
