"""Files from elsewhere: download (resumed, verified) and unpack (safely).

A file appears under its own name only when its size and checksum are right; before that it is `<name>.part`, which the
next call resumes. An archive appears only when it is unpacked whole, and nothing in it can write outside. Both are for
one process at a time: see `only_user_of`.
"""

import gzip
import hashlib
import http.client
import lzma
import os
import shutil
import ssl
import stat
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout
from tqdm import tqdm

BLOCK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without a byte
PAUSES = (1.0, 4.0)  # seconds before another try; each byte that arrives allows as many tries again
UNPACKED_LIMIT = 64 << 30  # bytes; the largest corpus here has a tenth of it
MAY_PASS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)
UNREADABLE = (
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    zipfile.BadZipFile,
    NotImplementedError,
)


class RemoteError(RuntimeError):
    """A file that could not be had, or is not what it should be; the message says which and what to do."""


@dataclass(frozen=True)
class Remote:
    """A file elsewhere: its url, its size in bytes, and one of its checksums."""

    url: str
    bytes: int
    md5: str | None = None
    sha256: str | None = None

    @property
    def checksum(self):
        """(algorithm, hexadecimal digits)"""
        return ("sha256", self.sha256) if self.sha256 else ("md5", self.md5)


@contextmanager
def only_user_of(folder: Path):
    """Let one process at a time fetch into `folder`, which is made if need be; the others wait.

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


def download(remote, path, pauses=PAUSES):
    """Bring `remote` to `path`, verified; a file that is there already is verified too.

    Args:
        remote: what to get.
        path: where to put it; `<path>.part` holds what has arrived so far.
        pauses: seconds to wait before each further try when the network fails.

    Returns:
        `path`, as a Path.

    Raises:
        RemoteError: no network, refused by the server, or a wrong size or checksum (then the file is removed).
        OSError: the disk is full or read-only; what has arrived stays.
    """
    path = Path(path)
    if path.is_file():
        _verify(remote, path, path)
        return path
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    _fetch(remote, path, part, pauses)
    _verify(remote, part, path)
    os.replace(part, path)
    return path


def _fetch(remote, path, part, pauses):
    """Fill `part` up to the size of `remote`, going on after failures that may pass."""
    left = list(pauses)
    while (have := part.stat().st_size if part.exists() else 0) < remote.bytes:
        try:
            _transfer(remote, part, have, path.name)
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            reason = f"the server says {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 416, 429):
                raise RemoteError(_by_hand(remote, path, reason)) from error
            if error.code == 416:  # what is here is no beginning of what is there
                part.unlink(missing_ok=True)
        except MAY_PASS as error:
            reason = str(getattr(error, "reason", error))
        now = part.stat().st_size if part.exists() else 0
        if now > have:
            left = list(pauses)
        elif not left:
            raise RemoteError(_by_hand(remote, path, reason))
        if now < remote.bytes:
            time.sleep(left.pop(0) if left else 0)


def _transfer(remote, part, have, label):
    """One request: append to `part` from byte `have` on, or start again where the server cannot begin in the middle."""
    headers = {"User-Agent": "ast_repr"} | ({"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(
        urllib.request.Request(remote.url, headers=headers), timeout=TIMEOUT
    ) as response:
        resumed = (
            have
            and response.status == 206
            and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        )
        if not resumed:
            have = 0
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(
                desc=label,
                total=remote.bytes,
                initial=have,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
            ) as bar,
        ):
            while have <= remote.bytes and (
                block := response.read(BLOCK)
            ):  # a byte too many is enough to know
                file.write(block)
                have += len(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())


def _verify(remote, file, path):
    """Raise and remove `file`, which is meant for `path`, if it is not `remote`."""
    algorithm, expected = remote.checksum
    size = file.stat().st_size
    found = None
    if size == remote.bytes:
        with open(file, "rb") as stream:
            found = hashlib.file_digest(stream, algorithm).hexdigest()
        if found == expected:
            return
    file.unlink()
    wrong = (
        f"{size:,} bytes, expected {remote.bytes:,}"
        if found is None
        else f"{algorithm} {found}, expected {expected}"
    )
    raise RemoteError(
        f"{path}: found {wrong}; the file has been removed; run the same command again to get {remote.url}"
    )


def _by_hand(remote, path, reason):
    algorithm, digits = remote.checksum
    return (
        f"{path.name} could not be downloaded ({' '.join(reason.split())}); without network, get {remote.url} "
        f"({remote.bytes:,} bytes, {algorithm} {digits}) by other means and put it at {path.resolve()}"
    )


def unpack(archive, folder, limit=UNPACKED_LIMIT):
    """Unpack a tar (of any compression) or zip so that `folder` holds its files.

    Args:
        archive: the file.
        folder: must not exist; where everything in the archive lies in one folder, `folder` becomes that one.
        limit: bytes that the unpacked files may have in all.

    Raises:
        RemoteError: not an archive, truncated, larger than `limit`, or with a member other than plain files and folders
            inside `folder`; nothing is left behind.
    """
    archive, folder = Path(archive), Path(folder)
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
    temporary.mkdir(parents=True)
    try:
        (_unpack_zip if zipfile.is_zipfile(archive) else _unpack_tar)(archive, temporary, limit)
        visible = [path for path in temporary.iterdir() if not path.name.startswith(".")]
        whole = visible[0] if len(visible) == 1 and visible[0].is_dir() else temporary
        os.rename(whole, folder)
    except UNREADABLE as error:
        raise RemoteError(
            f"{archive}: not readable as an archive, or truncated ({error}); delete it and fetch it again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_tar(archive, folder, limit):
    guarded = (
        {"filter": "data"} if hasattr(tarfile, "data_filter") else {"set_attrs": False}
    )  # before Python 3.11.4 what is admitted has to do
    with tarfile.open(archive) as tar:
        for member in tqdm(tar, f"unpack {archive.name}", unit="file"):
            limit = _admit(
                archive, member.name, member.isreg() or member.isdir(), member.size, limit
            )
            tar.extract(member, folder, **guarded)


def _unpack_zip(archive, folder, limit):
    with zipfile.ZipFile(archive) as bundle:
        for member in tqdm(bundle.infolist(), f"unpack {archive.name}", unit="file"):
            kind = stat.S_IFMT(
                member.external_attr >> 16
            )  # 0 where the archive was made without file modes
            plain = (
                kind in (0, stat.S_IFREG, stat.S_IFDIR) and not member.flag_bits & 1
            )  # bit 0: encrypted
            limit = _admit(archive, member.filename, plain, member.file_size, limit)
            bundle.extract(member, folder)


def _admit(archive, name, plain, size, limit):
    """Bytes that further members may have, or RemoteError if this one must not be unpacked."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name.partition("/")[0]:
        raise RemoteError(
            f"{archive}: member {name!r} lies outside the archive; refused, nothing was unpacked"
        )
    if not plain:
        raise RemoteError(
            f"{archive}: member {name!r} is no plain file or folder; refused, nothing was unpacked"
        )
    if size > limit:
        raise RemoteError(
            f"{archive}: unpacks to more than expected (at {name!r}); refused, nothing was unpacked"
        )
    return limit - size
