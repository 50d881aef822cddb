"""Fetching: downloads resume and are verified, archives cannot write outside.

A corpus' name and a backbone's weights are those of one content.
"""

import hashlib
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ast_repr import cli, pretrained
from ast_repr.corpora.remote import Remote, RemoteError, download, only_user_of, unpack

ROOT = Path(__file__).parents[1]
DATA = bytes(range(256)) * 20_000  # 5 MB


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, start = self.server, 0
        server.asked.append(self.headers["Range"])
        if server.codes:
            return self.send_error(server.codes.pop(0))
        if server.ranges and self.headers["Range"]:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        self.wfile.write(DATA[start : server.cuts.pop(0) if server.cuts else len(DATA)])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """Serves DATA.

    `ranges`: from the middle too; `cuts`: byte where each answer ends early; `codes`: errors given
    first.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.ranges, server.cuts, server.codes, server.asked = True, [], [], []
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


def remote(server, **changes):
    values = {
        "url": f"http://127.0.0.1:{server.server_port}/file",
        "bytes": len(DATA),
        "md5": hashlib.md5(DATA).hexdigest(),
    }
    return Remote(**(values | changes))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_is_completed_and_equals_the_reference(server, tmp_path, ranges):
    server.ranges = ranges
    part = tmp_path / "file.part"
    part.write_bytes(
        DATA[:1_234_567] if ranges else b"rubbish, which a server that starts again overwrites"
    )
    assert download(remote(server), tmp_path / "file").read_bytes() == DATA
    assert server.asked == ["bytes=1234567-" if ranges else "bytes=52-"]
    assert not part.exists()
    download(remote(server), tmp_path / "file")
    assert len(server.asked) == 1  # verified, not fetched again


def test_two_processes_that_fetch_the_same_wait_for_each_other(server, tmp_path, capsys):
    def fetch():
        with only_user_of(tmp_path / "data"):
            download(remote(server), tmp_path / "data" / "file")

    with only_user_of(tmp_path / "data"):
        threads = [threading.Thread(target=fetch) for _ in range(2)]
        for thread in threads:
            thread.start()
        printed = ""
        deadline = time.monotonic() + 60
        while printed.count("another process is fetching") < len(threads):
            assert time.monotonic() < deadline
            time.sleep(0.01)
            printed += capsys.readouterr().err
        assert not server.asked
    for thread in threads:
        thread.join(timeout=60)
    assert len(server.asked) == 1
    assert (tmp_path / "data" / "file").read_bytes() == DATA


def test_errors_that_may_pass_are_tried_again(server, tmp_path):
    server.cuts, server.codes = [1_000_000, 3_000_000], [503]
    assert download(remote(server), tmp_path / "file", pauses=(0, 0)).read_bytes() == DATA
    assert server.asked == [None, None, "bytes=1000000-", "bytes=3000000-"]


def test_a_server_that_always_ends_early_is_given_up_and_the_part_kept(server, tmp_path):
    server.ranges, server.cuts = False, [1000] * 9
    with pytest.raises(RemoteError, match="ended early|IncompleteRead"):
        download(remote(server), tmp_path / "file", pauses=(0, 0))
    assert [path.name for path in tmp_path.iterdir()] == ["file.part"]


@pytest.mark.parametrize("place", ["file", "file.part"])
def test_one_wrong_byte_is_refused_and_the_file_removed(server, tmp_path, place):
    (tmp_path / place).write_bytes(DATA[:-1] + b"x")
    found = hashlib.md5(DATA[:-1] + b"x").hexdigest()
    with pytest.raises(
        RemoteError, match=f"file: found md5 {found}, expected {remote(server).md5}"
    ):
        download(remote(server), tmp_path / "file")
    assert not list(tmp_path.iterdir())
    assert not server.asked


def test_another_size_or_sha256_is_refused(server, tmp_path):
    with pytest.raises(RemoteError, match="expected 1,000"):
        download(remote(server, bytes=1000), tmp_path / "file")
    with pytest.raises(RemoteError, match="sha256 [0-9a-f]{64}, expected 00"):
        download(remote(server, md5=None, sha256="00"), tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_without_network_one_line_names_url_size_hash_and_place(server, tmp_path):
    wanted = remote(server, url="http://127.0.0.1:9/file")  # port 9: nobody answers
    with pytest.raises(RemoteError) as caught:
        download(wanted, tmp_path / "file", pauses=())
    for word in (
        "file could not be downloaded",
        wanted.url,
        "5,120,000 bytes",
        f"md5 {wanted.md5}",
        str(tmp_path / "file"),
    ):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    server.codes = [404]
    with pytest.raises(RemoteError, match="404"):
        download(remote(server), tmp_path / "file")
    assert len(server.asked) == 1  # no use trying again


def tar(path, *members):
    """Write an archive of (name, type, target of a link); files hold the word "content"."""
    with tarfile.open(path, "w:gz") as bundle:
        for name, kind, target in members:
            content = b"content" if kind == tarfile.REGTYPE else b""
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = target
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return path


def file(name):
    return name, tarfile.REGTYPE, ""


HOSTILE = {
    "above": [file("../evil")],
    "above by a folder": [file("ok/../../evil")],
    "through a link": [("ok/link", tarfile.SYMTYPE, "../.."), file("ok/link/evil")],
    "through a hard link": [("ok/link", tarfile.LNKTYPE, "../../evil"), file("ok/link")],
    "device": [("ok/device", tarfile.CHRTYPE, "")],
    "pipe": [("ok/pipe", tarfile.FIFOTYPE, "")],
    "too large": [file(f"ok/{number}") for number in range(200)],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives_leave_nothing(members, tmp_path):
    (tmp_path / "inner").mkdir()
    archive = tar(tmp_path / "inner" / "archive", *members)
    with pytest.raises(RemoteError, match="archive.*refused"):
        unpack(archive, tmp_path / "inner" / "corpus", limit=1000)
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "archive"]


def test_unpack_gives_the_folder_whole_or_not_at_all(tmp_path):
    names = ["._corpus-v1", "corpus-v1/class-map.json", "corpus-v1/audio/000/a.ogg"]
    archive = tar(tmp_path / "archive", *map(file, names))
    unpack(archive, tmp_path / "corpus")
    assert (tmp_path / "corpus/audio/000/a.ogg").read_text() == "content"
    assert sorted(os.listdir(tmp_path)) == ["archive", "corpus"]
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(RemoteError, match="archive.*truncated"):
        unpack(archive, tmp_path / "again")
    assert sorted(os.listdir(tmp_path)) == ["archive", "corpus"]


def test_a_size_that_is_unknown_is_asked_from_the_server(server, tmp_path):
    server.cuts = [0, 1_000_000]
    unsized = remote(server, bytes=None)
    assert download(unsized, tmp_path / "file", pauses=(0, 0)).read_bytes() == DATA
    assert server.asked == [None, None, "bytes=1000000-"]
    download(unsized, tmp_path / "file")
    assert len(server.asked) == 3  # verified by its checksum, not asked for again
    (tmp_path / "file").write_bytes(b"another")
    with pytest.raises(RemoteError, match="found md5"):
        download(unsized, tmp_path / "file")
    with pytest.raises(RemoteError, match=r"could not be downloaded .* \(md5 "):
        download(remote(server, bytes=None, url="http://127.0.0.1:9/file"), tmp_path / "file")


def test_a_zip_is_unpacked_with_names_in_utf_8_that_it_does_not_declare(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive", "w") as bundle:
        bundle.writestr("Part1/Étude-1.wav", b"content")
    data = bytearray((tmp_path / "archive").read_bytes())
    for signature, place in ((b"PK\3\4", 7), (b"PK\1\2", 9)):  # second byte of the flags
        data[data.index(signature) + place] &= ~0x08
    (tmp_path / "archive").write_bytes(data)
    assert "Étude" not in zipfile.ZipFile(tmp_path / "archive").namelist()[0]
    unpack(tmp_path / "archive", tmp_path / "corpus")
    assert (tmp_path / "corpus" / "Étude-1.wav").read_bytes() == b"content"
    assert sorted(os.listdir(tmp_path)) == ["archive", "corpus"]


@pytest.mark.parametrize("name", ["../evil", "ok/../../evil", "/evil", "large"])
def test_hostile_zips_leave_nothing(name, tmp_path):
    content = b"0" * (2000 if name == "large" else 1)
    with zipfile.ZipFile(tmp_path / "archive", "w") as bundle:
        bundle.writestr(name, content)
    with pytest.raises(RemoteError, match="archive.*refused"):
        unpack(tmp_path / "archive", tmp_path / "corpus", limit=1000)
    assert os.listdir(tmp_path) == ["archive"]


def test_an_absolute_member_stays_inside(tmp_path):
    archive = tar(tmp_path / "archive", file(str(tmp_path / "evil")))
    unpack(archive, tmp_path / "corpus")
    assert sorted(os.listdir(tmp_path)) == ["archive", "corpus"]


@pytest.fixture
def fetch(monkeypatch, capsys):
    """folder, options -> (exit code, fields, standard error) of src/fetch.py in the folder."""
    monkeypatch.syspath_prepend(str(ROOT / "src"))
    stage = importlib.import_module("fetch")

    def call(folder, options):
        monkeypatch.chdir(folder)
        (folder / "tiny.safetensors").touch()
        line = ["--data", "data", "--backbone-file", "tiny.safetensors", *options.split()]
        code = 0
        try:
            cli.run(stage.main, stage.parse(), line)
        except SystemExit as left:
            code = left.code
        out, err = capsys.readouterr()
        return code, out.rstrip("\n").split("\t"), err

    return call


def test_fetch_chooses_a_corpus_and_says_which(fetch, tmp_path):
    assert fetch(tmp_path, "")[1] == [
        "synthetic",
        "synthetic",
        "data/synthetic/openmic-2018",
        "tiny",
        "tiny.safetensors",
    ]
    code, fields, said = fetch(tmp_path, "--clips 40")
    assert (code, fields[:3]) == (
        0,
        ["synthetic", "synthetic-40", "data/synthetic-40/openmic-2018"],
    )
    assert said.count("\n") == 1
    assert "--corpus openmic" in said
    assert "--data-root" in said
    (tmp_path / "real mix").mkdir()
    os.symlink("real mix", tmp_path / "linked")
    assert fetch(tmp_path, "--data-root linked")[1][:3] == ["openmic", "real mix", "linked"]
    (tmp_path / "data/openmic-2018/partitions").mkdir(parents=True)
    code, fields, said = fetch(tmp_path, "")
    assert fields[:3] == ["openmic", "openmic", "data/openmic-2018"]
    assert "--corpus synthetic" in said
    assert fetch(tmp_path, "--corpus synthetic")[1][1] == "synthetic"


def test_two_corpora_of_one_name_are_refused_while_both_are_there(fetch, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "songs.csv").write_text("path,bass\n")
    one, other = (f"--corpus custom --manifest {name}/songs.csv" for name in ("a", "b"))
    assert fetch(tmp_path, one)[0] == fetch(tmp_path, one)[0] == 0
    code, _, said = fetch(tmp_path, other)
    assert code == 1
    assert said.count("\n") == 1
    for expected in ("b/songs.csv: the name songs", f"{tmp_path}/a/songs.csv", "data/songs"):
        assert expected in said
    (tmp_path / "a/songs.csv").unlink()
    assert fetch(tmp_path, other)[0] == 0
    (tmp_path / "data/songs/source.json").write_text("{")  # damaged: as if there were none
    assert fetch(tmp_path, other)[0] == 0


def test_a_copy_of_the_tree_keeps_its_names(fetch, tmp_path):
    (tmp_path / "one").mkdir()
    assert fetch(tmp_path / "one", "--corpus synthetic")[0] == 0
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert fetch(tmp_path / "two", "--corpus synthetic")[0] == 0


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A backbone of the catalogue, downloaded, and one that is shipped: {name: path}."""
    index = {}
    source = {"repo": "me/model", "revision": "1", "file": "model.safetensors"}
    for name, hub in (("shipped", None), ("downloaded", source)):
        content = name.encode() * 50
        (tmp_path / name).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        fields = dict.fromkeys(("labels", "licence"))
        index[name] = fields | {"file": name, "hub": hub, "bytes": len(content), "sha256": sha256}
    (tmp_path / "index.yaml").write_text(json.dumps(index))
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    return {name: tmp_path / name for name in index}


