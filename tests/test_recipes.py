"""Recipes: options are checked, stages are called with them, the caller's shell stays as it is.

A copied recipe runs stub stages that record their arguments; options and environment are real.
"""

import ast
import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from helpers import restore_signals, wait_until

import options
from ast_repr import choices, config
from ast_repr.options import UsageError

ROOT = Path(__file__).parents[1]
CONFS = ROOT / "egs" / "openmic" / "conf"
SCRIPTS = (
    "egs/recipe.sh",
    "egs/environment.sh",
    "egs/child.sh",
    "egs/slurm.sh",
    "egs/openmic/run.sh",
    "egs/custom/run.sh",
    "egs/irmas/run.sh",
    "egs/magnatagatune/run.sh",
    "egs/pretrain/run.sh",
    "egs/instruments/run.sh",
    "tests/run.sh",
    ".ci/run",
)
OPTIONS = (
    "options.py",
    "ast_repr/__init__.py",
    "ast_repr/choices.py",
    "ast_repr/escaping.py",
    "ast_repr/options.py",
)
STAGES = ("fetch", "prepare", "extract", "train", "score", "report")
STUB = """
import json, os, sys, time
from pathlib import Path
stage = Path(__file__).stem
with open("calls", "a") as file:
    print(json.dumps([stage, *sys.argv[1:]]), file=file)
Path("command").write_text(os.environ["AST_REPR_COMMAND"])
if stage == "fetch":
    corpus = ("synthetic", "synthetic", "data/synthetic/openmic-2018")
    if "openmic" in sys.argv:
        corpus = ("openmic", "openmic", "data/openmic-2018")
    if "--manifest" in sys.argv:
        corpus = ("custom", "songs", "songs.csv")
    print(*corpus, "ast_tiny_synth", "tiny.safetensors", sep="\\t")
if Path("sleep_" + stage).exists():
    try:
        print("asleep", flush=True)
        Path("asleep_" + stage).touch()
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
sys.exit(3 if Path("fail_" + stage).exists() else 0)
"""
PYPROJECT = '[project]\nrequires-python = ">=3.11"\ndependencies = ["packaging"]\n'
# The state of the caller's shell, without variables that bash itself changes all the time.
SNAPSHOT = r"""snapshot() {
    local CHANGING="_|BASH_\w+|EPOCH\w+|S?RANDOM|SECONDS|LINENO|PIPESTATUS|FUNCNAME"
    declare -p | grep -vE "^declare -\S+ ($CHANGING)\b"
    set +o; shopt; trap; declare -f; pwd; echo "$-" "$@"; }"""


@pytest.fixture
def recipe(tmp_path):
    """egs/openmic of a copy of the project (in a folder with a space) whose stages are stubs."""
    project = tmp_path / "a project"
    shutil.copytree(ROOT / "egs", project / "egs", ignore=shutil.ignore_patterns("data", "exp"))
    (project / "src" / "ast_repr").mkdir(parents=True)
    for name in OPTIONS:
        shutil.copy(ROOT / "src" / name, project / "src" / name)
    for stage in (*STAGES, "check"):
        (project / "src" / f"{stage}.py").write_text(STUB)
    (project / "pretrained_models").mkdir()
    shutil.copy(ROOT / "pretrained_models" / "index.yaml", project / "pretrained_models")
    (project / "pyproject.toml").write_text(PYPROJECT)
    return project / "egs" / "openmic"


@pytest.fixture
def env(tmp_path):
    """An empty HOME, and this Python as the active one."""
    return {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": "dumb",
    }


