"""Scalogram: extraction beside that of the log-mel.

`src/extract.py`, start to end, on the clips of `features.py`: AST's log-mel, and the scalogram of
96 scales. Time is that of the CPU, user and system, of all processes, since other load on the
machine changes it less than the time that passes. Memory is measured as in `features.py`. Then: the
time of a further clip, without the start of the processes.
"""

import argparse
import os
import resource
import tempfile
from pathlib import Path

import features
import record

CONFS = {"logmel": "ast_linear", "scalogram": "scalogram_cnn_attention"}
SIZES = (100, 1_000)
QUICK_SIZES = (2, 4)


def main(args: argparse.Namespace) -> None:
    """Measure the extraction of each feature for both numbers of clips, and save the rows."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        pool = [
            features.write_sound(Path(folder) / "pool" / f"{seed}.ogg", seed)
            for seed in range(min(features.POOL, *args.clips))
        ]
        for count in args.clips:
            data = Path(folder) / str(count)
            features.write_corpus(data, pool, count)
            rows += [measure(data, feature, count, args.nj) for feature in CONFS]
    record.save("scalogram", rows + further_clips(rows))


def measure(data: Path, feature: str, count: int, nj: int) -> dict:
    """Extract one feature of a corpus, and return its row."""
    peak = [0]
    before_s = children_s()
    features.extract(data, nj, peak, CONFS[feature])
    cpu_s = children_s() - before_s
    features.remove_features(data)
    return {
        "feature": feature,
        "clips": count,
        "processes": nj,
        "CPU s": cpu_s,
        "peak GB": peak[0] / 1e9,
    }


def further_clips(rows: list[dict]) -> list[dict]:
    """Return a row per feature, of the time of a clip between the two numbers of clips."""
    further = []
    for feature in CONFS:
        few, many = (row for row in rows if row["feature"] == feature)
        ms = 1000 * (many["CPU s"] - few["CPU s"]) / (many["clips"] - few["clips"])
        further.append({"feature": feature, "CPU ms of a further clip": ms})
    for row in further:
        log_mel_ms = further[0]["CPU ms of a further clip"]
        row["times the log-mel"] = row["CPU ms of a further clip"] / log_mel_ms
    return further


def children_s() -> float:
    """Return the CPU seconds, user and system, of all ended child processes and theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = record.parser(__doc__, device=False)
    parser.add_argument("--clips", type=int, nargs=2, metavar="N", help="two numbers of clips")
    parser.add_argument("--nj", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    args = parser.parse_args()
    if args.clips is None:
        args.clips = QUICK_SIZES if args.quick else SIZES
    return args


if __name__ == "__main__":
    main(parse())
