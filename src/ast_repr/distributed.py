"""Several processes: those that share one run, and runs side by side.

Accelerate's PartialState says which process of how many this is; torchrun, `accelerate launch` or
`run` here start them. Each batch is distributed row by row. Losses are divided by the number of
observed labels in the whole batch, so that losses and gradients of the processes add up to those of
one process. They are added once per step, after the last micro-batch (as DistributedDataParallel
does under `no_sync`); what is trained is mostly kilobytes, so there is nothing to overlap with the
backward pass, and methods see the model itself.

N processes give the losses, metrics and weights of one, up to rounding, except for two layers. On
the CPU, BatchNorm normalises each process's rows by themselves, and the main process's averages are
kept; on GPUs it is SyncBatchNorm, which has the statistics of all rows. Dropout masks are drawn
independently in each process. The main process prints, shows progress, validates and writes files,
which all processes must be able to read.
"""

import contextlib
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from datetime import timedelta

import torch
from accelerate import PartialState
from tqdm import tqdm

from . import atomic, devices, processes

# How long a process waits for another: the main one may embed all clips, or validate.
TIMEOUT = timedelta(days=2)

Work = Callable[[PartialState, torch.device, list], None]


def run(work: Work, tasks: list, device_groups: list[list[torch.device]]) -> None:
    """Call work(group, device, tasks) in each process of each group.

    A single process is this one, and torchrun has started its processes already. Others are
    started here, and the tasks are distributed among the groups.

    Args:
        work: can be pickled.
        tasks: plain values.
        device_groups: for each group the devices of its processes.

    Raises:
        RuntimeError: a process was killed.
        Exception: of the first process that failed; the others are ended.
    """
    if is_launched():
        device = device_groups[0][0]
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        with _joined(device) as group:
            work(group, device, tasks)
    elif len(device_groups) == len(device_groups[0]) == 1:
        (device,) = device_groups[0]
        with _joined(device) as group:
            work(group, device, tasks)
    else:
        _start(work, tasks, device_groups)


def is_launched() -> bool:
    """Whether torchrun or `accelerate launch` has started this process as one of several."""
    return "LOCAL_RANK" in os.environ


def is_first() -> bool:
    """Whether this is the main process, or not yet one of several."""
    return os.environ.get("RANK", "0") == "0"


def forget_launch() -> None:
    """Make this process one by itself, although torchrun may have started its parent."""
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)


def local_processes() -> int:
    """Return the number of processes on this machine, those of other runs included."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _start(work, tasks, device_groups):
    total = sum(map(len, device_groups))
    threads = max(1, torch.get_num_threads() // total)
    with processes.pool(total, remedy="run the same command again to resume") as pool:
        futures = []
        for number, group in enumerate(device_groups):
            port = _free_port()
            for rank, device in enumerate(group):
                environment = {
                    "ACCELERATE_TORCH_DEVICE": str(device),
                    "LOCAL_WORLD_SIZE": str(total),
                    "OMP_NUM_THREADS": str(threads),
                }
                if len(group) > 1:
                    environment |= _rendezvous(rank, len(group), port)
                share = tasks[number :: len(device_groups)]
                futures.append(pool.submit(_member, work, share, number, device, environment))
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()  # it may wait for the one that failed
            raise


def _free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _rendezvous(rank, size, port):
    """What torchrun would tell a process."""
    return {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
    }


def _member(work, tasks, number, device, environment):
    """Work as one process of group `number`; only the first group shows progress."""
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    atomic.write_utf8_to_terminal()
    if device.type == "cpu":
        devices.keep_freed_memory()
    # tqdm's own lock is a system-wide one, which a process that is ended would leave behind.
    tqdm.set_lock(threading.RLock())
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.ExitStack() as stack:
        if number > 0:
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        group = stack.enter_context(_joined(device))
        work(group, device, tasks)


@contextlib.contextmanager
def _joined(device: torch.device) -> Iterator[PartialState]:
    """The group that this process belongs to, once its processes have found each other."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    group = PartialState(cpu=device.type == "cpu", timeout=TIMEOUT)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.ExitStack() as stack:
        if not group.is_main_process:
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield group
    group.destroy_process_group()  # not after an error, when others may still wait for this one