@pytest.mark.parametrize(
    ("name", "remedy"), [("shipped", "git checkout"), ("downloaded", "delete it and run .*fetch")]
)
def test_weights_of_the_right_size_with_a_flipped_bit_are_refused(name, remedy, weights, tmp_path):
    path = weights[name]
    pretrained.verify_weights(name, path)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(ValueError, match=f"{name}: found sha256 .*, expected .*; .*{remedy}"):
        pretrained.verify_weights(name, path)
    pretrained.verify_weights(name, tmp_path / "index.yaml")  # a file of the user's own
    pretrained.verify_weights("unknown", path)


@pytest.mark.parametrize("name", ["shipped", "downloaded"])
def test_fetch_looks_at_the_content_of_weights(name, weights, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "src")
    stage = importlib.import_module("fetch")
    assert stage.fetch_backbone(name, None).resolve() == weights[name]
    weights[name].write_bytes(b"x" + weights[name].read_bytes()[1:])
    with pytest.raises((ValueError, RemoteError), match="sha256"):
        stage.fetch_backbone(name, None)


@pytest.mark.parametrize(
    "options, code, message",
    [
        ("--corpus synthetic --data-root .", 2, "--data-root"),
        ("--corpus openmik", 2, "did you mean 'openmic'"),
        ("--data-rot x", 2, "did you mean '--data-root'"),
        ("--clips many", 2, "--clips: found 'many'"),
        ("--data-root absent", 1, "absent: no such folder"),
        ("--backbone-file absent.pth", 1, "absent.pth: no such file"),
    ],
)
def test_fetch_reports_an_error_in_one_line(fetch, tmp_path, options, code, message):
    found, _, said = fetch(tmp_path, options)
    assert found == code
    assert message in said
    assert re.search(r"^error: .*\n\Z", said, re.M)
    assert "Traceback" not in said


