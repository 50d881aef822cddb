"""Two processes give the losses, metrics and weights of one; one that fails ends the others."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState
from helpers import fail_in_second, start, wait_until

import train as stage
from ast_repr import checkpoint, cli, distributed, features, manifest, methods
from ast_repr.classifier import build_model
from ast_repr.data import feature_store
from ast_repr.data.dataset import Clips
from ast_repr.manifest import Clip
from ast_repr.run_folder import RunFolder
from ast_repr.settings import Augment, Mix, Select
from ast_repr.training import augment, optim
from ast_repr.training.trainer import Plan, Trainer

AUGMENT = partial(
    augment.augment,
    settings=Augment(
        Mix(0.5, 6.0), 0.1, gain_db=3.0, time=20, freq=8, fill="zero", stretch=0.1, semitones=2.0
    ),
    feature=features.build("logmel", frames=64, bins=32),
    fill=0.0,
)

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
NAMES = ["bass", "flute", "voice"]
EPOCHS = 2
AST = {
    "frames": 64,
    "mels": 32,
    "mean": -4.0,
    "std": 4.5,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
    "patch": 16,
    "stride": 16,
    "n_source": 10,
}
# Of networks without BatchNorm: reprogrammer, method, micro_batch.
RUNS = {
    "noise": ("noise", "supervised", None),
    "micro-batches": ("noise", "supervised", 3),
    "linear": ("none", "supervised", None),
    "mean teacher": ("noise", "mean_teacher", 3),
    "label enhancement": ("none", "label_enhancement", None),
    "one, two, one": ("noise", "supervised", None),
}
SHORT = ["--set", "train.epochs=2", "--set", "train.precision=float32"]
RUN = Path("ast_linear") / "seed0" / "last.pt"
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    # Without --multi_gpu, Accelerate starts one process on a CPU.
    "accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
}
RESUMED = "one, two, one"  # its epochs are made by one, two and one process


def clips(count, seed, split):
    """Random log-mels, about half of their labels observed; some clips have none."""
    rng = np.random.default_rng(seed)
    listed = []
    for i in range(count):
        labels = {name: float(rng.random()) for name in NAMES if rng.random() < 0.5}
        listed.append(Clip(f"{split}{i}", f"artist {i}", f"{i}.ogg", 0.0, split, labels))
    logmels = rng.normal(-4.0, 4.5, (count, 1, 64, 32)).astype(np.float16)
    return Clips(listed, NAMES, torch.from_numpy(logmels).__getitem__)


def build_trainer(folder, name, epochs, group):
    reprogrammer, method, micro_batch = RUNS[name]
    torch.manual_seed(0)
    model = build_model(
        NAMES,
        "backbone",
        {"name": reprogrammer},
        {"name": "ast", "options": AST, "file": None, "seed": 0, "finetune": False},
        {"name": "embedding"},
    )
    # Adam's first steps are full ones even for gradients that are rounding alone.
    optimizer = optim.build("sgd", model, 0.05, momentum=0.9)
    select = Select("valid", "map", "max")
    plan = Plan(epochs, 5, micro_batch, None, 1.0, {"name": "constant"}, select, seed=7)
    run = RunFolder(folder / name)
    run.path.mkdir(parents=True, exist_ok=True)
    return Trainer(
        methods.build(method, model=model),
        optimizer,
        plan,
        run,
        CPU,
        augment=AUGMENT,
        group=group,
    )


def train(folder, epochs, group, device, names):
    """Eleven clips in batches of five: the last batch has fewer clips than two processes."""
    torch.set_num_threads(1)
    for name in names:
        build_trainer(folder, name, epochs, group).fit(clips(11, 0, "train"), clips(9, 1, "valid"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folders of runs by one process, and by two."""
    alone = tmp_path_factory.mktemp("one")
    shared = tmp_path_factory.mktemp("two")
    train(alone, EPOCHS, PartialState(), CPU, [name for name in RUNS if name != RESUMED])
    train(alone, EPOCHS + 1, PartialState(), CPU, [RESUMED])
    train(shared, EPOCHS - 1, PartialState(), CPU, [RESUMED])
    distributed.run(partial(train, shared, EPOCHS), list(RUNS), [[CPU, CPU]])
    train(shared, EPOCHS + 1, PartialState(), CPU, [RESUMED])
    return alone, shared


def flatten(value):
    """All tensors and numbers in nested dicts, one after the other."""
    if isinstance(value, dict):
        parts = [flatten(value[key]) for key in sorted(value, key=str)]
        return torch.cat(parts or [torch.zeros(0)])
    return torch.as_tensor([] if value is None else value).double().flatten()


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_give_what_one_gives(name, finished):
    alone, shared = (checkpoint.load(folder / name / "last.pt") for folder in finished)
    assert len(shared["history"]) == len(alone["history"]) == EPOCHS + (name == RESUMED)
    assert (flatten(shared["method"]) - flatten(alone["method"])).abs().max() <= 1e-6
    for two, one in zip(shared["history"], alone["history"], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-6)
        assert two.get("valid") == pytest.approx(one.get("valid"), abs=1e-6)


