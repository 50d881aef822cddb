"""Several processes give what one gives: losses, gradients, learned tensors, validation, resumed runs; and one that fails ends them all."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import hears_ctrl_c

import train as stage
from ast_repr import backbones, checkpoint, cli, devices, features, manifest, methods
from ast_repr.backbones import weights
from ast_repr.classifier import build_model
from ast_repr.corpora import sounds
from ast_repr.data import feature_store
from ast_repr.data.dataset import Clips
from ast_repr.distributed import launch, process_group
from ast_repr.manifest import Clip
from ast_repr.training import augment, optimizer, trainer

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
NAMES = ["bass", "flute", "voice"]
EPOCHS = 2
INPUT = {"frames": 64, "mels": 32, "mean": -4.0, "std": 4.5}
AST = INPUT | {
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
    "patch": 16,
    "stride": 16,
    "n_source": 10,
}
FRAMES = INPUT | {"steps": 8, "dropout": 0.5}
TASKS = {  # reprogrammer (None: the attention network, with dropout), method, micro_batch
    "unet": ("unet", "supervised", None),
    "cnn": ("cnn", "supervised", None),
    "noise in parts": ("noise", "supervised", 3),
    "linear": ("none", "supervised", None),
    "mean teacher in parts": ("unet", "mean_teacher", 3),
    "dropout": (None, "mean_teacher", None),
    "label enhancement": (None, "label_enhancement", None),
    "one, two, one": ("unet", "supervised", None),
}


def clips(count, seed, split):
    """Random log-mels, about half of their labels observed; some clips have none."""
    rng = np.random.default_rng(seed)
    labels = [
        {name: round(float(rng.random()), 3) for name in NAMES if rng.random() < 0.5}
        for _ in range(count)
    ]
    made = [
        Clip(f"{split}{i}", f"artist {i}", f"{i}.ogg", 0.0, split, own)
        for i, own in enumerate(labels)
    ]
    return Clips(
        made,
        NAMES,
        torch.from_numpy(rng.normal(-4.0, 4.5, (count, 1, 64, 32)).astype(np.float16)).__getitem__,
    )


def build(task, group):
    """The task's model, of which the team computes a part each, and the method that teaches it."""
    reprogrammer, method, _ = TASKS[task]
    backbone = (
        {"name": "ast", "options": AST}
        if reprogrammer
        else {"name": "frame_network", "options": FRAMES}
    )
    torch.manual_seed(0)
    model = build_model(
        NAMES,
        "backbone",
        {"name": reprogrammer or "none"},
        backbone | {"file": None, "seed": 0, "finetune": not reprogrammer},
        {"name": "embedding" if reprogrammer else "attention"},
    )
    process_group.shard_batch(model, group)
    return model, methods.build(method, model=model)


def planned(task, epochs, batch_size=5, clip_norm=1.0):
    select = {"split": "valid", "metric": "map", "mode": "max"}
    return trainer.Plan(
        epochs, batch_size, TASKS[task][2], None, clip_norm, {"name": "constant"}, select, seed=7
    )


def train(folder, epochs, group, device, tasks):
    """Eleven clips in batches of five, 21 for validation; the last batch, of one clip, leaves a process of two without a row."""
    torch.set_num_threads(1)
    for task in tasks:
        model, taught = build(task, group)
        # Adam, whose state is to be resumed, makes full steps of gradients that are rounding alone, so otherwise it is not used here.
        own = (
            optimizer.build("adamw", model, 0.001)
            if task == "one, two, one"
            else optimizer.build("sgd", model, 0.05, momentum=0.9)
        )
        (folder / task).mkdir(parents=True, exist_ok=True)
        trainer.fit(
            taught,
            own,
            clips(11, 0, "train"),
            clips(21, 1, "valid"),
            folder / task,
            planned(task, epochs),
            device,
            augment=lambda x, generator: augment.spec_augment(x, generator, time=20, freq=8),
            group=group,
        )


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """{number of processes: folder of the tasks' run folders}"""
    folders = {size: tmp_path_factory.mktemp(str(size)) for size in (1, 2)}
    train(
        folders[2], 1, process_group.SINGLE_PROCESS, CPU, ["one, two, one"]
    )  # resumed below by two processes, then by one
    launch.run(partial(train, folders[2], EPOCHS), list(TASKS), [[CPU, CPU]])
    for folder in folders.values():
        train(folder, EPOCHS + 1, process_group.SINGLE_PROCESS, CPU, ["one, two, one"])
    train(
        folders[1],
        EPOCHS,
        process_group.SINGLE_PROCESS,
        CPU,
        [task for task in TASKS if task != "one, two, one"],
    )
    return folders


