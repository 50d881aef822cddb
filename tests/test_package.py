"""The package that is installed: its parts, its command, and a wheel that predicts by itself."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import soundfile
from make_audio import music

from ast_repr import commands, pretrained

ROOT = Path(__file__).parents[1]
PARTS = ("src", "pretrained_models", "pyproject.toml", "README.md", "LICENSE")
SETUPTOOLS = 77  # the version that pyproject.toml asks for


def test_every_package_is_listed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    source = ROOT / "src"
    packages = {
        ".".join(path.parent.relative_to(source).parts) for path in source.rglob("__init__.py")
    }
    weights = {"ast_repr.pretrained_models"}
    weights |= {f"ast_repr.pretrained_models.{name}" for name in pretrained.MODELS}
    assert set(settings["packages"]) == packages | weights
    assert (source / "ast_repr" / "py.typed").is_file()


def run_main(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["ast-repr", *arguments])
    code = 0
    try:
        commands.main()
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_the_command_lists_its_commands_and_refuses_others(monkeypatch, capsys):
    for arguments in ([], ["--help"]):
        code, out, _ = run_main(monkeypatch, capsys, *arguments)
        assert code == 0
        assert all(f"\n  {name} " in out for name in commands.COMMANDS)
    code, _, err = run_main(monkeypatch, capsys, "predic", "song.wav")
    assert code == 2 and "'predict'" in err and err.count("\n") == 1
    code, out, _ = run_main(monkeypatch, capsys, "predict", "--help")
    assert code == 0 and out.startswith("usage: ast-repr predict ")
    code, out, _ = run_main(monkeypatch, capsys, "version")
    assert code == 0 and f"model {pretrained.shipped_model()}" in out


def test_the_command_checks_own_data(monkeypatch, capsys, tmp_path):
    (tmp_path / "songs.csv").write_text("path,guitar\nnone.wav,1\n")
    code, out, err = run_main(monkeypatch, capsys, "check", str(tmp_path / "songs.csv"))
    assert code == 1 and "none.wav" in out and "songs.csv" in err


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder of the commands of an environment with the wheel and this one's dependencies."""
    version = importlib.metadata.version("setuptools")
    if int(version.partition(".")[0]) < SETUPTOOLS:
        pytest.skip(f"needs setuptools >= {SETUPTOOLS}, found {version}: the extra `test`")
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run([*pip, *build], check=True)
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 12_000_000
    assert "ast_repr/export/model_card.md" in zipfile.ZipFile(wheel).namelist()
    python = environment / "bin" / "python"
    install = ["--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run([*pip, *install], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    others = [path for path in sys.path if "site-packages" in path]
    (packages / "dependencies.pth").write_text("\n".join(others))
    return environment / "bin"


@pytest.mark.slow
def test_the_wheel_predicts_a_song_from_another_folder(installed, tmp_path):
    soundfile.write(tmp_path / "song.ogg", music(11, 16_000), 16_000)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def run(*arguments):
        result = subprocess.run(
            [installed / "ast-repr", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        return result

    result = run("predict", "song.ogg")
    assert result.stdout.startswith("song.ogg (0:11)\n")
    assert pretrained.DEFAULT_MODEL in result.stderr
    assert f"model {installed.parent}" in run("version").stdout
