"""Process pools that never outlive the process that started them.

    with processes.pool(nj) as pool:
        for result in tqdm(pool.map(function, items), total=len(items)):
            ...

If a process is killed, for example because memory ran out, this is a one-line error and not an
endless wait. The parent handles Ctrl-C: items in progress are finished, the others are dropped.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import Process, active_children, connection, get_context, parent_process


@contextmanager
def pool(
    nj: int,
    start: Callable | None = None,
    given: tuple = (),
    method: str = "spawn",
    remedy: str = "try a smaller --nj",
) -> Iterator[ProcessPoolExecutor]:
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
    executor = ProcessPoolExecutor(nj, get_context(method), _start, (start, given))
    try:
        with interrupts_held():
            for _ in range(nj):
                executor.submit(os.getpid)  # starts a process
        yield executor
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process was killed, most often because memory ran out; "
            f"finished work is kept; {remedy}"
        ) from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        wait_for(set(active_children()) - others)


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


def _start(start: Callable | None, given: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked process has its parent's handler
    end_with_parent()
    if start is not None:
        start(*given)
