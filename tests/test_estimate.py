"""The cost of a run is scaled from a few of its steps; nothing is left behind."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import plain_config

import train as stage
from ast_repr import checkpoint, cli, distributed, manifest
from ast_repr.settings import Section
from ast_repr.training import estimate, experiment

CLASSES = ["a", "b"]


def clips(train, valid):
    splits = ["train"] * train + ["valid"] * valid
    return [
        manifest.Clip(
            f"c{i}", f"g{i}", f"c{i}.ogg", 0.0, split, {CLASSES[i % 2]: float(i // 2 % 2)}
        )
        for i, split in enumerate(splits)
    ]


def conf(name="own", seed=0):
    return plain_config(
        seed,
        name,
        run={"backbone": "none"},
        feature={"frames": 32, "bins": 16},
        reprogrammer={"name": "affine"},
        backbone={"name": "pool", "cells": [4, 4]},
        train={"epochs": 7, "patience": 1},
    )


def context(train, valid):
    return experiment.RunContext("", clips(train, valid), CLASSES, "none", "none")


@pytest.mark.slow
def test_a_run_is_tried_and_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cost = estimate.estimate(conf(), context(400, 40), torch.device("cpu"))
    assert (
        cost.epochs == 7 and cost.epoch_s > 0 and cost.seconds == cost.prepare_s + 7 * cost.epoch_s
    )
    assert 100e6 < cost.peak_bytes < 4e9  # a Python with torch, and little more
    assert cost.feature_bytes == 440 * 2 * 32 * 16
    assert not list(tmp_path.iterdir())


def test_what_few_clips_took_is_scaled_to_all(monkeypatch):
    tried = {}

    def train(trial):
        splits, _ = trial.load_splits()
        tried.update({split: len(clips) for split, clips in splits.items()})
        rows = [
            {"epoch": 1, "seconds": 100.0},
            {"epoch": 2, "seconds": 2.0},
        ]  # the first pays for what is done once
        about = {"prepare_seconds": 3.0, "shared_seconds": 2.0}
        state = {"history": rows, "about": about, "method": {}, "hashes": {}}
        checkpoint.save(trial.run.last, state)

    monkeypatch.setattr(estimate.Trial, "train", train)
    cost = estimate._try(
        conf(), context(400, 40), torch.device("cpu"), estimate.STEPS, torch.get_num_threads()
    )
    assert tried == {"train": estimate.STEPS * 4, "valid": 2}
    assert (cost.epoch_s, cost.prepare_s, cost.shared_s) == (2.0 * 25, 3.0 * 25, 2.0 * 25)


def test_a_method_s_first_stage_is_tried_too():
    method = Section("label_enhancement", {"epochs": 3})
    cost = estimate._try(replace(conf(), method=method), context(40, 8), torch.device("cpu"), 4, 1)
    assert cost.epochs == 7 and cost.epoch_s > 0


def test_the_total_counts_once_what_seeds_share(monkeypatch, capsys):
    cost = estimate.Cost(
        prepare_s=30.0, shared_s=20.0, epoch_s=1.0, epochs=10, peak_bytes=1, feature_bytes=1
    )
    monkeypatch.setattr(estimate, "estimate", lambda conf, context, device: cost)
    runs = []
    for name in ("one", "two"):
        for seed in (0, 1):
            runs.append(conf(name, seed))
    stage.print_estimate(runs, None, None)
    printed = capsys.readouterr().out
    assert "one: about 40.0 s per seed" in printed
    assert "about 2 min for 4 runs" in printed  # 2 x (20 + 2 x 20) s


@pytest.mark.parametrize(("corpus", "printed"), [("openmic", True), ("own", False)])
def test_runs_of_the_paper_print_their_cost_before_they_start(
    corpus, printed, tmp_path, backbone_file, monkeypatch, capsys
):
    cost = estimate.Cost(0.0, 0.0, epoch_s=1.0, epochs=10, peak_bytes=1, feature_bytes=1)
    monkeypatch.setattr(estimate, "estimate", lambda conf, context, device: cost)
    monkeypatch.setattr(distributed, "run", lambda *_: print("started"))
    manifest.write(tmp_path / corpus, clips(4, 2), CLASSES)
    conf_dir = Path(__file__).parents[1] / "egs" / "openmic" / "conf"
    options = f"--data {tmp_path / corpus} --exp {tmp_path / 'exp'} --conf-dir {conf_dir}"
    options += f" --conf ast_linear --backbone tiny --weights {backbone_file} --device cpu"
    cli.run(stage.main, stage.parse(), options.split())
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "started"
    assert any("about 10.0 s per seed" in line for line in lines) == printed
