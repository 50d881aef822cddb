"""Text is UTF-8 in every locale: files that are read or written, and output."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ast_repr import atomic, cli

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
OURS = {"atomic.read_text", "atomic.write_text", "table.read_text"}  # always UTF-8
OTHER_OPEN = {"tarfile.open", "os.open", "av.open"}
# A locale limited to ASCII, without the ways in which Python works around it.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def is_binary(call):
    """Whether a call of open has a mode with a b."""
    modes = [*call.args, *(key.value for key in call.keywords if key.arg == "mode")]
    parts = [part for mode in modes for part in ast.walk(mode)]
    texts = [part.value for part in parts if isinstance(part, ast.Constant)]
    return any(
        isinstance(text, str) and set(text) <= set("rwaxb+") and "b" in text for text in texts
    )


def in_the_locales_encoding(source):
    """Lines of calls that read or write text without an encoding."""
    lines = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        given = {keyword.arg for keyword in call.keywords}
        called = ast.unparse(call.func)
        method = called.rpartition(".")[2] if isinstance(call.func, ast.Attribute) else None
        if called == "open" or (method == "open" and called not in OTHER_OPEN):
            text = not is_binary(call)
        elif method in ("read_text", "write_text"):
            text = called not in OURS
        else:
            text = bool(given & {"text", "universal_newlines"})
        if text and "encoding" not in given:
            lines.append(call.lineno)
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_text_is_read_or_written_in_the_locales_encoding(path):
    assert in_the_locales_encoding(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "call",
    [
        "open(path)",
        'open(path, "w")',
        "open(path, mode='a')",
        "path.open()",
        "path.read_text()",
        "path.write_text(text)",
        "subprocess.run(['git'], text=True)",
    ],
)
def test_the_finder_sees_every_form(call):
    """The test above relies on `in_the_locales_encoding`."""
    assert in_the_locales_encoding(call) == [1]
    closed = call[:-1].rstrip(",") + (", " if call[-2] != "(" else "") + "encoding='utf-8')"
    assert in_the_locales_encoding(closed) == []
    assert in_the_locales_encoding("open(path, 'rb')") == []


def python(code, *args, **env):
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env=os.environ | ASCII | {"PYTHONPATH": str(ROOT / "src")} | env,
        capture_output=True,
        timeout=120,
    )


def test_what_is_printed_is_utf8():
    code = "import sys; from ast_repr import atomic; atomic.write_utf8_to_terminal()"
    out, err = "espa\u00f1ola \u00b1 \u65e5", "\u00e9"
    done = python(f"{code}; print({ascii(out)}); print({ascii(err)}, file=sys.stderr)")
    assert (done.stdout.decode(), done.stderr.decode()) == (f"{out}\n", f"{err}\n")


def test_streams_of_another_kind_stay_as_they_are(monkeypatch):
    class Stream:
        def write(self, text):
            pass

    monkeypatch.setattr(sys, "stdout", Stream())
    cli.atomic.write_utf8_to_terminal()


def test_files_are_utf8_with_or_without_a_byte_order_mark(tmp_path):
    value = ascii({"ñ": "日"})
    code = f"import sys; from ast_repr import atomic; atomic.write_json(sys.argv[1], {value})"
    assert python(code, str(tmp_path / "a.json")).returncode == 0
    written = (tmp_path / "a.json").read_bytes()
    assert "ñ" in written.decode("utf-8")
    (tmp_path / "b.json").write_bytes(b"\xef\xbb\xbf" + written)
    assert atomic.read_text(tmp_path / "b.json") == written.decode("utf-8")
    (tmp_path / "c.json").write_bytes("ñ".encode("latin-1"))
    with pytest.raises(ValueError, match="c.json: .*UTF-8"):
        atomic.read_text(tmp_path / "c.json")
