"""Shared by tests: scripts called in this process, commands started in others, a plain config.

Nothing here imports torch, so that a new process imports it quickly.
"""

import signal
import subprocess
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ast_repr import cli
from ast_repr.settings import Config


def run_script(script: ModuleType, *argv: object) -> int:
    """Call a script as its command line does, and return the exit code."""
    try:
        cli.run(script.main, script.parse(), [str(argument) for argument in argv])
    except SystemExit as left:
        return left.code
    return 0


def call(capsys, script: ModuleType, *argv: object) -> tuple[int, str, str]:
    """Call a script, or a module of ast_repr.commands: (exit code, stdout, stderr)."""
    code = run_script(script, *argv)
    return code, *capsys.readouterr()


def start(command: list, **options: Any) -> subprocess.Popen:
    """Start a command as a shell would: in a new process group, with default signals.

    Args:
        command: its words; paths are allowed.
        options: of Popen, in place of these and of pipes and text.
    """
    defaults = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "start_new_session": True,
        "preexec_fn": restore_signals,
    }
    return subprocess.Popen(list(map(str, command)), **defaults | options)


def restore_signals() -> None:
    """Restore the defaults in a child: in the background SIGINT is ignored, under nohup SIGHUP."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def wait_until(condition: Callable[[], object], process: subprocess.Popen) -> None:
    """Wait until the condition holds, which it must before the process ends, within ten minutes.

    Waiting ends with the condition, so the limit costs nothing and is long for busy machines.
    """
    end = time.monotonic() + 600
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)


def fail_in_second(group, device, tasks: list) -> None:
    """Fail in the second of two processes, while the first waits for it."""
    if group.process_index == 1:
        raise ValueError("found this, expected that")
    group.wait_for_everyone()


def functions_in(graph: Any) -> set[str]:
    """Names of the autograd functions between an output's `grad_fn` and its inputs."""
    names = set()
    seen = set()
    left = [graph]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        names.add(type(node).__name__)
        left.extend(parent for parent, _ in node.next_functions)
    return names


def plain_config(seed: int = 0, name: str = "own", **sections: Any) -> Config:
    """A supervised run without augmentation of classes "a" and "b".

    Args:
        seed: of the run.
        name: of the config.
        sections: merged into those of the config, or in place of other values.
    """
    values = {
        "protocol": "clean",
        "run": {
            "conf": name,
            "seed": seed,
            "corpus": "own",
            "backbone": "tiny",
            "classes": ["a", "b"],
            "manifest_sha256": "a",
            "weights_sha256": "b",
        },
        "feature": {"name": "logmel"},
        "input": {"norm": "none"},
        "augment": {
            "mix": None,
            "noise": 0,
            "gain_db": 0,
            "time": 0,
            "freq": 0,
            "fill": "mean",
        },
        "reprogrammer": {"name": "none"},
        "head": {"name": "embedding"},
        "method": {"name": "supervised"},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "schedule": {"name": "constant"},
        "select": {"split": "valid", "metric": "macro_f1", "mode": "max"},
        "train": {
            "epochs": 3,
            "batch_size": 4,
            "micro_batch": None,
            "clip_fraction": 1.0,
            "label_fraction": 1.0,
            "probe_first": None,
            "patience": None,
            "clip_norm": None,
            "precision": "float32",
        },
    }
    for section, settings in sections.items():
        values[section] = values.get(section, {}) | settings
    return Config.from_dict(values)