def bash(command, cwd, env, *args):
    return subprocess.run(
        ["bash", "-c", command, "bash", *args],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def calls(recipe):
    """The recorded calls of stages: [(stage, {option: value or None or list of values}), ...]."""
    recorded = []
    for line in (recipe / "calls").read_text().splitlines():
        stage, *words = json.loads(line)
        given = {}
        for word in words:
            if word.startswith("--"):
                option = word
                given.setdefault(option, [])
            else:
                given[option].append(word)
        recorded.append((stage, given))
    return recorded


def stages_called(recipe):
    return [stage for stage, _ in calls(recipe)]


def start(command, cwd, env, tty=None):
    """Start a shell in a new process group that does not ignore Ctrl-C; `tty`: its terminal."""

    def become_leader():
        restore_signals()
        if tty is not None:
            fcntl.ioctl(tty, termios.TIOCSCTTY, 0)

    streams = {
        "stdin": tty,
        "stdout": subprocess.PIPE if tty is None else tty,
        "stderr": subprocess.STDOUT if tty is None else tty,
    }
    streams |= {
        "start_new_session": True,
        "preexec_fn": become_leader,
        "pass_fds": [tty] if tty else [],
    }
    return subprocess.Popen(command, cwd=cwd, env=env, **streams)


def read_until(fd, text):
    """Read from `fd` up to and including `text`."""
    seen, end = b"", time.monotonic() + 120
    while text not in seen:
        assert time.monotonic() < end, seen
        seen += os.read(fd, 4096)
    return seen


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse(script):
    assert subprocess.run(["bash", "-n", ROOT / script], capture_output=True).returncode == 0


USAGE_ERRORS = [
    ("--bakbone auto", "option '--bakbone': did you mean '--backbone'?"),
    ("--data_root x", "did you mean '--data-root'?"),
    ("--recomp", "option '--recomp': did you mean '--recompute'?"),
    ("stray", "option 'stray'"),
    ("--from trian", "--from: .*'trian': did you mean 'train'?"),
    ("--from score --to train", "--from score .* --to train"),
    ("--corpus openmik", "--corpus: .*did you mean 'openmic'?"),
    ("--protocol=papr", "did you mean 'paper'?"),
    ("--conf ast_linear,ast_unt", "conf 'ast_unt': did you mean 'ast_unet'?"),
    ("--conf published", "conf 'published'"),
    ("--seeds", "--seeds: "),
    ("--conf --seeds 0", "--conf: "),
    ("--conf=", "--conf=: "),
    ("--data-root ''", "expected a value"),
    ("--seeds 0,x", "--seeds: .*'0,x'"),
    ("--clips 0", "--clips: .*'0'"),
    ("--nj -1", "--nj: .*'-1'"),
    ("--ngpu 0", "--ngpu: .*'0'"),
    ("--features-in ram", "--features-in: .*'ram'.* auto, device, disk, memory"),
    ("--recompute=1", "--recompute: .*'1'"),
    ("--jobs two", "--jobs: .*'two'"),
    ("--device gpu", "--device: .*'gpu'"),
    ("--set lr", "--set: .*'lr', expected section.key=value"),
    ("--debug=1", "--debug: .*'1'"),
]


def refuse(corpora, words, message):
    """Assert that the options of a recipe are refused with a message."""
    recipe = ["--name", "openmic", "--corpora", corpora, "--conf", "ast_linear"]
    recipe += ["--conf-dir", str(CONFS), "--called-from", "/"]
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        options.main([*recipe, "--", *shlex.split(words)])


@pytest.mark.parametrize("words, message", USAGE_ERRORS)
def test_usage_errors(words, message):
    refuse("auto,synthetic,openmic", words, message)


@pytest.mark.parametrize(
    "words, message",
    [
        ("", "no --manifest"),
        ("--manifest", "--manifest: "),
        ("--manifset songs.csv", "did you mean '--manifest'?"),
        ("--manifest songs.csv --corpus openmic", "option '--corpus'"),
        ("--manifest songs.csv --clips 9", "option '--clips'"),
        ("--manifest songs.csv --conf ast_unt", "did you mean 'ast_unet'?"),
    ],
)
def test_usage_errors_of_custom_data(words, message):
    refuse("custom", words, message)


def test_a_usage_error_is_one_line_before_anything_runs(recipe, env):
    run = bash("source run.sh --set lr; echo rc $?", recipe, env)
    assert run.stdout == "rc 2\n"
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    assert not (recipe / "calls").exists()


def test_a_recipe_hands_over_its_default_corpus(capsys):
    recipe = ["--name", "irmas", "--corpora", "irmas_synthetic,irmas", "--conf", "ast_linear"]
    recipe += ["--conf-dir", str(CONFS), "--called-from", "/"]
    options.main([*recipe, "--"])
    assert "fetch_options=(--corpus irmas_synthetic" in capsys.readouterr().out
    options.main([*recipe, "--", "--corpus", "irmas", "--data-root", "copy"])
    assert "--corpus irmas --data-root /copy" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--clips"):
        options.main([*recipe, "--", "--clips", "500"])


def test_help_names_options_stages_and_confs(recipe, env):
    run = bash("bash run.sh --nope x --help", recipe, env)
    assert run.returncode == 0 and not run.stderr
    for word in ("--data-root", "--overwrite", *STAGES, "ast_unet_residual", "normalisation"):
        assert word in run.stdout


def test_names_of_studies_are_found_without_a_yaml_parser():
    assert choices.studies(CONFS) == list(config.studies(CONFS))


def test_options_need_no_environment(recipe, env, tmp_path):
    """A Python without any package is enough for --help and for usage errors; nothing is built."""
    python = tmp_path / "bare" / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S "$@"\n')
    python.chmod(0o755)
    env = env | {"PATH": f"{python.parent}:{env['PATH']}"}
    run = bash("source run.sh --help", recipe, env)
    assert run.returncode == 0 and "--overwrite" in run.stdout and not run.stderr
    run = bash("source run.sh --device gpu", recipe, env)
    assert run.returncode == 2 and "--device" in run.stderr
    assert not (recipe.parents[1] / ".venv").exists()


@pytest.mark.parametrize("name", OPTIONS)
def test_options_can_be_read_by_python_3_8(name):
    ast.parse((ROOT / "src" / name).read_text(encoding="utf-8"), feature_version=(3, 8))


def test_options_reach_the_stages_that_use_them(recipe, env):
    words = (
        "--clips=400 --data-root 'my data' --conf ast_linear --seeds 0,1 --nj 2 --ngpu 4 --jobs 3 "
        "--features-in=disk --recompute --set train.epochs=2 --set=a.b=c=d --device cpu "
        "--allow-missing 5 --protocol paper --overwrite"
    )
    command = f"bash 'a project/egs/openmic/run.sh' {words}"
    run = bash(command, recipe.parents[2], env)
    assert run.returncode == 0, run.stderr
    called = dict(calls(recipe))
    assert list(called) == ["fetch", "check", *STAGES[1:]]
    assert called["fetch"] == {
        "--data": ["data"],
        "--clips": ["400"],
        "--data-root": [f"{recipe.parents[2]}/my data"],  # relative to the caller's directory
    }
    assert called["prepare"]["--clips"] == ["400"]
    for stage in ("prepare", "extract"):
        assert called[stage]["--data"] == ["data/synthetic"]
        assert called[stage]["--nj"] == ["2"] and called[stage]["--allow-missing"] == ["5"]
    for stage in ("check", "extract", "train", "score"):
        assert called[stage]["--conf"] == ["ast_linear"]
        assert called[stage]["--corpus"] == ["synthetic"]
        assert called[stage]["--backbone"] == ["ast_tiny_synth"]
        assert called[stage]["--protocol"] == ["paper"]
        assert called[stage]["--set"] == ["train.epochs=2", "a.b=c=d"]
    for stage in ("train", "score"):
        assert called[stage]["--exp"] == ["exp/synthetic-paper"]
        assert called[stage]["--seeds"] == ["0,1"] and called[stage]["--device"] == ["cpu"]
        assert called[stage]["--weights"] == ["tiny.safetensors"]
    training = {"--ngpu": ["4"], "--jobs": ["3"], "--features-in": ["disk"]}
    training |= {"--recompute": [], "--overwrite": []}
    assert training.items() <= called["train"].items()
    assert not training.keys() & called["score"].keys()
    assert called["report"]["--exp"] == ["exp/synthetic-paper"]
    assert called["report"]["--out"] == ["exp/synthetic-paper/RESULTS.md"]
    assert (recipe / "command").read_text() == shlex.join(["source", "run.sh", *shlex.split(words)])
    assert re.search(r"^\[\d+ s\] train: ast_linear; ast_tiny_synth on synthetic", run.stdout, re.M)


def test_a_training_option_is_declared_in_one_place(recipe, env):
    """Its declaration brings it into --help and to the stage; the other place is its use."""
    path = recipe.parents[1] / "src" / "ast_repr" / "options.py"
    place = "def add_training_options(parser) -> None:\n"
    source = path.read_text(encoding="utf-8")
    assert place in source
    declaration = '    parser.add_argument("--momentum", type=float, default=0.9)\n'
    path.write_text(source.replace(place, place + declaration), encoding="utf-8")
    assert "--momentum" in bash("bash run.sh --help", recipe, env).stdout
    assert bash("bash run.sh --momentum 0.5", recipe, env).returncode == 0
    called = dict(calls(recipe))
    assert [stage for stage in called if "--momentum" in called[stage]] == ["train"]
    assert called["train"]["--momentum"] == ["0.5"]


def test_only_the_published_archive_is_checked_for_its_counts(recipe, env):
    for words, genuine in (("--corpus openmic", True), ("--corpus synthetic", False)):
        assert bash(f"bash run.sh {words} --to prepare", recipe, env).returncode == 0
        stage, given = calls(recipe)[-1]
        assert stage == "prepare" and ("--genuine" in given) == genuine


@pytest.mark.parametrize("data_root", ["~/x", "$HOME/x"])
def test_a_home_directory_is_expanded(recipe, env, data_root):
    assert bash(f"bash run.sh --to fetch --data-root={data_root}", recipe, env).returncode == 0
    assert dict(calls(recipe))["fetch"]["--data-root"] == [f"{env['HOME']}/x"]


def test_a_dry_run_trains_and_scores_nothing(recipe, env):
    assert bash("bash run.sh --dry-run", recipe, env).returncode == 0
    assert stages_called(recipe) == ["fetch", "check", "prepare", "train"]
    assert "--dry-run" in calls(recipe)[-1][1]


def test_custom_data_uses_the_configs_of_openmic(recipe, env):
    custom = recipe.with_name("custom")
    words = "--manifest 'my songs.csv' --conf ast_linear,normalisation --nj 2"
    run = bash(f"source custom/run.sh {words}", recipe.parent, env)
    assert run.returncode == 0, run.stderr
    called = dict(calls(custom))
    assert list(called) == ["fetch", "check", *STAGES[1:]]
    assert called["fetch"]["--manifest"] == [f"{recipe.parent}/my songs.csv"]
    assert called["prepare"]["--corpus"] == ["custom"]
    assert called["prepare"]["--root"] == ["songs.csv"]
    assert called["train"]["--conf-dir"] == ["../openmic/conf"]
    assert called["train"]["--conf"] == ["ast_linear,normalisation"]
    assert called["train"]["--exp"] == ["exp/songs"]


def test_help_names_the_options_of_its_recipe(recipe, env):
    custom = bash("bash custom/run.sh --help", recipe.parent, env).stdout
    openmic = bash("bash openmic/run.sh --help", recipe.parent, env).stdout
    assert "--manifest" in custom and "--data-root" not in custom and "ast_unet_residual" in custom
    assert "--manifest" not in openmic and "--data-root" in openmic


def test_from_and_to_choose_stages_and_fetch_always_runs(recipe, env):
    assert bash("source run.sh --from extract --to train --debug", recipe, env).returncode == 0
    assert stages_called(recipe) == ["fetch", "check", "extract", "train"]
    assert all("--debug" in given for _, given in calls(recipe))


def test_a_wrong_conf_ends_the_recipe_before_any_stage_that_takes_long(recipe, env):
    (recipe / "fail_check").touch()
    run = bash("source run.sh; echo rc $?", recipe, env)
    assert run.stdout.endswith("rc 3\n") and "check failed (exit 3)" in run.stderr
    assert stages_called(recipe) == ["fetch", "check"]


PREVIEW = "logmel_statistics,ast_linear,ast_linear_raw"
TABLE = ["train", "score", "report"]


def test_the_default_confs_give_a_first_table_before_the_others_are_trained(recipe, env):
    assert bash("source run.sh --seeds 0,1", recipe, env).returncode == 0
    assert stages_called(recipe) == ["fetch", "check", "prepare", "extract", *TABLE, *TABLE]
    *_, train, score, report = calls(recipe)[:-3]
    for stage, given in (train, score, report):
        assert given["--conf"][-1] == PREVIEW, stage
    assert train[1]["--seeds"] == score[1]["--seeds"] == ["0,1"]
    for _, given in calls(recipe)[-3:]:
        assert given["--conf"] == [f"{PREVIEW},ast_unet"]


def test_a_first_table_is_not_made_twice(recipe, env):
    (recipe / "exp" / "synthetic").mkdir(parents=True)
    (recipe / "exp" / "synthetic" / "RESULTS.md").touch()
    assert bash("source run.sh --from train", recipe, env).returncode == 0
    assert stages_called(recipe) == ["fetch", "check", *TABLE]


def test_what_needs_no_conf_is_not_checked(recipe, env):
    assert bash("source run.sh --from score", recipe, env).returncode == 0
    assert stages_called(recipe) == ["fetch", "score", "report"]


@pytest.mark.parametrize(
    "setup, options, code",
    [(":", "", 0), (":", "--nope x", 2), ("touch fail_train", "--seeds 1", 3)],
)
def test_sourcing_leaves_the_shell_as_it_was(recipe, env, setup, options, code):
    script = f"""{SNAPSHOT}
        {setup}; x='keep me' conf=mine root=mine; set -u; shopt -s nullglob; trap 'echo bye' USR1
        cd ..
        snapshot "$@" >/dev/null; snapshot "$@" >before
        source openmic/run.sh {options}; echo "rc $?"
        snapshot "$@" >after; diff before after && echo same"""
    run = bash(script, recipe, env, "--its", "own arguments")
    assert run.stdout.endswith(f"rc {code}\nsame\n"), run.stdout + run.stderr
    assert (f"train failed (exit {code})" in run.stderr) == (code == 3)
    if code == 3:
        assert stages_called(recipe)[-1] == "train"


def test_ctrl_c_in_an_interactive_shell(recipe, env):
    (recipe / "sleep_prepare").touch()
    terminal, tty = pty.openpty()
    shell = start(["bash", "--norc", "--noediting", "-i"], recipe, env, tty)
    try:
        os.write(terminal, b"x=kept; before=$-; source run.sh --from trian; echo first=$?\n")
        read_until(terminal, b"first=2")
        os.write(terminal, b"source run.sh\n")
        read_until(terminal, b"asleep")
        os.write(terminal, b"\x03")
        os.write(terminal, b'echo "second=$? $x ${PWD##*/}" $([ "$before" = "$-" ] && echo same)\n')
        assert b"second=130 kept openmic same" in read_until(terminal, b" same\r\n")
        assert stages_called(recipe) == ["fetch", "check", "prepare"]
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)
        os.close(tty)


