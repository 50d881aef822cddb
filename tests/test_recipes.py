"""The shell side: a sourced recipe leaves the caller's shell alone, options are checked, stages are called as agreed.

The recipe is copied beside stub stages that write down how they were called; only the environment check is the real one.
"""

import fcntl
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = (
    "egs/recipe.sh",
    "egs/environment.sh",
    "egs/openmic/run.sh",
    "egs/custom/run.sh",
    "egs/pretrain/run.sh",
    "tests/run.sh",
    ".ci/run",
)
STAGES = ("fetch", "prepare", "extract", "train", "score", "report")
STUB = """
import sys, time
from pathlib import Path
stage = Path(__file__).stem
with open("calls", "a") as file:
    print(stage, *sys.argv[1:], sep="|", file=file)
if stage == "fetch":
    corpus = ("custom", "songs", "songs.csv") if "custom" in sys.argv else ("synthetic", "synthetic", "data/synthetic/openmic-2018")
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
# Everything that a caller could miss afterwards, less what bash itself changes all the time.
SNAPSHOT = r"""snapshot() {
    declare -p | grep -vE '^declare -\S+ (_|BASH_\w+|EPOCH\w+|S?RANDOM|SECONDS|LINENO|PIPESTATUS|FUNCNAME)\b'
    set +o; shopt; trap; declare -f; pwd; echo "$-" "$@"; }"""


@pytest.fixture
def recipe(tmp_path):
    """egs/openmic of a copy of the project (in a folder with a space) whose stages are stubs."""
    project = tmp_path / "a project"
    shutil.copytree(ROOT / "egs", project / "egs", ignore=shutil.ignore_patterns("data", "exp"))
    (project / "src").mkdir()
    for stage in (*STAGES, "check"):
        (project / "src" / f"{stage}.py").write_text(STUB)
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
        timeout=60,
    )


def calls(recipe):
    return [line.split("|") for line in (recipe / "calls").read_text().splitlines()]


def start(command, cwd, env, tty=None):
    """A shell with a process group of its own, in which Ctrl-C is not ignored; with `tty`, its terminal."""

    def become_leader():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # nohup ignores the last
            signal.signal(number, signal.SIG_DFL)
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
    """What comes from `fd`, up to and with `text`."""
    seen, end = b"", time.monotonic() + 30
    while text not in seen:
        assert time.monotonic() < end, seen
        seen += os.read(fd, 4096)
    return seen


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse(script):
    assert subprocess.run(["bash", "-n", ROOT / script], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ("--bakbone auto", "unknown option '--bakbone': did you mean '--backbone'?"),
        ("--data_root x", "did you mean '--data-root'?"),
        ("stray", "unknown option 'stray'"),
        ("--from trian", "unknown stage 'trian': did you mean 'train'?"),
        ("--from score --to train", "--from score comes after --to train"),
        ("--corpus openmik", "did you mean 'openmic'?"),
        ("--protocol=papr", "did you mean 'paper'?"),
        ("--conf ast_linear,ast_unt", "unknown conf 'ast_unt': did you mean 'ast_unet'?"),
        ("--seeds", "--seeds needs a value"),
        ("--conf --seeds 0", "--conf needs a value"),
        ("--conf=", "--conf needs a value"),
        ("--seeds 0,x", "--seeds 0,x: expected whole numbers"),
        ("--clips 0", "--clips 0: expected a number of at least 1"),
        ("--nj -1", "--nj -1: expected"),
        ("--ngpu 0", "--ngpu 0: expected a number of at least 1"),
        ("--features-in ram", "unknown place 'ram': valid: auto device memory disk"),
        ("--recompute=1", "--recompute takes no value, found '1'"),
        ("--jobs two", "--jobs two: expected a number of at least 1"),
        ("--device gpu", "--device gpu: expected auto, cpu, cuda or cuda:N"),
        ("--set lr", "--set lr: expected section.key=value"),
        ("--debug=1", "--debug takes no value"),
    ],
)
def test_usage_errors(recipe, env, options, message):
    run = bash(f"source run.sh {options}; echo rc $?", recipe, env)
    assert run.stdout == "rc 2\n"
    assert (
        run.stderr.count("\n") == 1 and run.stderr.startswith("error: ") and message in run.stderr
    )
    assert not (recipe / "calls").exists()


def test_help_names_options_stages_and_confs(recipe, env):
    run = bash("bash run.sh --help", recipe, env)
    assert run.returncode == 0 and not run.stderr
    for word in ("--data-root", "--overwrite", *STAGES, "ast_unet_residual"):
        assert word in run.stdout


def test_stages_are_called_as_agreed(recipe, env):
    options = "--clips=1000 --data-root 'my data' --conf ast_linear --seeds 0,1 --nj 2 --ngpu 4 --jobs 3 --features-in=disk --recompute --compile --set train.epochs=2 --set=a.b=c=d"
    run = bash(
        f"bash 'a project/egs/openmic/run.sh' {options} --protocol paper --overwrite",
        recipe.parents[2],
        env,
    )
    assert run.returncode == 0, run.stderr
    conf = "--conf-dir conf --conf ast_linear --protocol paper --corpus synthetic --set train.epochs=2 --set a.b=c=d".split()
    data, exp = "--data data/synthetic".split(), "--exp exp/synthetic-paper".split()
    clips, allowed = ["--clips", "1000"], ["--nj", "2", "--allow-missing", "0"]
    backbone = "--backbone ast_tiny_synth --weights tiny.safetensors"
    root = f"{recipe.parents[2]}/my data"  # as seen from where the command was given
    assert calls(recipe) == [
        [
            "fetch",
            *"--corpus auto --data data --clips 1000 --data-root".split(),
            root,
            "--backbone",
            "auto",
        ],
        ["check", *conf],
        [
            "prepare",
            "--corpus",
            "synthetic",
            "--root",
            "data/synthetic/openmic-2018",
            *data,
            *clips,
            *allowed,
        ],
        ["extract", *data, *conf, *allowed],
        [
            "train",
            *data,
            *exp,
            *conf,
            *f"--seeds 0,1 {backbone} --device auto --ngpu 4 --jobs 3 --features-in disk --recompute --compile --overwrite".split(),
        ],
        ["score", *data, *exp, *conf, *f"--seeds 0,1 {backbone} --device auto".split()],
        [
            "report",
            *exp,
            *"--out exp/synthetic-paper/RESULTS.md --conf ast_linear".split(),
            *"--conf-dir conf".split(),
        ],
    ]
    assert re.search(r"^\[\d+ s\] train: ast_linear; ast_tiny_synth on synthetic", run.stdout, re.M)


def test_own_data_goes_the_same_way_with_openmics_configs(recipe, env):
    custom = recipe.with_name("custom")
    run = bash(
        "source custom/run.sh --manifest 'my songs.csv' --conf ast_linear,normalisation --nj 2",
        recipe.parent,
        env,
    )
    assert run.returncode == 0, run.stderr
    conf = "--conf-dir ../openmic/conf --conf ast_linear,normalisation --protocol clean --corpus custom".split()
    data, exp = ["--data", "data/songs"], ["--exp", "exp/songs"]
    allowed = ["--nj", "2", "--allow-missing", "0"]
    backbone = "--backbone ast_tiny_synth --weights tiny.safetensors"
    assert calls(custom) == [
        [
            "fetch",
            *"--corpus custom --data data --manifest".split(),
            f"{recipe.parent}/my songs.csv",
            "--backbone",
            "auto",
        ],
        ["check", *conf],
        ["prepare", *"--corpus custom --root songs.csv".split(), *data, *allowed],
        ["extract", *data, *conf, *allowed],
        [
            "train",
            *data,
            *exp,
            *conf,
            *f"--seeds 0 {backbone} --device auto --ngpu 1 --features-in auto".split(),
        ],
        ["score", *data, *exp, *conf, *f"--seeds 0 {backbone} --device auto".split()],
        [
            "report",
            *exp,
            *"--out exp/songs/RESULTS.md --conf ast_linear,normalisation".split(),
            *"--conf-dir ../openmic/conf".split(),
        ],
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        ("", "no --manifest, expected a CSV of own data"),
        ("--manifest", "--manifest needs a value"),
        ("--manifset songs.csv", "did you mean '--manifest'?"),
        ("--manifest songs.csv --corpus openmic", "unknown option '--corpus'"),
        ("--manifest songs.csv --clips 9", "unknown option '--clips'"),
        ("--manifest songs.csv --conf ast_unt", "did you mean 'ast_unet'?"),
    ],
)
def test_usage_errors_of_own_data(recipe, env, options, message):
    run = bash(f"bash custom/run.sh {options}", recipe.parent, env)
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and message in run.stderr
    assert not (recipe.with_name("custom") / "calls").exists()


def test_help_names_the_options_of_its_recipe(recipe, env):
    own, openmic = (
        bash(f"bash {name}/run.sh --help", recipe.parent, env).stdout
        for name in ("custom", "openmic")
    )
    assert "--manifest" in own and "--data-root" not in own and "ast_unet_residual" in own
    assert "--manifest" not in openmic and "--data-root" in openmic


def test_from_and_to_choose_stages_and_fetch_always_runs(recipe, env):
    assert bash("source run.sh --from extract --to train --debug", recipe, env).returncode == 0
    assert [call[0] for call in calls(recipe)] == ["fetch", "check", "extract", "train"]
    assert all(call[-1] == "--debug" for call in calls(recipe))


def test_a_wrong_conf_ends_the_recipe_before_any_stage_that_takes_long(recipe, env):
    (recipe / "fail_check").touch()
    run = bash("source run.sh; echo rc $?", recipe, env)
    assert run.stdout.endswith("rc 3\n") and "check of the confs failed (exit 3)" in run.stderr
    assert [call[0] for call in calls(recipe)] == ["fetch", "check"]


def test_what_needs_no_conf_is_not_checked(recipe, env):
    assert bash("source run.sh --from score", recipe, env).returncode == 0
    assert [call[0] for call in calls(recipe)] == ["fetch", "score", "report"]


@pytest.mark.parametrize(
    "setup, options, code",
    [(":", "", 0), (":", "--nope x", 2), ("touch fail_train", "--seeds 1", 3)],
)
def test_sourcing_leaves_the_shell_as_it_was(recipe, env, setup, options, code):
    script = f"""{SNAPSHOT}
        {setup}; x='keep me' conf=mine root=mine; set -u; shopt -s nullglob; trap 'echo bye' USR1; cd ..
        snapshot "$@" >/dev/null; snapshot "$@" >before
        source openmic/run.sh {options}; echo "rc $?"
        snapshot "$@" >after; diff before after && echo same"""
    run = bash(script, recipe, env, "--its", "own arguments")
    assert run.stdout.endswith(f"rc {code}\nsame\n"), run.stdout + run.stderr
    assert (f"train failed (exit {code})" in run.stderr) == (code == 3)
    if code == 3:
        assert [call[0] for call in calls(recipe)][-1] == "train"


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
        assert [call[0] for call in calls(recipe)] == ["fetch", "check", "prepare"]
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
    output = shell.communicate(timeout=30)[
        0
    ]  # the pipe ends when the last process of the group has gone
    assert re.fullmatch(rb"\[\d+ s\] train interrupted; .*\nrc 130\n", output)


@pytest.mark.parametrize("stage", ["fetch", "train"])
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_recipe_that_is_ended_ends_its_stage(recipe, env, stage, number, code):
    (recipe / f"sleep_{stage}").touch()
    shell = subprocess.Popen(
        ["bash", "run.sh"],
        cwd=recipe,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    end = time.monotonic() + 30
    while not (recipe / f"asleep_{stage}").exists():
        assert time.monotonic() < end and shell.poll() is None
        time.sleep(0.02)
    shell.send_signal(number)  # to the shell alone
    output = shell.communicate(timeout=30)[0]  # ends when no process has the pipe open any more
    assert shell.returncode == code and f"{stage} terminated".encode() in output


@pytest.mark.parametrize("name", ["openmic/run.sh", "custom/run.sh", "pretrain/run.sh"])
@pytest.mark.parametrize("command", ["dash {}", "dash -c '. {}; echo alive $?'"])
def test_other_shells_are_told(env, name, command):
    if not shutil.which("dash"):
        pytest.skip("no dash here")
    run = subprocess.run(
        command.format(ROOT / "egs" / name), shell=True, env=env, capture_output=True, text=True
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


def test_no_python_is_one_line(recipe, env, tmp_path):
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "dirname", "basename", "nproc", "flock"):
        if found := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(found)
    run = bash("source run.sh; echo rc $?", recipe, env | {"PATH": str(tmp_path / "bin")})
    assert run.stdout == "rc 1\n" and re.fullmatch(
        r"error: no Python 3.11 or 3.12 found on PATH; .*\n", run.stderr
    )
