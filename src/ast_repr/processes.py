"""Processes that never outlive the one that started them: pools, and generators that run ahead.

    with processes.pool(nj) as pool:
        for result in tqdm(pool.map(function, items), total=len(items)):
            ...
    for index, value in processes.generate(function, items, nj):
        ...

If a process is killed, for example because memory ran out, this is a one-line error and not an
endless wait. The parent handles Ctrl-C: items in progress are finished, the others are dropped.
"""

import ctypes
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import Process, active_children, connection, get_context, parent_process
from multiprocessing.context import BaseContext
from typing import Any

CALLS_AHEAD = 4  # per process
VALUES_AHEAD = 32  # per process
KILLED = "a process was killed, most often because memory ran out"
M_TRIM_THRESHOLD = -1  # of the C library's mallopt
M_MMAP_MAX = -4


class Executor(ProcessPoolExecutor):
    """A pool whose `map` submits few calls ahead and cancels none.

    When a process is killed, a thread of the pool fails all pending calls and ends the other
    processes. In Python 3.11 it stops halfway if calls are added or cancelled at that moment.
    """

    def __init__(self, nj: int, context: BaseContext, start: Callable, given: tuple):
        super().__init__(nj, context, start, given)
        self.calls_ahead = CALLS_AHEAD * nj

    def map(self, function: Callable, items: Iterable, chunksize: int = 1) -> Iterator:
        """Return an iterator over `function(item)`, in the order of the items.

        Args:
            function: called in the processes.
            items: pickled in chunks of `chunksize`.
        """
        items = list(items)
        chunks = (items[start : start + chunksize] for start in range(0, len(items), chunksize))
        calls = deque(self._submit(function, islice(chunks, self.calls_ahead)))
        return self._results(function, calls, chunks)

    def _submit(self, function: Callable, chunks: Iterable[list]) -> Iterator:
        for chunk in chunks:
            yield self.submit(_call_each, function, chunk)

    def _results(self, function: Callable, calls: deque, chunks: Iterator[list]) -> Iterator:
        while calls:
            results = calls.popleft().result()
            calls.extend(self._submit(function, islice(chunks, 1)))
            yield from results


@contextmanager
def pool(
    nj: int,
    start: Callable | None = None,
    given: tuple = (),
    method: str = "spawn",
    remedy: str = "try a smaller --nj",
) -> Iterator[Executor]:
    """Yield a pool of `nj` processes, which have ended when the block is left.

    Args:
        nj: number of processes.
        start: called first in each process, as `start(*given)`.
        given: its arguments, pickled; under "fork" they are shared with the parent instead.
        method: how processes are started, see `multiprocessing`.
        remedy: ends the message about a process that was killed.

    Raises:
        RuntimeError: a process was killed.
    """
    others = set(active_children())
    executor = Executor(nj, get_context(method), _start, (start, given))
    workers = set()
    try:
        with interrupts_held():
            for _ in range(nj):
                executor.submit(os.getpid)  # starts a process
        workers = set(active_children()) - others
        yield executor
    except BrokenProcessPool as error:
        raise RuntimeError(f"{KILLED}; finished work is kept; {remedy}") from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        wait_for(workers | (set(active_children()) - others))


def generate(
    function: Callable[[Any], Iterator], items: Sequence, nj: int
) -> Iterator[tuple[int, Any]]:
    """Yield (index of the item, value) for the values of each generator `function(item)`, in order.

    With more than one process, process i of `nj` computes items i, i + nj, ... ahead, until
    VALUES_AHEAD of its values wait, so memory stays limited. Each has its own pipe to this process:
    the end of the pipe tells that it was killed, even in the middle of a value.

    Args:
        function: its module is imported in the processes.
        items: pickled.
        nj: number of processes; 1 computes in this one.

    Raises:
        RuntimeError: a process was killed.
    """
    if nj == 1:
        for index, item in enumerate(items):
            for value in function(item):
                yield index, value
        return
    context = get_context("spawn")
    workers = []
    receivers = []
    try:
        with interrupts_held():
            for number in range(min(nj, len(items))):
                receiver, sender = context.Pipe(duplex=False)
                given = (_send_values, (sender, function, items[number::nj]))
                worker = context.Process(target=_start, args=given)
                worker.start()
                sender.close()
                workers.append(worker)
                receivers.append(receiver)
        for index in range(len(items)):
            yield from _receive_values(receivers[index % nj], index)
    finally:
        for worker in workers:
            worker.kill()
        wait_for(workers)


def _send_values(sender: connection.Connection, function: Callable, items: Iterable) -> None:
    """Send the messages of `_put_values`, which a thread computes ahead."""
    messages = queue.Queue(VALUES_AHEAD)
    given = (messages, function, items)
    threading.Thread(target=_put_values, args=given, daemon=True).start()
    for message in iter(messages.get, None):
        sender.send(message)


def _put_values(messages: queue.Queue, function: Callable, items: Iterable) -> None:
    """Put each value in a list, an empty list after those of an item, and None at the end.

    An exception is put in place of what it prevents.
    """
    try:
        for item in items:
            for value in function(item):
                messages.put([value])
            messages.put([])
    except Exception as error:
        messages.put(error)
    messages.put(None)


def _receive_values(receiver: connection.Connection, index: int) -> Iterator[tuple[int, Any]]:
    """Yield (index, value) for the values of the next item."""
    while True:
        try:
            message = receiver.recv()
        except (EOFError, OSError) as error:  # between two messages, or within one
            raise RuntimeError(f"{KILLED}; try a smaller --nj") from error
        if isinstance(message, Exception):
            raise message
        if not message:
            return
        yield index, message[0]


def wait_for(workers: Iterable[Process]) -> None:
    """Wait until all `workers` have ended; if one was killed, end the others.

    A killed process may have held the lock of a queue on which the others wait, and an executor
    that is shutting down no longer watches for it.
    """
    while True:
        running = [worker for worker in workers if worker.is_alive()]
        if not running:
            return
        if any(worker.exitcode for worker in workers):
            for worker in running:
                worker.kill()
        connection.wait([worker.sentinel for worker in running])


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C until the block is left, and block it in processes that are started in it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def end_with_parent() -> None:
    """From now on, end this process when the one that started it ends, even if it is killed."""

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def keep_freed_memory() -> None:
    """Let the process keep freed arrays' memory for the next ones, as PyTorch does on a GPU.

    Linux' C library returns the largest blocks at once and then gets them again page by page.
    tests/bench/step.py compares a training step with and without this.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_MAX, 0)


def _call_each(function: Callable, items: list) -> list[Any]:
    return [function(item) for item in items]


def _start(start: Callable | None, given: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked process has its parent's handler
    end_with_parent()
    if start is not None:
        start(*given)
