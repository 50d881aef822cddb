"""Several processes that share a run, and concurrent runs.

torchrun, `accelerate launch` or `run` start the processes. The clips of each batch are distributed
over them. Losses are divided by the number of observed labels in the whole batch, so that losses
and gradients of the processes add up to those of one. Gradients are summed once per step: mostly
kilobytes are trained, so there is nothing to overlap with the backward pass.

N processes give the losses, metrics and weights of one, up to rounding, except for two layers. On
the CPU, BatchNorm normalises each process's clips separately, and the main process's averages are
kept; on GPUs it is SyncBatchNorm. Dropout masks are drawn independently in each process. The main
process prints, shows progress, validates and writes files, which all processes must be able to
read.
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

from . import atomic, processes

# How long a process waits for another: the main one may embed all clips, or validate.
TIMEOUT = timedelta(days=2)

Work = Callable[[PartialState, torch.device, list], None]


def run(work: Work, tasks: list, device_groups: list[list[torch.device]]) -> None:
    """Call work(group, device, tasks) in each process of each group.

    Processes are started here if there are several and torchrun has not started them; the tasks are
    then distributed over the groups.

    Args:
        work: can be pickled.
        tasks: plain values.
        device_groups: for each group the devices of its processes.

    Raises:
        RuntimeError: a process was killed.
        Exception: of the first process that failed; the others are ended.
    """
    if not is_launched() and sum(map(len, device_groups)) > 1:
        _start(work, tasks, device_groups)
        return
    device = device_groups[0][0]
    if is_launched() and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    with _joined(device) as group:
        work(group, device, tasks)


def is_launched() -> bool:
    """Whether torchrun or `accelerate launch` has started this process as one of several."""
    return "LOCAL_RANK" in os.environ


def is_first() -> bool:
    """Whether this is the main process, or not yet one of several."""
    return os.environ.get("RANK", "0") == "0"


def forget_launch() -> None:
    """Make this a single process, although torchrun may have started its parent."""
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
                    # As torchrun sets it.
                    environment |= {
                        "MASTER_ADDR": "localhost",
                        "MASTER_PORT": str(port),
                        "RANK": str(rank),
                        "LOCAL_RANK": str(rank),
                        "WORLD_SIZE": str(len(group)),
                    }
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


def _member(work, tasks, number, device, environment):
    """Work as one process of group `number`; only the first group shows progress."""
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    atomic.write_utf8_to_terminal()
    if device.type == "cpu":
        processes.keep_freed_memory()
    # tqdm's own lock is a system-wide one, which a process that is ended would leave behind.
    tqdm.set_lock(threading.RLock())
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.ExitStack() as stack:
        if number > 0:
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        group = stack.enter_context(_joined(device))
        work(group, device, tasks)


@contextlib.contextmanager
def _joined(device: torch.device) -> Iterator[PartialState]:
    """Join this process's group; only the main process of a group prints."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    group = PartialState(cpu=device.type == "cpu", timeout=TIMEOUT)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.ExitStack() as stack:
        if not group.is_main_process:
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield group
    group.destroy_process_group()  # not after an error, when others may still wait for this one
