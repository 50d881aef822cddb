"""The tree is what it says it is: imports point only downwards, data and networks do not know each other, nothing strays."""

import ast
import fnmatch
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "ast_repr"
VISIBLE = {
    "README.md",
    "ast_repr.yml",
    "egs",
    "src",
    "pretrained_models",
    "tests",
    "LICENSE",
    "pyproject.toml",
    "CITATION.cff",
}

# A room, or a module that is in none, and its level. Imports go to lower levels, or stay inside the room.
LEVELS = {
    "sections": 7,
    "training": 6,
    "inference": 6,
    "methods": 5,
    "export": 5,
    "classifier": 4,
    "data": 4,
    "model_spec": 4,
    "viewer": 4,
    "backbones": 3,
    "cli": 3,
    "corpora": 3,
    "features": 3,
    "metrics": 3,
    "report": 3,
    "run_config": 3,
    "runs": 3,
    "checkpoint": 2,
    "config": 2,
    "distributed": 2,
    "heads": 2,
    "manifest": 2,
    "pretrained": 2,
    "reprogrammers": 2,
    "run_folder": 2,
    "audio": 1,
    "devices": 1,
    "identity": 1,
    "registry": 1,
    "atomic": 0,
    "escaping": 0,
    "headers": 0,
    "losses": 0,
    "ogg": 0,
    "processes": 0,
    "typecheck": 0,
    "yaml_file": 0,
}
# What the others of level 0 stand on.
SHARED = {"registry", "atomic", "identity", "typecheck", "yaml_file", "escaping"}
ALSO = {
    ("audio", "ogg"),
    ("audio", "headers"),
    ("metrics", "manifest.PRESENT"),
    ("cli", "config"),
    ("cli", "config.ConfigError"),
}  # (who, what) beyond that on level 0
ONLY_SCRIPTS = {
    "config",
    "cli",
    "run_config",
}  # nothing below the entry points knows of configs or command lines
NETWORKS = {"backbones", "reprogrammers", "heads"}
DATA = {"data", "manifest", "corpora", "audio", "features"}
WITHOUT_TORCH = [
    "metrics",
    "manifest",
    "config",
    "pretrained",
    "processes",
    "runs",
    "cli",
    "run_config",
    "run_folder",
    "data.feature_store",
    "report",
    "corpora",
]


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def scripts():
    return sorted((ROOT / "src").glob("*.py"))


def parts(path):
    """The module's place below ast_repr: ("corpora", "openmic"), ("corpora",) for the room itself, ("training", "trainer")."""
    own = path.relative_to(PACKAGE).with_suffix("").parts
    return own[:-1] if own[-1] == "__init__" else own


def imports(path):
    """What a module imports from ast_repr, absolute or relative, anywhere in it: tuples of names below ast_repr."""
    package = path.relative_to(PACKAGE).parent.parts if path.is_relative_to(PACKAGE) else ()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in (alias.name.split(".") for alias in node.names):
                if name[0] == "ast_repr":
                    yield tuple(name[1:])
        elif isinstance(node, ast.ImportFrom):
            module = tuple((node.module or "").split(".")) if node.module else ()
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif module[:1] == ("ast_repr",):
                base, module = (), module[1:]
            else:
                continue
            for alias in node.names:
                yield (*base, *module, alias.name)


def ids(path):
    return path.relative_to(ROOT / "src").as_posix()


def test_every_room_and_module_has_a_level():
    found = {parts(path)[0] for path in modules() if parts(path)}
    assert found <= LEVELS.keys(), f"give a level to {found - LEVELS.keys()}"


@pytest.mark.parametrize("path", modules(), ids=ids)
def test_imports_point_only_downwards(path):
    own = parts(path)
    room = own[0] if own else None
    for target in imports(path):
        assert room and target and target[0] in LEVELS, f"{target} is no part of ast_repr"
        if target[0] == room:
            continue
        if LEVELS[room] or LEVELS[target[0]]:
            assert LEVELS[target[0]] < LEVELS[room], (
                f"{room} (level {LEVELS[room]}) imports {target[0]} (level {LEVELS[target[0]]})"
            )
        else:
            assert target[0] in SHARED or (room, ".".join(target)) in ALSO, (
                f"{room} imports {'.'.join(target)} of its own level"
            )


