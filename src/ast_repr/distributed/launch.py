"""Starts the processes of a run, a team, and several teams side by side.

A process that fails ends all of them, and its error is raised here, as if there were this process
alone.
"""

import contextlib
import os
import pickle
import sys
import tempfile
import threading
import traceback
from datetime import timedelta
from multiprocessing import connection, get_context

import torch
from torch import distributed
from tqdm import tqdm

from .. import atomic
from ..devices import keep_freed_memory
from ..processes import end_with_parent, interrupts_held
from .process_group import SINGLE_PROCESS, ProcessGroup

# How long a process waits for another that neither answers nor ends: rank 0 may embed all clips.
TIMEOUT = timedelta(days=2)
# Characters of an error's text, and of its traceback, that go from a process to its parent.
MAX_TEXT = 4000
PIPE_CAPACITY = (
    2**15
)  # bytes of an error that go to a pipe which nobody reads yet; Linux' holds twice that


def run(work, tasks, device_groups):
    """Call work(team, device, tasks) in each process of each team.

    One team of one process is this process. Others are started here, and a part of the tasks is
    dealt to each team. Where torchrun has started this process, it is one of a team of torchrun's
    size, with the device of its local rank.

    Args:
        work: a function that can be pickled.
        tasks: a list of plain values.
        device_groups: the devices of each team's processes: a list of lists of torch.device, each of one
            length.

    Raises:
        RuntimeError: a process was ended from outside, or its error is too long or cannot be
            pickled, and this says what it was.
        Exception: what the first process that failed has raised, with its traceback as a note; the
            others are ended.
    """
    if distributed.is_torchelastic_launched():
        _under_torchrun(work, tasks, device_groups[0][0])
    elif len(device_groups) == len(device_groups[0]) == 1:
        work(SINGLE_PROCESS, device_groups[0][0], tasks)
    else:
        _start(work, tasks, device_groups)


def _under_torchrun(work, tasks, device):
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    rank = int(os.environ["RANK"])
    size, local_world_size = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    with (
        _joined(rank, size, local_world_size, "env://", device) as group,
        _quiet(out=rank > 0, bars=rank > 0),
    ):
        work(group, device, tasks)


def _start(work, tasks, device_groups):
    size, context = len(device_groups[0]), get_context("spawn")
    local_world_size, errors = size * len(device_groups), context.SimpleQueue()
    with tempfile.TemporaryDirectory() as rendezvous_dir:
        members = [
            context.Process(
                target=_member,
                args=(
                    work,
                    tasks[number :: len(device_groups)],
                    number,
                    rank,
                    devices,
                    local_world_size,
                    rendezvous_dir,
                    errors,
                ),
            )
            for number, devices in enumerate(device_groups)
            for rank in range(size)
        ]
        try:
            with interrupts_held():  # it is this process that ends the others
                for member in members:
                    member.start()
            running = {member.sentinel: member for member in members}
            while running:
                for sentinel in connection.wait(running):
                    member = running.pop(sentinel)
                    member.join()
                    if member.exitcode == 1 and not errors.empty():
                        raise errors.get()
                    if member.exitcode:
                        raise RuntimeError(
                            f"{member.name} was ended (exit {member.exitcode}); "
                            "the same command resumes there"
                        )
        finally:
            started = [member for member in members if member.pid]
            for member in started:
                member.terminate()
            for member in started:
                member.join()


def _member(work, tasks, number, rank, devices, local_world_size, rendezvous_dir, errors):
    """Work as rank `rank` of team `number`, one of `here` processes on this machine's threads."""
    end_with_parent()
    atomic.write_utf8_to_terminal()
    torch.set_num_threads(max(1, torch.get_num_threads() // local_world_size))
    if devices[rank].type == "cpu":
        keep_freed_memory()
    tqdm.set_lock(
        threading.RLock()
    )  # its own lock is a system-wide one, which a process that is ended would leave behind
    try:
        with (
            _joined(
                rank,
                len(devices),
                local_world_size,
                f"file://{rendezvous_dir}/{number}",
                devices[rank],
            ) as group,
            _quiet(out=rank > 0, bars=rank + number > 0),
        ):
            work(group, devices[rank], tasks)
    except Exception as error:
        errors.put(_sendable(error))
        sys.exit(1)


def _sendable(error):
    """The error with its traceback as a note; a RuntimeError in its place if it cannot be sent."""
    note, short = (
        _cut(traceback.format_exc()),
        RuntimeError(_cut(f"{type(error).__name__}: {error}")),
    )
    for sent in (error, short):
        sent.add_note(note)
    with contextlib.suppress(Exception):  # whatever its class's way of pickling raises
        sent = pickle.dumps(error)
        pickle.loads(sent)
        if len(sent) <= PIPE_CAPACITY:
            return error
    return short


def _cut(text):
    """The text without its middle if it is too long: what matters mostly stands at its ends."""
    return (
        text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT // 2]} ... {text[-MAX_TEXT // 2 :]}"
    )


@contextlib.contextmanager
def _joined(rank, size, local_world_size, rendezvous_dir, device):
    """The ProcessGroup, once its processes have found each other."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size > 1:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, rendezvous_dir, TIMEOUT, rank=rank, world_size=size)
    yield ProcessGroup(rank, size, local_world_size)
    if size > 1:  # not after an error, when the others may still wait for this one
        distributed.destroy_process_group()


@contextlib.contextmanager
def _quiet(out, bars):
    """Without what is printed (`out`), or shown as progress (`bars`)."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.ExitStack() as stack:
        if out:
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        if bars:
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield
