"""Checkpoints are whole or not there, and reading one runs nothing."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ast_repr import checkpoint, trainer
from ast_repr.checkpoint import CheckpointError


class Malice:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize(
    "write",
    [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))],
    ids=["torch", "pickle"],
)
def test_code_in_a_checkpoint_does_not_run(write, tmp_path):
    trace = tmp_path / "was_here"
    write({"learned": Malice(trace)}, tmp_path / "last.pt")
    with pytest.raises(
        CheckpointError, match=r"last\.pt: not a checkpoint of this project, or truncated"
    ):
        trainer.resume(tmp_path, method=None, optimizer=None)
    assert not trace.exists()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(share, tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"x": torch.arange(1000)})
    assert torch.equal(checkpoint.load(path)["x"], torch.arange(1000))
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="last.pt: .*truncated; delete it and train again"):
        checkpoint.load(path)
    with pytest.raises(CheckpointError, match="no such checkpoint; train first"):
        checkpoint.load(tmp_path / "none.pt")


@pytest.mark.parametrize(
    "content", [b"accordion\nbanjo\n", b"RIFF\x24\0\0\0WAVEfmt ", b"\x80\x02", b"\0" * 99]
)
def test_another_kind_of_file_is_named(content, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pt: not a checkpoint of this project"):
        checkpoint.load(tmp_path / "x.pt")


KILLS = 12
SAVER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from ast_repr import checkpoint, files

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
files.sweep(Path(path).parent)
assert not list(Path(path).parent.glob(".*"))
print(kills, "kills")
"""


def test_a_kill_during_saving_leaves_a_whole_checkpoint(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", SAVER, str(tmp_path / "last.pt"), str(KILLS)],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(Path(checkpoint.__file__).parents[1]), "PATH": ""},
    )
    assert run.stdout.strip() == f"{KILLS} kills", run.stderr