def tensors(value):
    """All tensors and numbers in nested dicts, one after the other."""
    if isinstance(value, dict):
        return torch.cat(
            [tensors(value[key]) for key in sorted(value, key=str)] or [torch.zeros(0)]
        )
    return torch.as_tensor(value if value is not None else []).double().flatten()


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_give_what_one_gives(task, ended):
    one, two = (checkpoint.load(folder / task / "last.pt") for folder in ended.values())
    assert len(two["history"]) == len(one["history"]) == EPOCHS + (task == "one, two, one")
    assert (tensors(two["method"]) - tensors(one["method"])).abs().max() <= 1e-6
    for ours, theirs in zip(two["history"], one["history"]):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
        assert ours.get("valid") == pytest.approx(theirs.get("valid"), abs=1e-6)
    assert trainer.read_history(ended[2] / task) == two["history"]


def step(folder, group, device, tasks):
    """One step on all rows; the gradients that the processes have then added up, unclipped, are kept."""
    torch.set_num_threads(1)
    for task, rows in tasks:
        model, taught = build(task, group)
        own, run = optimizer.build("sgd", model, 0.05), folder / f"{task} {rows}"
        run.mkdir(parents=True, exist_ok=True)
        trainer.fit(
            taught,
            own,
            clips(rows, 3, "train"),
            clips(3, 1, "valid"),
            run,
            planned(task, 1, rows, clip_norm=None),
            device,
            group=group,
        )
        torch.save(
            {name: p.grad for name, p in model.named_parameters() if p.requires_grad},
            run / f"gradients{group.rank}.pt",
        )


def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    once = [
        task for task in TASKS if task not in ("label enhancement", "one, two, one")
    ]  # the one needs two epochs, the other is "unet"
    tasks = [(task, rows) for task in once for rows in (1, 7, 8)]
    for size in (1, 2):
        launch.run(partial(step, tmp_path / str(size)), tasks, [[CPU] * size])
    for task, rows in tasks:
        one, *two = (
            torch.load(tmp_path / name / f"{task} {rows}" / f"gradients{rank}.pt")
            for name, rank in (("1", 0), ("2", 0), ("2", 1))
        )
        largest = max(float(gradient.abs().max()) for gradient in one.values())
        assert largest > 1e-3
        for gradients in two:
            assert gradients.keys() == one.keys()
            assert (
                max(float((gradients[name] - one[name]).abs().max()) for name in one)
                <= 1e-6 * largest
            )


def test_rows_are_shared_without_gap_or_overlap():
    for size in (1, 2, 3, 5):
        for count in (0, 1, 2, 7, 16):
            shares = [
                range(count)[process_group.ProcessGroup(rank, size).rows(count)]
                for rank in range(size)
            ]
            assert [row for share in shares for row in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_only_what_learns_travels():
    backbone = {"name": "ast", "options": AST, "file": None, "seed": 0, "finetune": False}
    model = build_model(NAMES, "backbone", {"name": "unet"}, backbone, {"name": "embedding"})
    learned, channels = (
        1_285 + 64 + 33 * 3,
        4 + 8 + 8 + 4 + 1 + 1,
    )  # the head: LayerNorm and a linear layer
    assert sum(p.numel() for p in model.trainable_parameters()) == learned
    assert process_group.bytes_per_step(model, 16, 3) == 4 * (learned + 16 * 3 + 4 * channels)


def fail(how, group, device, tasks):
    if group.rank == 1 and how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if group.rank == 1:
        error = ValueError(
            "found this, expected that"
            if how != "long"
            else f"found {'x' * 200_000}, expected that"
        )
        if how == "unpicklable":
            error.frame = sys._getframe()
        raise error
    group.barrier()


@pytest.fixture
def in_time():
    """An error after a minute, in place of a wait for ever."""

    def stop(*_):
        raise TimeoutError("still waiting after a minute")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "how, error, message",
    [
        ("error", ValueError, "^found this, expected that$"),
        ("kill", RuntimeError, r"was ended \(exit -9\)"),
        ("unpicklable", RuntimeError, "^ValueError: found this, expected that$"),
        ("long", RuntimeError, "^ValueError: found xx.*xx, expected that$"),
    ],
)
def test_a_process_that_fails_ends_the_others(how, error, message, in_time):
    with pytest.raises(error) as raised:
        launch.run(partial(fail, how), [], [[CPU, CPU]])
    assert (
        type(raised.value) is error
        and re.search(message, str(raised.value))
        and len(str(raised.value)) < 5000
    )
    assert how == "kill" or "raise error" in raised.value.__notes__[0]


