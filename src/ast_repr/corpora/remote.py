"""Download files (resumed and verified) and unpack archives.

A file gets its name only after its size and checksum have been verified; until then it is
`<name>.part`, which the next call resumes. An archive is unpacked completely or not at all. Both
are for one process at a time: see `only_user_of`.
"""

import gzip
import hashlib
import http.client
import lzma
import os
import shutil
import ssl
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout
from tqdm import tqdm

BLOCK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without a byte
PAUSES = (1.0, 4.0)  # seconds before another try; any progress allows as many tries again
UTF8_NAME = 0x800  # flag of a zip's member
UNPACKED_LIMIT = 64 << 30  # bytes; the largest corpus here has a tenth of it
TEMPORARY = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)
UNREADABLE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
)


class RemoteError(RuntimeError):
    """A file that cannot be downloaded or is wrong; the message names it and the remedy."""


@dataclass(frozen=True)
class Remote:
    """A file to download: its url, its size in bytes, and one of its checksums.

    A size of None is asked from the server. A checksum may be the first of its digits.
    """

    url: str
    bytes: int | None
    md5: str | None = None
    sha256: str | None = None

    @property
    def checksum(self) -> tuple[str, str | None]:
        """(algorithm, hexadecimal digits)."""
        return ("sha256", self.sha256) if self.sha256 else ("md5", self.md5)


