"""Atomic writing: a killed process leaves the old file or the new one, never half a file.

A file is written under a hidden temporary name, `.<name>.<random>.partial`, which is locked while
its writer lives. Leftovers of killed processes are removed when the same file is written again, and
by `sweep`. Text is UTF-8, whatever the locale.
"""

import errno
import fcntl
import glob
import io
import json
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
TOKEN_BYTES = 8
PARTIAL = "." + "[0-9a-f]" * 2 * TOKEN_BYTES + ".partial"  # how the name of a partial file ends
ABANDONED_S = 24 * 3600.0  # age at which a partial file is removed if locks do not work


def write_utf8_to_terminal() -> None:
    """Make stdout and stderr of this process UTF-8, whatever the locale."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not a replacement by a test or a notebook
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and replaces `path`.

    Several libraries may open the temporary file in turn; HDF5 needs `locking=False`, since the
    file is locked already.

    Raises:
        OSError: it cannot be written; the error names `path`, whatever the failing library says.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for partial in path.parent.glob(f".{glob.escape(path.name)}{PARTIAL}"):
        _remove_abandoned(partial)
    partial, lock = _create(path)
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _flush_folder(path.parent)
    except Exception as error:
        _raise_for_disk(error, path)
        raise
    finally:
        partial.unlink(missing_ok=True)
        lock.close()


def refuse_to_replace(
    paths: Iterable[str | Path], overwrite: bool = False, inputs: Iterable[str | Path] = ()
) -> None:
    """Refuse to replace existing files; devices and pipes may always be written to.

    Args:
        paths: files that are going to be written.
        overwrite: allow existing files to be replaced.
        inputs: files that are read, and must not be replaced in any case.

    Raises:
        FileExistsError: the first that must not be replaced, with a remedy.
    """
    for path in map(Path, paths):
        if not path.is_file():
            continue
        if any(os.path.exists(source) and path.samefile(source) for source in inputs):
            raise FileExistsError(f"{path}: would replace a file that is read; name another")
        if not overwrite:
            raise FileExistsError(
                f"{path}: exists already; name another, or pass --overwrite to replace it"
            )


def sweep(folder: str | Path) -> None:
    """Remove the partial files that killed processes have left anywhere in `folder`."""
    for partial in Path(folder).rglob(f".*{PARTIAL}"):
        _remove_abandoned(partial)


def _create(path: Path) -> tuple[Path, BinaryIO]:
    """Create the partial file of `path`: (its path, the open file that holds its lock)."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(TOKEN_BYTES)}.partial")
        file = open(partial, "xb")  # noqa: SIM115, it stays open as long as the lock is held
        with suppress(OSError):  # a file system without locks: then the file's age decides
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return partial, file
        file.close()  # swept before it was locked


def _remove_abandoned(partial: Path) -> None:
    """Remove a partial file unless the process that writes it is alive."""
    with suppress(FileNotFoundError, PermissionError), open(partial, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            if time.time() - os.fstat(file.fileno()).st_mtime < ABANDONED_S:
                return
        partial.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk if its file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise_for_disk(error: BaseException, path: Path) -> None:
    """Raise an OSError that names `path` if a full or broken disk caused a library's `error`."""
    cause = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            raise OSError(cause.errno, os.strerror(cause.errno), str(path)) from error
        cause = cause.__context__


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file without its byte-order mark, whatever the locale.

    Raises:
        ValueError: it is not UTF-8; the message names the file.
        OSError: it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: byte {error.start} is not UTF-8 text; save the file as UTF-8"
        ) from error


def write_text(path: str | Path, text: str) -> None:
    r"""Write `text` to `path` atomically, as UTF-8.

    Characters that UTF-8 cannot hold, such as undecodable bytes of a file name, are written as
    JSON's escapes (`\udce9`).
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` atomically as indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
