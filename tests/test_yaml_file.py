"""YAML is read as plain values in any locale; anything else is named with its line."""

import os
import subprocess
import sys
import time

import pytest
import yaml
from test_config import BASE

from ast_repr import config, pretrained, yaml_file
from ast_repr.yaml_file import YamlError

BOMB = "a0: &a0 [1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


def test_numbers_are_read_with_or_without_a_point():
    text = "[1e-9, 1e5, 5e-4, 1.5E+3, .5e3, 1.0e-5, -2e0, 12, 0.25]"
    result = yaml_file.parse(text, "x")
    assert result == [1e-9, 1e5, 5e-4, 1.5e3, 500.0, 1e-5, -2.0, 12, 0.25]
    assert [type(value) for value in result[-2:]] == [int, float]


def test_texts_that_begin_like_a_number_or_a_date_stay_texts():
    sha256 = "9308e5701264a2fc8d499c5c7c2d61cd46946de0d23de2244616587767fff4dc"
    texts = [sha256, "1e", "e5", "1e5x", "2018-01-01", "2001-99-99"]
    assert yaml_file.parse("\n".join(f"- {text}" for text in texts), "x") == texts


@pytest.mark.parametrize("value", ["1e5", "2018-01-01", "on", "a: b", "", "ü\n", 1e-9, None, 0.1])
def test_written_values_are_read_back(value):
    shared = [value]
    written = yaml_file.dump({"one": shared, "two": shared})
    assert yaml_file.parse(written, "x") == {"one": [value], "two": [value]}
    assert "&" not in written


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (BOMB, 2, "alias"),
        ("a: &x 1\nb:\n  c: *x", 3, "alias"),
        ("a: 1\nb: 2\na: 3", 3, "'a' twice"),
        ("a:\n  - {b: 1, b: 2}", 2, "'b' twice"),
        ("[" * 100_000, 1, "nested deeper"),
        ("- " * 1_000, 1, "nested deeper"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]", 2, "tag"),
        ("a: !!int x", 1, "tag"),
        ("a: [", 1, "expected"),
    ],
)
def test_anything_but_plain_values_is_refused_by_line(text, line, message, tmp_path):
    path = tmp_path / "conf.yaml"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(YamlError, match=rf"conf\.yaml: .*line {line}: .*{message}") as caught:
        yaml_file.read(path)
    assert time.monotonic() - started < 60
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"a: \xe9", b"a: \x1b[2J", b"a: " + b"9" * 5_000])
def test_an_unreadable_file_is_named(text, tmp_path):
    path = tmp_path / "conf.yaml"
    path.write_bytes(text)
    with pytest.raises(YamlError, match=r"conf\.yaml: (not readable as YAML|byte 3 is not UTF-8)"):
        yaml_file.read(path)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_it_is_utf_8_in_any_locale(mark, tmp_path):
    (tmp_path / "conf.yaml").write_text(f"{mark}name: Björk", encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from ast_repr import yaml_file;"
        "print(ascii(yaml_file.read(Path(sys.argv[1]))))"
    )
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", code, str(tmp_path / "conf.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert done.stdout.strip() == ascii({"name": "Björk"}), done.stderr


def test_a_conf_that_would_fill_the_memory_is_refused_at_once(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "bomb.yaml").write_text(BOMB)
    started = time.monotonic()
    with pytest.raises(config.ConfigError, match=r"bomb\.yaml: .*alias"):
        config.load(tmp_path, "bomb")
    with pytest.raises(config.ConfigError, match=r"row=.*alias"):
        config.load(tmp_path, "base", settings=["row=[&a 1, *a]"])
    assert time.monotonic() - started < 60


def test_shipped_files_are_read_as_by_yaml_itself(request):
    """PyYAML is the independent oracle, on files without the differences."""
    root = request.config.rootpath
    paths = [*pretrained.FOLDER.glob("*.yaml"), *(root / "egs").glob("*/conf/*.yaml")]
    assert len(paths) > 20
    for path in paths:
        assert yaml_file.read(path) == yaml.safe_load(path.read_text(encoding="utf-8")), path