@contextmanager
def only_user_of(folder: Path) -> Iterator[None]:
    """Let one process at a time download into `folder`, which is created; the others wait.

    The lock file stays: deleting it would let two processes in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".fetch.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{folder}: another process is fetching, waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def download(remote: Remote, path: str | Path, pauses: Sequence[float] = PAUSES) -> Path:
    """Download `remote` to `path` and verify it; an existing file is verified only.

    Args:
        remote: the file.
        path: destination; `<path>.part` holds an incomplete download.
        pauses: seconds to wait before each further try if the network fails.

    Returns:
        `path`.

    Raises:
        RemoteError: no network, refused by the server, or a wrong size or checksum (then the file
            is removed).
        OSError: the disk is full or read-only; the incomplete download is kept.
    """
    path = Path(path)
    if path.is_file():
        _verify(remote, path, path)
        return path
    if remote.bytes is None:
        remote = replace(remote, bytes=size_on_server(remote, path))
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    _fetch(remote, path, part, pauses)
    _verify(remote, part, path)
    os.replace(part, path)
    return path


def size_on_server(remote: Remote, path: Path) -> int:
    """Ask the server for the size of a file, in bytes.

    Raises:
        RemoteError: no network, or the server does not say; `path` is where the file belongs.
    """
    request = urllib.request.Request(remote.url, headers={"User-Agent": "ast_repr"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            return int(response.headers["Content-Length"])
    except (*TEMPORARY, TypeError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
        raise RemoteError(_by_hand(remote, path, reason)) from error


def _fetch(remote: Remote, path: Path, part: Path, pauses: Sequence[float]) -> None:
    """Fill `part` up to the size of `remote`, resuming after temporary failures."""
    left = list(pauses)
    size = _size(part)
    while size < remote.bytes:
        try:
            _transfer(remote, part, size, path.name)
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            reason = f"the server says {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 416, 429):
                raise RemoteError(_by_hand(remote, path, reason)) from error
            if error.code == 416:  # the part is longer than the file
                part.unlink(missing_ok=True)
        except TEMPORARY as error:
            reason = str(getattr(error, "reason", error))
        before = size
        size = _size(part)
        if size > before:
            left = list(pauses)
        elif not left:
            raise RemoteError(_by_hand(remote, path, reason))
        if size < remote.bytes and left:
            time.sleep(left.pop(0))


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _transfer(remote: Remote, part: Path, have: int, label: str) -> None:
    """Append to `part` from byte `have` on, or start again if the server sends the whole file."""
    request = urllib.request.Request(remote.url, headers={"User-Agent": "ast_repr"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        content_range = response.headers.get("Content-Range", "")
        resumed = response.status == 206 and content_range.startswith(f"bytes {have}-")
        if not resumed:
            have = 0
        bar = tqdm(
            desc=label,
            total=remote.bytes,
            initial=have,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=None,
        )
        with open(part, "ab" if resumed else "wb") as file, bar:
            while have <= remote.bytes:  # a byte too many is enough to know
                block = response.read(BLOCK)
                if not block:
                    break
                file.write(block)
                have += len(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())


def _verify(remote: Remote, file: Path, path: Path) -> None:
    """Raise RemoteError and remove `file`, whose destination is `path`, if it is not `remote`."""
    algorithm, expected = remote.checksum
    size = file.stat().st_size
    if remote.bytes in (None, size):
        with open(file, "rb") as stream:
            digits = hashlib.file_digest(stream, algorithm).hexdigest()
        if digits.startswith(expected):
            return
        difference = f"{algorithm} {digits}, expected {expected}"
    else:
        difference = f"{size:,} bytes, expected {remote.bytes:,}"
    file.unlink()
    raise RemoteError(
        f"{path}: found {difference}; the file has been removed; "
        f"run the same command again to get {remote.url}"
    )


def _by_hand(remote: Remote, path: Path, reason: str) -> str:
    algorithm, digits = remote.checksum
    size = "" if remote.bytes is None else f"{remote.bytes:,} bytes, "
    return (
        f"{path.name} could not be downloaded ({' '.join(reason.split())}); without network, get "
        f"{remote.url} ({size}{algorithm} {digits}) by other means and put it at {path.resolve()}"
    )


def unpack(archive: str | Path, folder: str | Path, limit: int = UNPACKED_LIMIT) -> None:
    """Unpack a zip, or a tar of any compression, to `folder`.

    Args:
        archive: the file.
        folder: must not exist; if the archive holds a single folder, `folder` becomes that one.
        limit: largest size of the unpacked files, in bytes.

    Raises:
        RemoteError: not an archive, truncated, larger than `limit`, or with members outside
            `folder` or others that tarfile's "data" filter refuses; nothing is left behind.
    """
    archive = Path(archive)
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
    temporary.mkdir(parents=True)
    size = 0
    try:
        extract = _extract_zip if zipfile.is_zipfile(archive) else _extract_tar
        members = extract(archive, temporary)
        for member_size in tqdm(members, f"unpack {archive.name}", unit="file", disable=None):
            size += member_size
            if size > limit:
                raise RemoteError(
                    f"{archive}: unpacks to more than {limit:,} bytes; "
                    "refused, nothing was unpacked"
                )
        visible = [path for path in temporary.iterdir() if not path.name.startswith(".")]
        root = visible[0] if len(visible) == 1 and visible[0].is_dir() else temporary
        os.rename(root, folder)
    except tarfile.FilterError as error:
        raise RemoteError(f"{archive}: {error}; refused, nothing was unpacked") from error
    except UNREADABLE as error:
        raise RemoteError(
            f"{archive}: not readable as an archive, or truncated ({error}); "
            "delete it and fetch it again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract_tar(archive: Path, folder: Path) -> Iterator[int]:
    """Yield the size of each member of a tar, and unpack it before the next one."""
    with tarfile.open(archive) as tar:
        for member in tar:
            yield member.size
            tar.extract(member, folder, filter="data")


def _extract_zip(archive: Path, folder: Path) -> Iterator[int]:
    """Yield the size of each member of a zip, and unpack it before the next one.

    Links are unpacked as plain files.
    """
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if not member.flag_bits & UTF8_NAME:
                with suppress(UnicodeError):  # many programs write UTF-8 without saying so
                    member.filename = member.filename.encode("cp437").decode("utf-8")
            path = PurePosixPath(member.filename)
            path = PurePosixPath(member.filename)
            if path.is_absolute() or ".." in path.parts:
                raise RemoteError(
                    f"{archive}: {member.filename!r} is outside its folder; refused, "
                    "nothing was unpacked"
                )
            yield member.file_size
            file.extract(member, folder)