@pytest.mark.parametrize("micro_batch", [None, 1, 3])
def test_every_process_takes_the_same_steps_and_every_row_counts_once(micro_batch, tmp_path):
    train_clips = clips(11, 0, "train")
    assert not train_clips.mask.any(dim=1).all()  # some clips have no label
    for rows in (1, 2, 5, 11):
        batch = train_clips.batch(torch.arange(rows))
        parts = []
        for rank in range(2):
            group = SimpleNamespace(num_processes=2, process_index=rank)
            own = build_trainer(tmp_path, "noise", 1, group)
            own.plan = Plan(**vars(own.plan) | {"micro_batch": micro_batch})
            parts.append(list(own.parts(batch)))
        assert len(parts[0]) == len(parts[1])
        for (one, weight), (two, other_weight) in zip(*parts, strict=True):
            assert weight == other_weight
            assert one.mask.any() == two.mask.any()  # both have a gradient, or none
        total = sum(weight * part.features.double().sum() for part, weight in parts[0] + parts[1])
        assert total.item() == pytest.approx(batch.features.double().sum().item())


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others():
    started = time.monotonic()
    with pytest.raises(ValueError, match="^found this, expected that$"):
        distributed.run(fail_in_second, [], [[CPU, CPU]])
    assert time.monotonic() - started < 60  # and not TIMEOUT, two days


@pytest.fixture(scope="module")
def options(tmp_path_factory, backbone_file):
    """Options of train.py for a corpus of noise."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    listed = []
    for i, split in enumerate(["train"] * 6 + ["valid"] * 3):
        labels = {name: float(i % 3 == k) for k, name in enumerate(NAMES)}
        listed.append(Clip(f"{i}", f"artist {i}", f"{i}.ogg", 0.0, split, labels))
    manifest.write(folder, listed, NAMES)
    feature_store.write_shard(
        folder / "features" / "logmel",
        0,
        rng.normal(-4.0, 4.5, (len(listed), 1, 1024, 128)).astype(np.float16),
        manifest.identities(listed, "logmel"),
        features.build("logmel").spec(),
    )
    options = f"--data {folder} --conf-dir {ROOT / 'egs' / 'openmic' / 'conf'} --conf ast_linear"
    options += f" --device cpu --backbone ast_tiny_synth --weights {backbone_file}"
    return [*options.split(), "--set", "train.batch_size=4"]


TRAIN = [sys.executable, ROOT / "src" / "train.py"]


@pytest.fixture(scope="module")
def alone(options, tmp_path_factory):
    """What last.pt holds of a run of two epochs by one process."""
    folder = tmp_path_factory.mktemp("alone")
    cli.run(stage.main, stage.parse(), [*options, *SHORT, "--exp", str(folder)])
    return checkpoint.load(folder / RUN)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_gives_what_one_process_gives(launcher, options, alone, tmp_path):
    command = [sys.executable, *LAUNCHERS[launcher], TRAIN[-1], *options, *SHORT]
    process = start([*command, "--exp", tmp_path])
    printed, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert printed.count("trainable") == 1  # the main process prints
    shared = checkpoint.load(tmp_path / RUN)
    assert (shared["about"]["processes"], alone["about"]["processes"]) == (2, 1)
    for two, one in zip(shared["history"], alone["history"], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert two["valid"] == pytest.approx(one["valid"], abs=1e-5)


@pytest.mark.slow
def test_runs_go_side_by_side_until_ctrl_c_ends_them_in_one_line(options, tmp_path):
    more = ["--set", "train.epochs=100000", "--set", "train.patience=null"]
    more += ["--exp", tmp_path, "--seeds", "0,1", "--jobs", "2"]
    process = start([*TRAIN, *options, *more])
    runs = [tmp_path / "ast_linear" / f"seed{seed}" / "last.pt" for seed in (0, 1)]
    wait_until(lambda: all(run.exists() for run in runs), process)
    os.killpg(process.pid, signal.SIGINT)
    # It returns when no process has standard error open any more.
    errors = process.communicate(timeout=240)[1]
    assert process.returncode == 130
    assert errors == "interrupted\n"


@pytest.mark.parametrize("more", [["--ngpu", "2"], ["--jobs", "2"], ["--dry-run"]])
def test_what_torchrun_decides_is_refused_under_it(more, options, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "0")  # as torchrun does in its processes
    with pytest.raises(SystemExit, match="2"):
        cli.run(stage.main, stage.parse(), [*options, "--exp", str(tmp_path), *more])
    assert capsys.readouterr().err.startswith("error: --ngpu, --jobs or --dry-run under torchrun")
