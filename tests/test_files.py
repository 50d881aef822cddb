"""A file is complete or the old one; leftovers of killed writers are swept, others' files stay."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ast_repr import atomic, checkpoint

SOURCE = Path(atomic.__file__).parents[1]
WRITER = """
import sys, time
from ast_repr import atomic
with atomic.replacing(sys.argv[1]) as partial:
    partial.write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer():
    """Path -> a process that has written half of it and is still running."""
    started = []

    def begin(path):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, path],
            env=os.environ | {"PYTHONPATH": str(SOURCE)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        assert process.stdout.readline() == b"half\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def partials(folder):
    return list(folder.rglob("*.partial"))


def test_a_file_gets_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        atomic.write_text(tmp_path / "a" / "x.txt", "é")
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "x.txt").read_bytes() == "é".encode()
    assert (tmp_path / "a" / "x.txt").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.txt"]


def test_an_error_or_an_interruption_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), atomic.replacing(path) as partial:
            partial.write_text("new")
            raise error
    assert path.read_text() == "old"
    assert not partials(tmp_path)


def test_two_writers_of_one_file_do_not_interfere(tmp_path):
    """Not even if both have the same process number, as in two containers."""
    path = tmp_path / "x"
    with atomic.replacing(path) as first, atomic.replacing(path) as second:
        assert first != second
        assert first.exists()
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the one that ended last
    assert not partials(tmp_path)


@pytest.mark.parametrize("by", ["writing again", "sweeping"])
def test_partial_files_of_killed_writers_are_swept_and_no_others(by, writer, tmp_path):
    folder = tmp_path / "a"
    killed = writer(folder / "x[1].bin")
    killed.kill()
    killed.wait()
    other = writer(folder / "other.bin")
    living = writer(folder / "x[1].bin")
    assert len(partials(folder)) == 2
    if by == "sweeping":
        atomic.sweep(tmp_path)
    else:
        atomic.write_bytes(folder / "x[1].bin", b"whole")
    assert len(partials(folder)) == 2
    living.send_signal(signal.SIGTERM)
    other.kill()
    living.wait()
    other.wait()
    atomic.sweep(tmp_path)
    assert not partials(folder)


def test_only_our_partial_files_are_swept(tmp_path):
    for name in (".x.partial", "x.partial", f".x.{'g' * 16}.partial", f"x.{'0' * 16}.partial"):
        (tmp_path / name).touch()
    (tmp_path / f".x.{'0' * 16}.partial").touch()
    atomic.sweep(tmp_path)
    assert len(partials(tmp_path)) == 4
    assert not (tmp_path / f".x.{'0' * 16}.partial").exists()


def test_without_locks_the_age_of_a_partial_file_decides(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    young, old = (tmp_path / f".x.{digit * 16}.partial" for digit in "01")
    for path, age in ((young, 60), (old, atomic.ABANDONED_S + 60)):
        path.touch()
        os.utime(path, (time.time() - age, time.time() - age))
    atomic.write_bytes(tmp_path / "x", b"whole")
    assert young.exists()
    assert not old.exists()
    assert (tmp_path / "x").read_bytes() == b"whole"


def test_a_partial_file_swept_before_it_is_locked_is_recreated(tmp_path, monkeypatch):
    flock, swept = fcntl.flock, []

    def sweep_first(file, operation):
        if not swept:
            swept.extend(partials(tmp_path))
            swept[0].unlink()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    atomic.write_bytes(tmp_path / "x", b"whole")
    assert swept
    assert (tmp_path / "x").read_bytes() == b"whole"
    assert not partials(tmp_path)


FULL = """
import resource, sys
import torch
from ast_repr import checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(sys.argv[1], {"x": torch.zeros(500_000)})
except OSError as error:
    print(error.filename, error.errno)
"""


@pytest.mark.slow
def test_a_checkpoint_on_a_full_disk_is_named(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"x": torch.ones(2)})
    run = subprocess.run(
        [sys.executable, "-c", FULL, path],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout == f"{path} {errno.EFBIG}\n", run.stderr
    assert torch.equal(checkpoint.load(path)["x"], torch.ones(2))
    assert not partials(tmp_path)


def test_a_full_disk_is_named_even_if_a_library_raises_another_error(tmp_path):
    with pytest.raises(OSError) as caught, atomic.replacing(tmp_path / "x"):
        try:
            raise OSError(errno.ENOSPC, "no room")
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "x")
    with pytest.raises(RuntimeError, match="another"), atomic.replacing(tmp_path / "x"):
        raise RuntimeError("another")


def test_existing_files_are_not_replaced_unasked(tmp_path):
    song, link, table = (tmp_path / name for name in ("song.wav", "link", "table.csv"))
    for path in (song, table):
        path.touch()
    link.hardlink_to(song)
    atomic.refuse_to_replace([tmp_path / "new"], inputs=[song, tmp_path / "missing"])
    atomic.refuse_to_replace([table], overwrite=True, inputs=[song])
    atomic.refuse_to_replace([Path(os.devnull)], inputs=[song])
    for wrong, overwrite in ((table, False), (song, True), (link, True)):
        with pytest.raises(FileExistsError, match=wrong.name):
            atomic.refuse_to_replace([tmp_path / "new", wrong], overwrite, [song])
