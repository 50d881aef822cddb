"""Text files, and writing so that a killed process leaves the old file or the new one, never half.

Text is UTF-8, whatever the locale. A file is written under a hidden name of its own,
`.<name>.<random>.partial`, and locked while its writer lives. Leftovers of killed processes are
removed when the same file is written again, and by `sweep`.
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
from contextlib import contextmanager, suppress
from pathlib import Path

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
TOKEN_BYTES = 8
PARTIAL = "." + "[0-9a-f]" * 2 * TOKEN_BYTES + ".partial"  # how a partial file's name ends
ABANDONED_S = 24 * 3600.0  # age of a partial file that is nobody's where locks do not work


def write_utf8_to_terminal():
    """Make stdout and stderr of this process UTF-8, whatever the locale."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # and not what a test or a notebook put there
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


@contextmanager
def replacing(path):
    """Yield a temporary path beside `path`; on success it is flushed to disk and replaces `path`.

    What the body writes there may be opened by several libraries in turn; HDF5 needs
    `locking=False`, since the file is locked already.

    Raises:
        OSError: it cannot be written; the error names `path`, also where a library says otherwise
            or nothing.
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


def refuse_to_replace(paths, overwrite=False, inputs=()):
    """Refuse to write a file that is there already and was not made to be replaced.

    Devices and pipes may always be written to.

    Args:
        paths: files that are going to be written.
        overwrite: whether existing ones may be replaced.
        inputs: files that are read, and must not be replaced in any case.

    Raises:
        FileExistsError: the first that must not be replaced, with a remedy.
    """
    for path in map(Path, paths):
        if not path.is_file():
            continue
        if any(os.path.exists(one) and path.samefile(one) for one in inputs):
            raise FileExistsError(f"{path}: would replace a file that is read; name another")
        if not overwrite:
            raise FileExistsError(
                f"{path}: exists already; name another, or pass --overwrite to replace it"
            )


def sweep(folder):
    """Remove the partial files that killed processes have left anywhere in `folder`."""
    for partial in Path(folder).rglob(f".*{PARTIAL}"):
        _remove_abandoned(partial)


def _create(path):
    """Create the partial file of `path`: (its path, the open file that holds its lock)."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(TOKEN_BYTES)}.partial")
        file = open(partial, "xb")  # noqa: SIM115, it stays open as long as the lock is held
        with suppress(OSError):  # a file system without locks: then the file's age decides
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return partial, file
        file.close()  # swept before it was locked


def _remove_abandoned(partial):
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


def _flush_folder(folder):
    """Flush a folder's list of names to disk, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise_for_disk(error, path):
    """Raise an OSError that names `path` if a full or broken disk is behind a library's `error`."""
    cause = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            raise OSError(cause.errno, os.strerror(cause.errno), str(path)) from error
        cause = cause.__context__


def write_bytes(path, data):
    """Write `data` to `path` atomically."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def read_text(path) -> str:
    """Read a UTF-8 text file, whatever the locale; a byte-order mark is left out.

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


def write_text(path, text):
    r"""Write `text` to `path` atomically, as UTF-8.

    What has no UTF-8, as some bytes of a file's name, is written as an escape (`\udce9`), which is
    JSON's own.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path, value):
    """Write `value` to `path` atomically as indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
