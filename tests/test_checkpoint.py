"""Checkpoints are whole or not there, a flipped bit is noticed, and reading one runs nothing."""

import io
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from ast_repr import checkpoint
from ast_repr.checkpoint import CheckpointError
from ast_repr.run_folder import RunFolder
from ast_repr.training import trainer


class Malice:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def sealed(value):
    """The bytes that torch writes, with the seal of a checkpoint."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    checkpoint.seal(buffer)
    return buffer.getvalue()


def unsealed(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("dump", [sealed, unsealed, pickle.dumps])
def test_code_in_a_checkpoint_does_not_run(dump, tmp_path):
    trace = tmp_path / "was_here"
    (tmp_path / "last.pt").write_bytes(dump({"learned": Malice(trace)}))
    with pytest.raises(CheckpointError, match=r"last\.pt: damaged, or not a checkpoint"):
        trainer.read_last(RunFolder(tmp_path))
    assert not trace.exists()


def test_a_checkpoint_is_a_torch_archive_like_any_other(tmp_path):
    path, state = tmp_path / "x.pt", {"x": torch.arange(1000), "best": b"\0bytes", "epoch": 3}
    checkpoint.save(path, state)
    for found in (checkpoint.load(path), torch.load(path, weights_only=True)):
        assert torch.equal(found.pop("x"), state["x"])
        assert found == {"best": b"\0bytes", "epoch": 3}
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256:")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(share, tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"x": torch.arange(1000)})
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="last.pt: damaged.*; train again"):
        checkpoint.load(path, "train again")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="none.pt: no such checkpoint; .*`train`"):
        checkpoint.load(tmp_path / "none.pt")


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    path = tmp_path / "best.pt"
    checkpoint.save(path, {"x": torch.arange(300.0), "about": {"classes": ["bass", "flute"]}})
    whole, rng = path.read_bytes(), random.Random(0)
    places = [rng.randrange(len(whole)) for _ in range(100)]
    for place in [*places, 0, len(whole) - 1]:
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="best.pt: damaged"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    "content", [b"accordion\nbanjo\n", b"RIFF\x24\0\0\0WAVEfmt ", b"\x80\x02", b"\0" * 99]
)
def test_another_kind_of_file_is_named(content, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pt: damaged, or not a checkpoint"):
        checkpoint.load(tmp_path / "x.pt")


def test_without_memory_the_old_file_stays_and_the_error_names_it(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "last.pt", {"epoch": 1})

    def full(state, buffer):
        raise MemoryError

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="last.pt: no memory"):
        checkpoint.save(tmp_path / "last.pt", {"epoch": 2})
    assert checkpoint.load(tmp_path / "last.pt") == {"epoch": 1}


KILLS = 8
SAVER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from ast_repr import checkpoint
from ast_repr import atomic

path, kills = sys.argv[1], int(sys.argv[2])
left = 0
random.seed(0)
torch.set_num_threads(1)
checkpoint.save(path, {"x": torch.zeros(500_000)})
for kill in range(kills):
    child = os.fork()
    if child == 0:
        for value in range(100_000):
            checkpoint.save(path, {"x": torch.full((500_000,), float(value))})
        os._exit(1)
    time.sleep(random.uniform(0.03, 0.2))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the writer ended by itself"
    left += len(list(Path(path).parent.glob(".*.partial")))
    x = checkpoint.load(path)["x"]
    assert len(x) == 500_000 and (x == x[0]).all()
assert left, "no kill fell into a save: the test has shown nothing"
atomic.sweep(Path(path).parent)
assert not list(Path(path).parent.glob(".*"))
print(kills, "kills")
"""


@pytest.mark.slow
def test_a_kill_during_saving_leaves_a_whole_checkpoint(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", SAVER, str(tmp_path / "last.pt"), str(KILLS)],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": str(Path(checkpoint.__file__).parents[1]), "PATH": ""},
    )
    assert run.stdout.strip() == f"{KILLS} kills", run.stderr