def test_debug_shows_the_traceback(fetch, tmp_path):
    code, _, said = fetch(tmp_path, "--data-root absent --debug")
    assert code == 1
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("error: absent: no such folder")


def test_fetch_needs_no_torch():
    modules = "ast_repr.pretrained, ast_repr.corpora.openmic, ast_repr.cli"
    code = f"import sys; import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src").returncode == 0


def test_catalogue():
    entry = pretrained.find("ast_audioset")
    assert (entry.bytes, entry.path.name) == (346_404_948, "ast_audioset.safetensors")
    assert len(entry.source_classes()) == 527
    with pytest.raises(ValueError, match="did you mean 'ast_audioset'"):
        pretrained.find("ast_audiset")


@pytest.mark.parametrize(
    "error, code, said",
    [
        (
            OSError(28, "No space left on device", "x.h5"),
            1,
            "error: x.h5: disk full (No space left on device); free some space",
        ),
        (
            PermissionError(13, "Permission denied", "exp"),
            1,
            "error: exp: Permission denied; change the permissions",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "a.csv"),
            1,
            "error: a.csv: No such file or directory",
        ),
        (RuntimeError("two\n  lines"), 1, "error: two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (TypeError("a bug of ours"), None, ""),
    ],
)
def test_command_turns_errors_into_codes(capsys, error, code, said):
    def main(args):
        raise error

    with pytest.raises(TypeError if code is None else SystemExit) as caught:
        cli.run(main, cli.parser("doc"), [])
    assert code is None or caught.value.code == code
    assert capsys.readouterr().err.startswith(said)