@pytest.mark.parametrize("command", ["source run.sh; echo rc $?", "bash run.sh; echo rc $?"])
def test_sigint_gives_130_and_no_stage_survives(recipe, env, command):
    (recipe / "sleep_train").touch()
    shell = start(["bash", "-c", command], recipe, env)
    read_until(shell.stdout.fileno(), b"asleep")
    os.killpg(shell.pid, signal.SIGINT)
    output = shell.communicate(timeout=120)[0]  # ends when all processes of the group have ended
    assert re.fullmatch(rb"\[\d+ s\] train interrupted; .*\nrc 130\n", output)


@pytest.mark.parametrize("stage", ["fetch", "train"])
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_recipe_that_is_ended_ends_its_stage(recipe, env, stage, number, code):
    (recipe / f"sleep_{stage}").touch()
    shell = start(["bash", "run.sh"], recipe, env)
    wait_until((recipe / f"asleep_{stage}").exists, shell)
    shell.send_signal(number)  # to the shell alone
    output = shell.communicate(timeout=120)[0]  # ends when no process has the pipe open any more
    assert shell.returncode == code and f"{stage} terminated".encode() in output


@pytest.mark.parametrize("name", ["openmic", "custom", "pretrain", "instruments"])
@pytest.mark.parametrize("command", ["dash {}", "dash -c '. {}; echo alive $?'"])
def test_other_shells_are_told(env, name, command):
    if not shutil.which("dash"):
        pytest.skip("no dash here")
    run = subprocess.run(
        command.format(ROOT / "egs" / name / "run.sh"),
        shell=True,
        env=env,
        capture_output=True,
        text=True,
    )
    assert run.stderr == "error: found another shell, expected bash; run: bash run.sh\n"
    assert run.stdout == "alive 2\n" if "alive" in command else run.returncode == 2


