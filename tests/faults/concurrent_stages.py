"""Several processes of a stage at once, in one store, run folder or embeddings folder.

Each ends with exit 0, or with one line that says who else is at work; one at least gets to the end.
The same command once more then finds, or makes, what a single process makes. Where the system
allows it, each process also runs as number 1 of a separate process namespace, as in containers
that share a disk.
"""

import random
import subprocess
import time
from collections.abc import Iterator

import verdict
from processes import Finished
from verdict import Tally, Trial
from workshop import ORPHANS_S, Workshop

NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child")  # the command becomes number 1
AT_ONCE = {  # stage: processes
    "prepare": 2,
    "extract": 3,
    "train": 2,
    "score": 2,
    "report": 2,
    "predict": 2,
    "export": 2,
    "recipe": 2,
}
SLOW = {"render": 2}
SPREAD_S = 0.5  # between the starts, at most
ROUNDS = 2


def run(workshop: Workshop, quick: bool, rng: random.Random) -> Tally:
    """Try each stage, with process numbers as they come and with equal ones."""
    tally = Tally("concurrent")
    stages = AT_ONCE if quick else AT_ONCE | SLOW
    workshop.build(list(stages))
    for stage, processes in stages.items():
        rounds = 1 if quick or stage in SLOW else ROUNDS
        for prefix in _prefixes():
            for _ in range(rounds):
                tally.add(trial(workshop, stage, processes, prefix, rng))
    return tally


def trial(
    workshop: Workshop, stage: str, processes: int, prefix: tuple[str, ...], rng: random.Random
) -> Trial:
    """Start some processes of a stage at nearly the same time, and then another by itself."""
    workshop.restore(stage)
    running = []
    for _ in range(processes):
        running.append(workshop.start(stage, prefix))
        time.sleep(rng.uniform(0, SPREAD_S))
    ended = [process.wait(workshop.patience(stage)) for process in running]
    orphans = [name for process in running for name in process.orphans(ORPHANS_S)]
    how = f"{processes} at once{', equal numbers' if prefix else ''}"
    again = workshop.finish(stage)
    judged = workshop.judge(stage, how, ended, again, orphans)
    if judged.outcome == verdict.SURVIVED and (wrong := _wrong(ended)):
        return Trial(stage, verdict.FAILED, how, wrong, judged.leftovers)
    return judged


def _wrong(ended: list[Finished]) -> str:
    """What is wrong with the way in which processes ended that disturbed each other."""
    if all(one.code for one in ended):
        return f"none of them finished: {ended[0].last_line}"
    for one in ended:
        if one.code and "error: " not in one.err:
            return f"exit {one.code}, and no line that says why: {one.last_line!r}"
    return ""


def _prefixes() -> Iterator[tuple[str, ...]]:
    """Ways in which a process is started."""
    yield ()
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0:
        yield NAMESPACE
    else:
        print("concurrent: no process namespaces here; equal numbers are not tried", flush=True)