@pytest.mark.parametrize("concurrent_runs, runs, expected", [(None, 5, 1), (3, 5, 3), (3, 2, 2)])
def test_runs_at_once_on_the_cpu_are_as_many_as_asked(concurrent_runs, runs, expected):
    assert devices.device_groups("cpu", 2, concurrent_runs, runs) == [[CPU, CPU]] * expected


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A manifest, log-mels that are noise, and the weights of a tiny AST: (folder, options of train.py)."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    splits = ["train"] * 9 + ["valid"] * 5
    labels = [{name: float(i % 3 == k) for k, name in enumerate(NAMES)} for i in range(len(splits))]
    made = [
        Clip(f"{i}", f"artist {i}", f"{i}.ogg", 0.0, split, labels[i])
        for i, split in enumerate(splits)
    ]
    manifest.write(folder / "data", made, NAMES)
    logmels = rng.normal(-4.0, 4.5, (len(made), 1, 1024, 128)).astype(np.float16)
    feature_store.write_shard(
        folder / "data" / "features" / "logmel",
        0,
        logmels,
        manifest.identities(made, "logmel"),
        features.build("logmel").spec(),
    )
    source = backbones.build(
        "ast",
        embed_dim=32,
        depth=1,
        num_heads=2,
        stride=16,
        frames=1024,
        mels=128,
        n_source=len(sounds.CLASSES),
    )
    weights.save(source, folder / "tiny.safetensors", sounds.CLASSES)
    return folder, [
        "--data",
        folder / "data",
        "--conf-dir",
        ROOT / "egs" / "openmic" / "conf",
        "--conf",
        "ast_unet",
        "--device",
        "cpu",
        "--backbone",
        "ast_tiny_synth",
        "--weights",
        folder / "tiny.safetensors",
        "--set",
        "train.epochs=6",
        "--set",
        "train.batch_size=4",
        "--set",
        "train.precision=float32",
    ]


