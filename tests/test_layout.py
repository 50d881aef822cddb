"""The structure of the tree: imports without cycles, networks apart from data, light modules."""

import ast
import fnmatch
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "ast_repr"
TOP_LEVEL = {
    "README.md",
    "CITATION.cff",
    "LICENSE",
    "ast_repr.yml",
    "egs",
    "pretrained_models",
    "pyproject.toml",
    "src",
    "tests",
}
NETWORKS = {"adapters", "backbones", "reprogrammers", "heads"}
DATA = {"data", "manifest", "corpora", "audio", "features"}
# Only the scripts and commands know command lines and configs.
FRONT = {"cli", "commands", "config", "options"}
WITHOUT_TORCH = [
    "cli",
    "config",
    "corpora",
    "data.feature_store",
    "manifest",
    "metrics",
    "pretrained",
    "processes",
    "report",
    "run_folder",
]
STANDARD_LIBRARY_ONLY = ["choices", "escaping", "options"]

MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "src").glob("*.py"))
STAGES = [path for path in SCRIPTS if path.stem != "options"]  # runs before any environment exists


def name_of(path):
    """Return a module's name below ast_repr: "corpora.openmic", "corpora" or ""."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def group_of(name):
    """Return the subpackage of a module, or the module itself if it is in none."""
    return name.split(".")[0]


def imports(path):
    """List what a module imports from ast_repr, anywhere in it, as names below ast_repr."""
    package = path.relative_to(PACKAGE).parent.parts if path.is_relative_to(PACKAGE) else ()
    imported = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = package[: len(package) - node.level + 1]
                module = ".".join(("ast_repr", *base, *filter(None, [module])))
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("ast_repr."):
                imported.append(name[len("ast_repr.") :])
    return imported


def script_name(path):
    return path.relative_to(ROOT / "src").as_posix()


def test_imports_have_no_cycle():
    """So there are levels, and imports point downwards."""
    graph = {}
    for path in MODULES:
        group = group_of(name_of(path))
        if group:
            used = {group_of(target) for target in imports(path)}
            graph.setdefault(group, set()).update(used - {group})
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("path", MODULES, ids=script_name)
def test_only_the_front_knows_configs_and_command_lines(path):
    used = {group_of(target) for target in imports(path)} & FRONT
    assert not used or group_of(name_of(path)) in FRONT, used


@pytest.mark.parametrize("path", MODULES, ids=script_name)
def test_networks_and_data_do_not_import_each_other(path):
    group = group_of(name_of(path))
    used = {group_of(target) for target in imports(path)}
    if group in NETWORKS:
        assert not used & DATA
    if group in DATA:
        assert not used & NETWORKS


def test_scripts_do_not_import_each_other():
    names = {path.stem for path in SCRIPTS}
    for path in SCRIPTS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not names & {alias.name for alias in node.names}, path.name
            if isinstance(node, ast.ImportFrom):
                assert node.module not in names, path.name


@pytest.mark.parametrize("path", STAGES, ids=script_name)
def test_a_script_guards_its_imports_first(path):
    """So that Ctrl-C during them, which takes seconds, is one line."""
    _, guard, *rest = ast.parse(path.read_text(encoding="utf-8")).body
    assert ast.unparse(guard).splitlines() == [
        "if __name__ == '__main__':",
        "    from ast_repr import cli",
        "    cli.guard_imports()",
    ]
    assert ast.unparse(rest[-1]).endswith("cli.run(main, parse())")


def test_the_import_finder_sees_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "corpora").mkdir()
    path = tmp_path / "corpora" / "imagined.py"
    path.write_text(
        "from .. import atomic\n"
        "from ..manifest import Clip\n"
        "from .remote import Remote\n"
        "import ast_repr.training.trainer\n"
        "def f():\n"
        "    from ast_repr.heads import x\n",
        encoding="utf-8",
    )
    assert imports(path) == [
        "atomic",
        "manifest.Clip",
        "corpora.remote.Remote",
        "training.trainer",
        "heads.x",
    ]


PROBE = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    module = importlib.import_module(f"ast_repr.{name}")
    for submodule in pkgutil.iter_modules(getattr(module, "__path__", [])):
        importlib.import_module(f"ast_repr.{name}.{submodule.name}")
    heavy = {"torch", "torchaudio", "timm", "transformers"} & set(sys.modules)
    assert not heavy, f"ast_repr.{name} imports {sorted(heavy)}"
"""


@pytest.mark.parametrize("options, names", [([], WITHOUT_TORCH), (["-S"], STANDARD_LIBRARY_ONLY)])
def test_light_modules_import_nothing_heavy(options, names):
    run = subprocess.run(
        [sys.executable, *options, "-c", PROBE, *names],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=script_name)
def test_modules_have_a_docstring_and_run_nothing_at_import(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"line {node.lineno} runs at import"
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) == "__name__ == '__main__'", f"line {node.lineno}"
        assert not isinstance(node, (ast.For, ast.While, ast.With, ast.Try)), f"line {node.lineno}"


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=script_name)
def test_no_module_edits_the_path(path):
    source = path.read_text(encoding="utf-8")
    for forbidden in ("sys.path", "site.addsitedir", "from sys import"):
        assert forbidden not in source


def top_level():
    """List the visible entries that git tracks; in a copy without git, those not ignored."""
    if (ROOT / ".git").exists():
        command = ["git", "-C", ROOT, "ls-files", "-z"]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        names = {name.split("/")[0] for name in listing.split("\0") if name}
    else:
        lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
        ignored = [line.rstrip("/") for line in lines if line and not line.startswith("#")]
        names = set()
        for path in ROOT.iterdir():
            if not any(fnmatch.fnmatch(path.name, pattern) for pattern in ignored):
                names.add(path.name)
    return {name for name in names if not name.startswith(".")}


def test_the_top_level_holds_nothing_else():
    assert top_level() == TOP_LEVEL
