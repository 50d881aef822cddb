"""What the project does when things go wrong: kills, flipped bits, hostile files, full disks.

    python tests/faults/run.py                     # all campaigns, 98 minutes on two busy cores
    python tests/faults/run.py --quick             # a few trials of each, 17 minutes
    python tests/faults/run.py bits models         # two of them
    python tests/faults/run.py --seed 7 --out faults.json

    kills        every stage killed at a random moment (SIGKILL, SIGTERM, SIGINT, or one of its
                 workers), then run to its end
    bits         one flipped bit in each kind of file that is read, through the code that reads it
    models       model files that name foreign classes, hold evil pickles, absurd sizes, wrong
                 types; YAML bombs
    concurrent   several processes of a stage at once in one folder, also with equal process numbers
    disk         a disk that is full at a random moment, then has space again (a tmpfs where one may
                 be mounted, else a limit on the size of files)

A trial has survived if what is wrong is refused in one line, or if the result is that of an
undisturbed run. `failed` is an error where the same command should have finished, or one without a
helpful line; `silent` is another result and not a word; `leftovers` are files and processes that
should not have stayed. The goal is 0 in all columns but the first two. Formats that cannot notice a
changed bit (samples of WAV and MP3, tables that people write) are tried for tracebacks and hangs;
their silence is counted apart, as "by nature".

These are no tests of pytest: nothing here is collected.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import bits
import concurrent_stages
import disk
import kills
import models
import torch
from verdict import Tally
from workshop import Workshop

CLIPS = 280  # two shards
FEW_CLIPS = 24
CAMPAIGNS = ("kills", "bits", "models", "concurrent", "disk")


def main(options: argparse.Namespace) -> int:
    """Run the campaigns; returns the exit code, 0 if every trial went as it should."""
    torch.set_num_threads(1)  # so that processes may be forked
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of what cleans up
    tallies = []
    for name in options.names or CAMPAIGNS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="ast_repr_faults_") as folder:
            tally = campaign(name, Path(folder), options.quick, random.Random(options.seed))
        tallies.append(tally)
        print("\n".join(tally.lines()))
        print(f"{name}: {time.monotonic() - started:.0f} s, seed {options.seed}\n", flush=True)
    if options.out:
        found = {"seed": options.seed, "campaigns": [tally.as_json() for tally in tallies]}
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(not all(trial.good for tally in tallies for trial in tally.trials))


def campaign(name: str, folder: Path, quick: bool, rng: random.Random) -> Tally:
    """Run one campaign in an empty folder."""
    if name == "kills":
        counts = kills.QUICK if quick else kills.FULL
        return kills.run(Workshop(folder, FEW_CLIPS if quick else CLIPS), counts, rng)
    if name == "bits":
        return bits.run(Workshop(folder, FEW_CLIPS, epochs=2), 6 if quick else bits.FLIPS, rng)
    if name == "models":
        return models.run(Workshop(folder, FEW_CLIPS, epochs=1), quick)
    if name == "concurrent":
        return concurrent_stages.run(Workshop(folder, CLIPS), quick, rng)
    return disk.run(folder, FEW_CLIPS if quick else CLIPS, 1 if quick else disk.TRIALS, rng)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="CAMPAIGN", help=", ".join(CAMPAIGNS))
    parser.add_argument("--quick", action="store_true", help="a few trials of each")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures there, as JSON")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.names if name not in CAMPAIGNS]:
        parser.error(f"unknown campaign {unknown[0]!r}; expected {', '.join(CAMPAIGNS)}")
    return options


if __name__ == "__main__":
    sys.exit(main(parse()))