def test_a_python_that_does_not_run_is_passed_over(recipe, env, tmp_path):
    (tmp_path / "shims").mkdir()
    (tmp_path / "shims" / "python3").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "shims" / "python3").chmod(0o755)
    run = bash(
        "source run.sh --to fetch", recipe, env | {"PATH": f"{tmp_path / 'shims'}:{env['PATH']}"}
    )
    assert run.returncode == 0 and not (recipe.parents[1] / ".venv").exists(), run.stderr


def test_the_environment_can_be_created_by_python_3_14(env, tmp_path):
    python = tmp_path / "python3.14"
    python.write_text('#!/bin/sh\n[ "$1" = -c ]\n')
    python.chmod(0o755)
    command = f"root={shlex.quote(str(ROOT))}; source $root/egs/environment.sh; base_python"
    run = bash(command, tmp_path, env | {"PATH": f"{tmp_path}:{env['PATH']}"})
    assert run.stdout == f"{python}\n"


def test_no_python_is_one_line(recipe, env, tmp_path):
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "dirname", "basename", "nproc", "flock"):
        if shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    run = bash("source run.sh; echo rc $?", recipe, env | {"PATH": str(tmp_path / "bin")})
    assert run.stdout == "rc 1\n" and re.fullmatch(
        r"error: no Python 3.11 to 3.14 found on PATH; .*\n", run.stderr
    )


def test_zsh_runs_a_recipe_in_bash(recipe, env):
    if not shutil.which("zsh"):
        pytest.skip("no zsh here")
    for command in ("cd ..; source openmic/run.sh --to fetch; echo rc $?", "zsh run.sh --to fetch"):
        run = subprocess.run(
            ["zsh", "-c", command], cwd=recipe, env=env, capture_output=True, text=True
        )
        assert stages_called(recipe) == ["fetch"] and not run.stderr
        (recipe / "calls").unlink()
