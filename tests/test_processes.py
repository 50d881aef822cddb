"""A process that is killed is an error, no endless wait; none outlives the one that started it."""

import json
import os
import signal
import sys
import threading
import time
from multiprocessing import active_children, get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import start, wait_until

from ast_repr import backbones, processes
from ast_repr.backbones import weights

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_pool_works_in_order_in_other_processes(method):
    with processes.pool(2, method=method) as pool:
        assert list(pool.map(abs, [-3, 2, -1])) == [3, 2, 1]
        assert pool.submit(os.getpid).result() != os.getpid()


@pytest.mark.parametrize("chunksize", [1, 7, 1000])
def test_more_items_than_calls_ahead_stay_in_order(chunksize):
    with processes.pool(2, method="fork") as pool:
        assert list(pool.map(abs, range(-100, 0), chunksize)) == list(range(100, 0, -1))
        assert list(pool.map(abs, [], chunksize)) == []


def test_many_items_and_a_killed_process_leave_nothing_behind(monkeypatch):
    failures = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    for _ in range(10):
        with pytest.raises(RuntimeError, match="killed"), processes.pool(2, method="fork") as pool:
            list(pool.map(os._exit, [1] * 20_000))
    assert not failures
    assert not active_children()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_process_that_is_killed_is_an_error(method):
    with (
        pytest.raises(RuntimeError, match="a process was killed"),
        processes.pool(2, method=method) as pool,
    ):
        assert list(pool.map(os._exit, [1] * 10))


def hold(lock, held):
    with lock:
        held.set()
        time.sleep(300)


def test_a_process_that_is_killed_with_a_lock_leaves_no_other_waiting():
    context = get_context("fork")
    lock, held = context.Lock(), context.Event()
    workers = [context.Process(target=hold, args=(lock, held)) for _ in range(3)]
    workers[0].start()
    assert held.wait(120)
    for worker in workers[1:]:
        worker.start()
    start = time.monotonic()
    workers[0].kill()
    processes.wait_for(workers)
    assert time.monotonic() - start < 120
    assert not any(worker.is_alive() for worker in workers)


def test_an_error_of_the_work_is_raised_as_it_is():
    with pytest.raises(ValueError, match="'x'"), processes.pool(1) as pool:
        list(pool.map(int, ["1", "x"]))


@pytest.mark.parametrize("nj", [1, 2, 5])
def test_generators_run_ahead_and_their_values_stay_in_order(nj):
    lengths = [3, 0, 2 * processes.VALUES_AHEAD, 1]
    expected = [(index, value) for index in range(4) for value in range(lengths[index])]
    assert list(processes.generate(range, lengths, nj)) == expected
    assert not active_children()


def test_generators_that_fail_are_killed_or_left_leave_nothing_behind():
    with pytest.raises(TypeError, match="integer"):
        list(processes.generate(range, [2, 2, "x"], 2))
    with pytest.raises(RuntimeError, match="a process was killed"):
        list(processes.generate(os._exit, [1, 1], 2))
    values = processes.generate(range, [10**9], 2)
    assert next(values) == (0, 0)
    values.close()
    assert not active_children()


def start_prepare(folder):
    command = [sys.executable, ROOT / "src" / "prepare.py", "--corpus", "synthetic", "--nj", "2"]
    command += ["--root", folder / "openmic-2018", "--data", folder, "--clips", "200"]
    process = start(command)
    wait_until(lambda: rendered(folder), process)
    return process


def rendered(folder):
    return sorted((folder / "openmic-2018" / "audio").rglob("*.ogg"))


def workers(pid):
    """Its children that render; another child keeps track of shared resources."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, code, said",
    [
        ("worker killed", 1, "try a smaller --nj"),
        ("killed", -signal.SIGKILL, ""),
        ("terminated", 143, "terminated"),
        ("interrupted", 130, "interrupted"),
    ],
)
def test_the_stage_prepare_ends_with_all_of_its_processes(how, code, said, tmp_path):
    process = start_prepare(tmp_path)
    if how == "worker killed":
        os.kill(workers(process.pid)[-1], signal.SIGKILL)
    elif how == "killed":
        process.kill()
    elif how == "terminated":
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGINT)
    # It comes when no process has standard error open any more.
    _, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in err
    assert err.rstrip().endswith(said)
    assert rendered(tmp_path)
    if how != "killed":
        assert code == 1 or not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code", "said"),
    [("worker killed", 1, "smaller --nj"), ("interrupted", 130, "interrupted")],
)
def test_predict_ends_with_its_processes_and_is_resumed(how, code, said, tmp_path):
    for number in range(40):
        soundfile.write(tmp_path / f"{number:02}.wav", np.full(480_000, 0.1), 16_000)
    output = tmp_path / "songs.jsonl"
    command = [
        sys.executable,
        ROOT / "src" / "predict.py",
        tmp_path,
        "--nj",
        "2",
        "--device",
        "cpu",
    ]
    command += ["--format", "jsonl", "--output", output, "--resume"]
    process = start(command)
    wait_until(lambda: output.exists() and output.stat().st_size, process)
    if how == "worker killed":
        os.kill(workers(process.pid)[0], signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in err
    assert err.rstrip().endswith(said)
    lines = output.read_text().splitlines()
    assert 0 < len(lines) < 40
    assert start(command).wait(timeout=300) == 0
    files = [Path(json.loads(line)["file"]).name for line in output.open()]
    assert files == [f"{number:02}.wav" for number in range(40)]
    assert output.read_text().splitlines()[: len(lines)] == lines


@pytest.mark.slow
def test_pretraining_ends_with_a_line_when_one_of_its_processes_is_killed(tmp_path):
    teacher = tmp_path / "teacher.safetensors"
    weights.save(backbones.build("musicnn"), teacher)
    command = [sys.executable, ROOT / "src" / "pretrain.py", "--out", tmp_path / "out.safetensors"]
    command += ["--data", tmp_path / "data", "--nj", "2", "--teacher", teacher, "--soundfonts"]
    process = start(command)
    wait_until(lambda: len(workers(process.pid)) == 2, process)
    os.kill(workers(process.pid)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.rstrip().endswith("try a smaller --nj")
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.partial"))