@pytest.mark.parametrize("path", modules(), ids=ids)
def test_only_scripts_know_configs_and_command_lines(path):
    used = {target[0] for target in imports(path)} & ONLY_SCRIPTS
    assert not used or parts(path)[0] in ONLY_SCRIPTS, used


@pytest.mark.parametrize(
    "path",
    [path for path in modules() if parts(path) and parts(path)[0] in NETWORKS | DATA],
    ids=ids,
)
def test_networks_and_data_do_not_know_each_other(path):
    others = DATA if parts(path)[0] in NETWORKS else NETWORKS
    assert not {target[0] for target in imports(path)} & others


def test_scripts_do_not_import_each_other():
    names = {path.stem for path in scripts()}
    for path in scripts():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not names & set(found), path.name


@pytest.mark.parametrize("path", scripts(), ids=ids)
def test_a_script_guards_its_imports_first(path):
    """So that Ctrl-C during them, which takes seconds, is one line."""
    _, guard, *rest = ast.parse(path.read_text(encoding="utf-8")).body
    assert ast.unparse(guard).splitlines() == [
        "if __name__ == '__main__':",
        "    from ast_repr import cli",
        "    cli.guard_imports()",
    ]
    assert ast.unparse(rest[-1]).endswith("cli.run(main, parse())")


def test_the_import_finder_sees_every_form(tmp_path):
    """The rules above are worth what `imports` finds."""
    path = PACKAGE / "corpora" / "imagined.py"
    lines = [
        "from .. import atomic",
        "from ..manifest import Clip",
        "from .remote import Remote",
        "import ast_repr.training.trainer",
    ]
    source = "\n".join([*lines, "def f():", "    from ast_repr.heads import x"])
    imagined = type("Imagined", (type(path),), {"read_text": lambda self, **_: source})(path)
    assert list(imports(imagined)) == [
        ("atomic",),
        ("manifest", "Clip"),
        ("corpora", "remote", "Remote"),
        ("training", "trainer"),
        ("heads", "x"),
    ]


PROBE = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    module = importlib.import_module(f"ast_repr.{name}")
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        importlib.import_module(f"ast_repr.{name}.{found.name}")
    heavy = {"torch", "torchaudio", "timm", "transformers"} & set(sys.modules)
    assert not heavy, f"ast_repr.{name} brings in {sorted(heavy)}"
print("light")
"""


def test_metrics_manifest_report_and_corpora_never_import_torch():
    run = subprocess.run(
        [sys.executable, "-c", PROBE, *WITHOUT_TORCH],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
    )
    assert run.stdout.strip() == "light", run.stderr


@pytest.mark.parametrize("path", [*modules(), *scripts()], ids=ids)
def test_no_module_edits_the_path_or_works_when_imported(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    attributes = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert "sys.path" not in attributes and "site.addsitedir" not in attributes
    assert not any(
        isinstance(node, ast.ImportFrom)
        and node.module == "sys"
        and any(a.name == "path" for a in node.names)
        for node in ast.walk(tree)
    )
    assert ast.get_docstring(tree), "a file says at its top what it is for"
    for node in tree.body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"line {node.lineno} runs at import"
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) == "__name__ == '__main__'", (
                f"line {node.lineno} runs at import"
            )
        assert not isinstance(node, (ast.For, ast.While, ast.With, ast.Try)), (
            f"line {node.lineno} runs at import"
        )


def top_level():
    """Visible entries at the top: those that git tracks, or, in a copy without git, those that are not ignored."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True
        ).stdout
        return {
            name.split("/")[0] for name in listed.split("\0") if name and not name.startswith(".")
        }
    ignored = [
        line.rstrip("/")
        for line in (ROOT / ".gitignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    return {
        p.name
        for p in ROOT.iterdir()
        if not p.name.startswith(".")
        and not any(fnmatch.fnmatch(p.name, pattern) for pattern in ignored)
    }


def test_the_top_level_holds_nothing_else():
    assert top_level() <= VISIBLE
    assert {name for name in VISIBLE if (ROOT / name).exists()} == VISIBLE


def test_every_test_file_says_what_it_tests():
    others = {
        "conftest.py",
        "make_audio.py",
        "make_golden.py",
        "run.sh",
        "golden",
        "bench",
        "faults",
        "__pycache__",
    }
    assert {
        path.name for path in (ROOT / "tests").iterdir() if not path.name.startswith(("test_", "."))
    } <= others
