"""Stages that are killed at random moments, and then run to their end.

SIGKILL and SIGTERM go to the command's process alone, as from the OOM killer or a batch system,
SIGINT to its whole group, as from a terminal. Now and then it is one of the workers that is killed:
the command must then end by itself.
"""

import contextlib
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import content
import verdict
from processes import Finished, Running
from verdict import Tally, Trial
from workshop import ORPHANS_S, SLOW, STAGES, WITH_WORKERS, Workshop

FULL = {  # stage: kills
    "prepare": 12,
    "extract": 18,
    "train": 22,
    "score": 12,
    "report": 8,
    "predict": 8,
    "export": 6,
    "onnx": 2,
    "recipe": 12,
    "render": 6,
    "pretrain": 6,
}
QUICK = {"prepare": 1, "extract": 3, "train": 3, "score": 1, "report": 1, "recipe": 1}
SIGNALS = (signal.SIGKILL,) * 3 + (signal.SIGTERM, signal.SIGINT)
WORKER_SHARE = 0.3  # of the kills of a stage that has workers
WRITE_SHARE = 0.5  # of the kills that wait for a file to appear, and not for a time
ATTEMPTS = 4  # to kill a stage before it is done
ENDS = {  # signal: exit codes that say so; 0 if it came when all was done
    signal.SIGINT: (0, 130, -signal.SIGINT),
    signal.SIGTERM: (0, 143, -signal.SIGTERM),
}


@dataclass(frozen=True)
class Plan:
    """When and how to kill: after `seconds`, or once `writes` files have appeared."""

    number: int
    worker: bool
    seconds: float
    writes: int

    def __str__(self) -> str:
        when = f"at new file {self.writes}" if self.writes else f"after {self.seconds:.2f} s"
        return f"{signal.Signals(self.number).name}{' of a worker' * self.worker} {when}"


def run(workshop: Workshop, counts: dict[str, int], rng: random.Random) -> Tally:
    """Kill each stage as often as `counts` says."""
    tally = Tally("kills")
    workshop.build([stage for stage in STAGES if counts.get(stage)])
    for stage in STAGES:
        trials = _gone_on if stage in SLOW else _begun_again
        for trial in trials(workshop, stage, counts.get(stage, 0), rng):
            tally.add(trial)
        tally.show(stage)
    return tally


def _begun_again(workshop, stage, count, rng):
    """A trial for each kill, from the state before the stage."""
    for _ in range(count):
        for _ in range(ATTEMPTS):
            workshop.restore(stage)
            plan = _draw(stage, workshop.references[stage].seconds, rng)
            killed = _kill(workshop.start(stage), plan, workshop, stage, rng)
            if killed is not None:
                break
        else:
            continue
        first, orphans = killed
        yield _judged(workshop, stage, plan, first, workshop.finish(stage), orphans)


def _gone_on(workshop, stage, count, rng):
    """Kills of one run that is resumed each time, and is compared at its end."""
    if count:
        workshop.restore(stage)
    for number in range(count):
        plan = _draw(stage, 2 * workshop.references[stage].seconds / (count + 1), rng)
        killed = _kill(workshop.start(stage), plan, workshop, stage, rng)
        if killed is None:  # it was quicker, and is done
            workshop.restore(stage)
            continue
        first, orphans = killed
        if number == count - 1:
            yield _judged(workshop, stage, plan, first, workshop.finish(stage), orphans)
        else:
            yield _judged_alone(stage, plan, first, orphans)


def _draw(stage, seconds, rng):
    worker = stage in WITH_WORKERS and rng.random() < WORKER_SHARE
    number = signal.SIGKILL if worker else rng.choice(SIGNALS)
    writes = rng.randint(1, 4) if rng.random() < WRITE_SHARE else 0
    return Plan(number, worker, rng.uniform(0, seconds), writes)


def _kill(running: Running, plan, workshop, stage, rng) -> tuple[Finished, list[str]] | None:
    """How the killed command ended, and what outlived it; None if it was done before."""
    if not _wait_for(running, plan, workshop.work):
        done = running.wait(workshop.patience(stage))
        return (done, running.orphans(0)) if done.hang else None
    if plan.worker:
        if not (workers := _await_workers(running)):
            running.wait(workshop.patience(stage))
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(workers), signal.SIGKILL)
    else:
        running.signal(plan.number, everyone=plan.number == signal.SIGINT)
    finished = running.wait(workshop.patience(stage))
    return finished, running.orphans(ORPHANS_S)


def _wait_for(running, plan, folder):
    """Wait for the planned moment; False where the command ends before."""
    before = set(_names(folder)) if plan.writes else set()
    seen = set()
    while not running.ended:
        if plan.writes:
            seen |= set(_names(folder)) - before
            if len(seen) >= plan.writes:
                return True
        elif running.seconds >= plan.seconds:
            return True
        time.sleep(0.001)
    return False


def _names(folder: Path):
    """Paths of what stages write; the corpus is only read."""
    for place in ("data", "exp", "shared", "pictures", "crops", "rendered", "tree/egs/openmic"):
        if (folder / place).is_dir():
            yield from (str(path) for path in (folder / place).rglob("*"))
    yield from (path.name for path in folder.iterdir() if content.temporary(path))


def _await_workers(running):
    """The command's workers once there are any; none if it ends before."""
    while not running.ended:
        if workers := running.workers():
            return workers
        time.sleep(0.005)
    return []


def _judged(workshop, stage, plan, first, again, orphans):
    trial = workshop.judge(stage, str(plan), [first], again, orphans)
    if trial.outcome == verdict.SURVIVED and (wrong := _wrong_end(plan, first)):
        return Trial(stage, verdict.FAILED, str(plan), wrong, trial.leftovers)
    return trial


def _judged_alone(stage, plan, first, orphans):
    """The verdict on a kill whose run is resumed in the next trial."""
    if first.hang:
        return Trial(stage, verdict.HANG, str(plan), first.last_line, tuple(orphans))
    if first.traceback:
        return Trial(stage, verdict.TRACEBACK, str(plan), first.last_line, tuple(orphans))
    wrong = _wrong_end(plan, first)
    result = verdict.FAILED if wrong else verdict.SURVIVED
    return Trial(stage, result, str(plan), wrong, tuple(orphans))


def _wrong_end(plan, first):
    """What is wrong with the way in which a command ended after its signal; "" if nothing."""
    expected = ENDS.get(plan.number)
    if expected and first.code not in expected:
        return f"exit {first.code} after the signal, expected {expected[1]}: {first.last_line}"
    if plan.worker and first.code not in (0, 1):
        return f"exit {first.code} after a worker was killed, expected 1: {first.last_line}"
    if plan.worker and first.code == 1 and not first.last_line.startswith("error: "):
        return f"no line that says what happened: {first.last_line!r}"
    return ""
