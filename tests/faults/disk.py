"""A disk that is full at a random moment of a stage, and then has space again.

A tmpfs where one may be mounted (root), else a limit on the size of a file. A stage that needs the
space ends with exit 1 and one line that names the file and what to do; the same command then
finishes, with the right result.
"""

import contextlib
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import verdict
from processes import Finished
from verdict import Tally, Trial
from workshop import CHAIN, Workshop

TRIALS = 4  # of each stage
STAGES = (*CHAIN, "recipe")
SIZE = 2**30  # bytes of the file system
FILLER = "filler"
BLOCK = 4096  # a tmpfs gives out whole pages
REMEDY = ("free", "space")  # words of the line, where the disk is full


def run(folder: Path, clips: int, trials: int, rng: random.Random) -> Tally:
    """Fill the disk under each stage `trials` times."""
    tally = Tally("disk")
    with _small_disk(folder / "disk") as mounted:
        work = folder / "disk" / "work"
        workshop = Workshop(folder, clips, work=work)
        workshop.build(STAGES)
        for stage in STAGES:
            for _ in range(trials):
                tally.add(trial(workshop, stage, rng, mounted))
    return tally


def trial(workshop: Workshop, stage: str, rng: random.Random, mounted: bool) -> Trial:
    """Run a stage with less space than it needs, and then again with enough."""
    workshop.restore(stage)
    needed = workshop.references[stage].written
    if mounted:
        free = rng.randrange(max(needed, BLOCK) // BLOCK + 1) * BLOCK
        filler = workshop.work.parent / FILLER
        _fill(filler, free)
        how = f"{free:,} of {needed:,} bytes free"
        first = workshop.finish(stage)
        filler.unlink()
    else:
        limit = rng.randrange(1, max(needed // 2, 2))
        how = f"files of {limit:,} bytes at most"
        with _file_size_limit(limit):
            first = workshop.finish(stage)
    again = workshop.finish(stage)
    judged = workshop.judge(stage, how, [first], again)
    if judged.outcome == verdict.SURVIVED and (wrong := _wrong(first, workshop.work, mounted)):
        return Trial(stage, verdict.FAILED, how, wrong, judged.leftovers)
    return judged


def _wrong(first: Finished, work: Path, mounted: bool) -> str:
    """What is wrong with the end of a stage that had too little space."""
    if first.code == 0:
        return ""  # it did without, or the space was enough
    lines = [line for line in first.err.splitlines() if line.startswith("error: ")]
    if first.code != 1 or not lines:
        return f"exit {first.code}, expected 1 and a line that says why: {first.last_line!r}"
    if work.name not in lines[-1] and not any(path in lines[-1] for path in ("data/", "exp/")):
        return f"no file named: {lines[-1]}"
    if mounted and not all(word in lines[-1] for word in REMEDY):
        return f"no remedy: {lines[-1]}"
    return ""


@contextlib.contextmanager
def _small_disk(place: Path) -> Iterator[bool]:
    """A file system of SIZE bytes at `place`; gives False where none may be mounted."""
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place]
    mounted = os.geteuid() == 0 and subprocess.run(options, capture_output=True).returncode == 0
    if not mounted:
        print("disk: no tmpfs may be mounted here; files are limited in size instead", flush=True)
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", place], check=True)


def _fill(path: Path, free: int) -> None:
    """Write a file that leaves `free` bytes of its file system."""
    status = os.statvfs(path.parent)
    left = status.f_bavail * status.f_frsize - free
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(left, 1))


@contextlib.contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    """Processes that are started meanwhile may write files of `size` bytes at most."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
