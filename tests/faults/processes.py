"""Commands that may be killed or hang, and calls in a separate process that may crash."""

import contextlib
import importlib
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ast_repr import cli

TOKEN = "AST_REPR_FAULTS"  # environment variable that tells the processes of a trial from others
STALLED_S = 45.0  # with less CPU time than STALLED_TICKS: nothing will come any more
STALLED_TICKS = 20  # a fifth of a second; threads that only wake up and look use far less
POLL_S = 0.002
TRACEBACK = "Traceback (most recent call last)"
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


@dataclass(frozen=True)
class Finished:
    """How a command ended: its exit code (negative: the signal), and what it wrote."""

    code: int
    out: str
    err: str
    seconds: float
    hang: bool

    @property
    def traceback(self) -> bool:
        """Whether it showed a traceback, or crashed."""
        return TRACEBACK in self.err or TRACEBACK in self.out or -self.code in CRASHES

    @property
    def last_line(self) -> str:
        """The last line on stderr, where errors are said."""
        lines = self.err.strip().splitlines()
        return lines[-1][:400] if lines else ""


class Running:
    """A command in a separate session, with its output in files.

    Args:
        arguments: the command line.
        environment: variables besides those of this process.
        cwd: its working directory.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], cwd: Path):
        self.token = f"{os.getpid()}-{time.monotonic_ns()}"
        self._out = tempfile.TemporaryFile()  # noqa: SIM115
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            list(map(str, arguments)),
            env=os.environ | dict(environment) | {TOKEN: self.token},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
            preexec_fn=_hear_ctrl_c,
        )

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._started

    @property
    def ended(self) -> bool:
        """Whether the command has ended; processes that it started may still be there."""
        return self._process.poll() is not None

    def workers(self) -> list[int]:
        """The processes that the command has started, without Python's own helpers."""
        return [pid for pid in self.members() if pid != self._process.pid and _works(pid)]

    def members(self) -> list[int]:
        """All processes of the command that are still there."""
        mark = f"{TOKEN}={self.token}".encode()
        return [pid for pid in _processes() if mark in _read(pid, "environ").split(b"\0")]

    def signal(self, number: int, everyone: bool = False) -> None:
        """Send a signal to the command alone, or to its group, as a terminal does on Ctrl-C."""
        with contextlib.suppress(ProcessLookupError):
            if everyone:
                os.killpg(self._process.pid, number)
            else:
                os.kill(self._process.pid, number)

    def wait(self, timeout: float) -> Finished:
        """Wait for the command's end; one that is late, or idle for STALLED_S, is ended."""
        deadline = time.monotonic() + timeout
        worked, since = 0, time.monotonic()
        hang = False
        while not self.ended and not hang:
            time.sleep(POLL_S if self.seconds < 1 else 10 * POLL_S)
            now = time.monotonic()
            if now - since > 1:
                ticks = sum(map(_ticks, self.members()))
                if ticks < worked or ticks >= worked + STALLED_TICKS:
                    worked, since = ticks, now
            hang = now > deadline or now - since > STALLED_S
        if hang:
            self.end()
        code = self._process.wait()
        return Finished(code, _text(self._out), _text(self._err), self.seconds, hang)

    def orphans(self, patience: float) -> list[str]:
        """Processes that are still there after `patience` seconds, by command line; ends them."""
        deadline = time.monotonic() + patience
        while (left := self.members()) and time.monotonic() < deadline:
            time.sleep(0.05)
        names = [_read(pid, "cmdline").replace(b"\0", b" ").decode()[:80] for pid in left]
        self.end()
        return names

    def end(self) -> None:
        """End what is left of the command."""
        while left := self.members():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.poll()
            time.sleep(POLL_S)


@dataclass(frozen=True)
class Called:
    """How a call in a separate process ended; just one of value, error and traceback is given.

    Attributes:
        value: what it returned.
        error: the line that a person would see.
        traceback: of an exception that nobody expects, or the signal of a crash.
        out, err: what it wrote.
        hang: it was ended after the time limit.
    """

    value: object = None
    error: str | None = None
    traceback: str | None = None
    out: str = ""
    err: str = ""
    hang: bool = False


def isolated(function: Callable[[], object], timeout: float, memory: int | None = None) -> Called:
    """Call a function in a forked process.

    Args:
        function: it returns a value that can be pickled.
        timeout: seconds.
        memory: bytes of address space that it may have; None for no limit.
    """
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _child(function, writer, out, err, memory)
        os.close(writer)
        data = _drain(reader, timeout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        said = {"out": _text(out), "err": _text(err)}
    if data is None:
        return Called(hang=True, **said)
    if not data:
        return Called(traceback=f"crashed (signal {os.WTERMSIG(status)})", **said)
    return Called(**pickle.loads(data), **said)


def stage(name: str, *argv: object) -> None:
    """Run a script of src in this process, with the options of its command line."""
    module = script(name)
    module.main(module.parse().parse_args(list(map(str, argv))))


def script(name: str) -> ModuleType:
    """A script of src as a module."""
    return importlib.import_module(name)


def _child(function, writer, out, err, memory):
    """The forked process: call, send what came of it, and leave without cleaning up."""
    try:
        os.setsid()
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        data = pickle.dumps(_attempt(function))
        sys.stdout.flush()
        sys.stderr.flush()
        with open(writer, "wb") as pipe:
            pipe.write(data)
    finally:
        os._exit(0)


def _attempt(function):
    """{"value" | "error" | "traceback": ...} of a call, as `cli.run` would show it."""
    try:
        return {"value": function()}
    except SystemExit as leaving:
        if leaving.code in (None, 0):
            return {"value": None}
        return {"error": f"exit {leaving.code}"}
    except cli.EXPECTED as error:
        return {"error": cli.one_line(error)}
    except BaseException:
        return {"traceback": traceback.format_exc()[-2000:]}


def _drain(reader, timeout):
    """All bytes of a pipe until its end; None where that does not come in time."""
    deadline = time.monotonic() + timeout
    parts = []
    with open(reader, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            part = pipe.read(2**20)
            if not part:
                return b"".join(parts)
            parts.append(part)


def _hear_ctrl_c():
    """Undo what a shell does to processes in its background, which ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _processes():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _read(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended, or belongs to somebody else
        return b""


def _works(pid):
    """Whether a process is no helper of multiprocessing's, whose loss nobody has to survive."""
    line = _read(pid, "cmdline")
    return bool(line) and b"resource_tracker" not in line


def _ticks(pid):
    """CPU time that a process has used, in the kernel's ticks."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0


def _text(file):
    file.seek(0)
    return file.read().decode(errors="replace")