def start(options, by=()):
    line = [sys.executable, *by, ROOT / "src" / "train.py", *options]
    return subprocess.Popen(
        list(map(str, line)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_run_whose_process_was_killed_goes_on_and_seeds_run_side_by_side(corpus):
    folder, options = corpus
    killed = start([*options, "--exp", folder / "killed", "--ngpu", "2"])
    last, end = folder / "killed" / "ast_unet" / "seed0" / "last.pt", time.monotonic() + 120
    while not last.is_file() and killed.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    said = killed.communicate(timeout=120)[1]
    assert killed.returncode == 1 and said.rstrip().splitlines()[-1].endswith(
        "was ended (exit -9); the same command resumes there"
    )
    assert "Traceback" not in said and len(trainer.read_history(last.parent)) < 6

    resumed = start([*options, "--exp", folder / "killed", "--ngpu", "2"])
    straight = start([*options, "--exp", folder / "straight", "--seeds", "0,1", "--jobs", "2"])
    for process in (resumed, straight):
        assert (
            process.communicate(timeout=240)[0].count("trainable") in (1, 2)
            and process.returncode == 0
        )
    assert trainer.read_history(folder / "straight" / "ast_unet" / "seed1")[-1]["epoch"] == 6
    for ours, theirs in zip(
        *(
            trainer.read_history(folder / name / "ast_unet" / "seed0")
            for name in ("killed", "straight")
        ),
        strict=True,
    ):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    about = [
        checkpoint.load(folder / name / "ast_unet" / "seed0" / "last.pt")["about"]
        for name in ("killed", "straight")
    ]
    assert [own["processes"] for own in about] == [2, 1] and about[0][
        "exchanged_bytes"
    ] > 4 * about[0]["trainable_parameters"]


@pytest.mark.slow
def test_ctrl_c_while_processes_start_is_the_parents_alone(corpus):
    folder, options = corpus
    line = [
        sys.executable,
        ROOT / "src" / "train.py",
        *options,
        "--exp",
        folder / "early",
        "--ngpu",
        "2",
    ]
    process = subprocess.Popen(
        list(map(str, line)),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hears_ctrl_c,
    )
    end, children = time.monotonic() + 120, Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while (
        len(children.read_text().split()) < 3 and time.monotonic() < end
    ):  # the third keeps track of semaphores
        time.sleep(0.01)
    time.sleep(0.3)  # they import
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and said == "interrupted\n"


@pytest.mark.slow
def test_a_training_that_is_terminated_leaves_no_process(corpus):
    folder, options = corpus
    process = start([*options, "--exp", folder / "terminated", "--ngpu", "2"])
    end = time.monotonic() + 120
    while not (folder / "terminated" / "ast_unet" / "seed0" / "last.pt").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.terminate()
    # It comes when no process has standard error open any more.
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and said.endswith("terminated\n") and "Traceback" not in said


@pytest.mark.slow
def test_an_error_is_one_line_with_its_exit_code(corpus):
    folder, options = corpus
    for more, code, message in (
        (["--set", "optimizer.lr=1.0e+30"], 1, "lower optimizer.lr"),
        (["--set", "head.nope=1"], 1, "nope"),
    ):
        process = start(
            [*options, *more, "--exp", folder / "errors" / str(code) / message[:4], "--ngpu", "2"]
        )
        said = [
            line
            for line in process.communicate(timeout=120)[1].splitlines()
            if not line.startswith("\repoch") and line.strip()
        ]
        assert process.returncode == code and said[-1].startswith("error: ") and message in said[-1]
        assert not any("Traceback" in line for line in said)


@pytest.mark.slow
def test_processes_of_torchrun_give_what_one_gives(corpus):
    folder, options = corpus
    options = [*options, "--set", "train.epochs=2"]
    torchrun = start(
        [*options, "--exp", folder / "torchrun"],
        by=["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    )
    alone = start([*options, "--exp", folder / "alone"])
    for process in (torchrun, alone):
        assert (
            process.communicate(timeout=240)[0].count("trainable") == 1 and process.returncode == 0
        )  # one of the processes prints
    two, one = (
        checkpoint.load(folder / name / "ast_unet" / "seed0" / "last.pt")
        for name in ("torchrun", "alone")
    )
    assert [own["about"]["processes"] for own in (two, one)] == [2, 1]
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours["valid"] == pytest.approx(theirs["valid"], abs=1e-5)


@pytest.mark.parametrize("more", [["--ngpu", "2"], ["--jobs", "2"], ["--dry-run"]])
def test_what_torchrun_does_itself_is_refused_under_it(more, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")  # which torchrun sets in its processes
    with pytest.raises(SystemExit, match="2"):
        needed = [
            "--data",
            "none",
            "--exp",
            str(tmp_path),
            "--conf-dir",
            "none",
            "--conf",
            "ast_unet",
            "--backbone",
            "none",
            "--weights",
            "none",
        ]
        cli.run(stage.main, stage.parse(), [*needed, *more])
    said = capsys.readouterr().err
    assert (
        said.startswith("error: --ngpu, --jobs or --dry-run under torchrun")
        and said.count("\n") == 1
    )


@pytest.mark.slow
def test_a_dry_run_that_is_killed_leaves_no_process(corpus):
    folder, options = corpus
    process = start([*options, "--exp", folder / "dry", "--dry-run"])
    end, children = time.monotonic() + 120, Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while (
        len(children.read_text().split()) < 2 and time.monotonic() < end
    ):  # the other keeps track of semaphores
        time.sleep(0.01)
    time.sleep(1)  # it imports
    process.kill()
    process.communicate(timeout=60)  # it comes when no process has standard error open any more
    assert process.returncode == -signal.SIGKILL
