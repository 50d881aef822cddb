"""The campaign of faults judges what it sees: silence is counted as such, and a hang is ended."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent / "faults"


@pytest.fixture
def faults(monkeypatch):
    """The campaign's modules, importable."""
    monkeypatch.syspath_prepend(str(FAULTS))
    monkeypatch.syspath_prepend(str(FAULTS.parents[1] / "src"))
    import bits
    import processes
    import verdict

    return bits, verdict, processes


def careless(path):
    """A reader that takes what it gets."""
    return path.read_bytes()


def checking(path):
    """A reader that knows what is right."""
    if path.read_bytes() != b"right":
        raise ValueError(f"{path}: damaged; make it again")
    return b"right"


def crashing(path):
    """A reader with a bug."""
    return {b"right": 1}[path.read_bytes()]


def deaf(path):
    """A reader to which no bit matters."""
    return len(path.read_bytes())


def telling(path):
    """A reader that warns and reads on."""
    if path.read_bytes() != b"right":
        print("damaged, read all the same", file=sys.stderr)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("reader", "expected", "note"),
    [
        (careless, "silent", ""),
        (checking, "survived", "refused"),
        (crashing, "traceback", "KeyError"),
        (deaf, "survived", "equal"),
        (telling, "survived", "said"),
    ],
)
def test_a_flipped_bit_is_judged_by_the_behaviour_of_its_reader(
    faults, tmp_path, reader, expected, note
):
    bits, verdict, _ = faults
    path = tmp_path / "file"
    path.write_bytes(b"right")
    before = path.stat().st_mtime_ns
    tally = verdict.Tally("bits")
    for trial in bits.flip_bits(bits.Kind("file", path, lambda: reader(path)), 5, random.Random(0)):
        tally.add(trial)
    assert tally.figures()[expected] == tally.figures()["tried"] == 5
    assert all(note in trial.note for trial in tally.trials)
    assert path.read_bytes() == b"right"
    assert path.stat().st_mtime_ns == before


def test_silence_by_nature_is_counted_apart_but_a_traceback_is_not(faults, tmp_path):
    bits, verdict, _ = faults
    path = tmp_path / "file"
    path.write_bytes(b"right")
    tally = verdict.Tally("bits")
    for reader in (careless, crashing):
        kind = bits.Kind("file", path, lambda reader=reader: reader(path), checked=False)
        for trial in bits.flip_bits(kind, 3, random.Random(0)):
            tally.add(trial)
    figures = tally.figures()
    assert (figures["silent"], figures["traceback"], figures["by nature"]) == (0, 3, 3)


def test_a_call_that_hangs_or_dies_is_noticed(faults):
    _, _, processes = faults
    started = time.monotonic()
    assert processes.isolated(lambda: time.sleep(300), timeout=0.3).hang
    assert time.monotonic() - started < 120
    killed = processes.isolated(lambda: os.kill(os.getpid(), signal.SIGKILL), timeout=120)
    assert "signal 9" in killed.traceback


def test_a_command_and_the_processes_that_outlive_it_are_found(faults, tmp_path):
    _, _, processes = faults
    running = processes.Running(["bash", "-c", "sleep 300 & sleep 0.5; exit 3"], {}, tmp_path)
    finished = running.wait(timeout=120)
    assert finished.code == 3
    assert not finished.hang
    assert len(running.orphans(patience=0)) == 1
    assert running.members() == []


def test_figures_and_wrong_trials_go_into_json(faults):
    _, verdict, _ = faults
    tally = verdict.Tally("kills")
    tally.add(verdict.Trial("train", verdict.SURVIVED, leftovers=("a.partial",)))
    tally.add(verdict.Trial("score", verdict.SURVIVED))
    found = json.loads(json.dumps(tally.as_json()))
    assert found["all"]["tried"] == 2
    assert found["all"]["leftovers"] == 1
    assert [trial["group"] for trial in found["wrong"]] == ["train"]
    assert "leftovers 1" in tally.lines()[-1]


def test_contents_are_compared_without_times(faults, tmp_path):
    import content

    for name, row in {
        "a": {"seconds": 1.0, "loss": 2.0},
        "b": {"seconds": 9.0, "loss": 2.0},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "history.jsonl").write_text(json.dumps(row) + "\n")
    assert content.tree(tmp_path / "a") == content.tree(tmp_path / "b")
    (tmp_path / "b" / "history.jsonl").write_text('{"loss": 2.5}\n')
    assert content.tree(tmp_path / "a") != content.tree(tmp_path / "b")
