"""Training resumes bit-equal from any step; selection, early stop and accumulation."""

import copy
import json
from functools import partial

import pytest
import torch

from ast_repr import checkpoint, features, methods
from ast_repr.classifier import build_model
from ast_repr.run_folder import RunFolder
from ast_repr.settings import Augment, Mix, Select
from ast_repr.training import augment, optim, trainer
from ast_repr.training.trainer import Plan, Trainer

AUGMENT = partial(
    augment.augment,
    settings=Augment(
        Mix(0.5, 6.0), 0.1, gain_db=3.0, time=20, freq=8, fill="zero", stretch=0.1, semitones=2.0
    ),
    feature=features.build("logmel", frames=64, bins=32),
    fill=0.0,
)

CPU = torch.device("cpu")
PLAN = Plan(
    epochs=4,
    batch_size=5,
    micro_batch=None,
    patience=None,
    clip_norm=1.0,
    schedule={"name": "cosine", "warmup": 1},
    select=Select("valid", "map", "max"),
    seed=7,
)
ABOUT = {"classes": ["bass", "flute", "voice"]}
STEPS = 3  # an epoch: twelve clips in batches of five


def plan(**changes):
    return Plan(**(vars(PLAN) | changes))


class Method:
    """Supervised training on features with noise from torch's global generator.

    Step number `at` raises KeyboardInterrupt.
    """

    def __init__(self, method, noise, at):
        self.method, self.noise, self.left = method, noise, at

    def __getattr__(self, name):
        return getattr(self.method, name)

    def step(self, batch, epoch, whole):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        features = batch.features + self.noise * torch.randn(batch.features.shape)
        return self.method.step(batch._replace(features=features), epoch, whole)


@pytest.fixture
def start(tiny_dims, tiny_clips):
    """folder, keywords -> (history, model, optimiser) of a run on random data.

    It begins as in a new process.
    """

    def run(
        folder,
        own_plan=PLAN,
        reprogrammer="unet",
        lr=0.01,
        interrupt=None,
        train=None,
        select_on_test=False,
        name="adamw",
        noise=0.0,
        learns=True,
        relabel=None,
        writer=None,
        adapter=None,
        patchout=0.0,
    ):
        torch.manual_seed(own_plan.seed)
        model = build_model(
            ABOUT["classes"],
            "backbone",
            {"name": reprogrammer},
            {
                "name": "ast",
                "options": tiny_dims
                | {"depth": 1, "mean": -4.0, "std": 4.5, "patchout_time": patchout},
                "file": None,
                "seed": 0,
                "finetune": False,
            },
            {"name": "embedding"},
            adapter,
        )
        own = optim.build(name, model, lr)
        method = methods.build("supervised", model=model)
        valid = tiny_clips(20, 1, "valid")
        if relabel:
            relabel(valid)
        history = Trainer(
            Method(method, noise, interrupt),
            own if learns else None,
            own_plan,
            RunFolder(folder),
            CPU,
            augment=AUGMENT,
            about=ABOUT,
            writer=writer,
        ).fit(train or tiny_clips(12), None if select_on_test else valid)
        return history, model, own

    return run


def timeless(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def same(one, two):
    """Whether two nested values of tensors and numbers are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


CUTS = [
    0,
    pytest.param(1, marks=pytest.mark.slow),
    pytest.param(STEPS, marks=pytest.mark.slow),
    STEPS + 2,
    pytest.param(2 * STEPS, marks=pytest.mark.slow),
    pytest.param(4 * STEPS - 1, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("cut", CUTS, ids="at step {}".format)
def test_an_interrupted_run_ends_bit_equal(cut, start, tmp_path):
    history, model, own = start(tmp_path / "straight", noise=1.0)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "cut", interrupt=cut, noise=1.0)
    assert len(trainer.read_history(tmp_path / "cut")) == cut // STEPS
    torch.manual_seed(99)  # whatever the process drew before
    again, other, other_own = start(tmp_path / "cut", noise=1.0)
    assert timeless(again) == timeless(history) and len(history) == 4
    assert same(model.state_dict(), other.state_dict()) and same(
        own.state_dict(), other_own.state_dict()
    )
    for name in ("best.valid.map.pt", "last.pt"):
        saved = [checkpoint.load(tmp_path / run / name) for run in ("straight", "cut")]
        for state in saved:
            state["history"] = timeless(state.get("history", []))
        assert same(*saved)


def test_an_interrupted_run_with_patchout_ends_bit_equal(start, tmp_path):
    _, model, _ = start(tmp_path / "straight", patchout=0.5)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "cut", interrupt=STEPS + 2, patchout=0.5)
    _, other, _ = start(tmp_path / "cut", patchout=0.5)
    assert same(model.state_dict(), other.state_dict())
    _, complete, _ = start(tmp_path / "complete")
    assert not same(model.state_dict(), complete.state_dict())


def test_an_interrupted_run_of_an_adapter_ends_bit_equal(start, tmp_path):
    keywords = {"reprogrammer": "none", "adapter": {"name": "lora", "rank": 2}}
    _, model, _ = start(tmp_path / "straight", **keywords)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "cut", interrupt=STEPS + 2, **keywords)
    _, other, _ = start(tmp_path / "cut", **keywords)
    assert same(model.state_dict(), other.state_dict())
    assert other.adapter.updates[0].up["q"].any()


def test_a_finished_run_is_left_as_it_is(start, tmp_path):
    history, _, _ = start(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(before) == ["best.valid.map.pt", "history.jsonl", "last.pt"]
    assert start(tmp_path)[0] == history == trainer.read_history(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_history_tells_each_epoch(start, tmp_path):
    history, model, _ = start(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines == history and [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert set(history[0]["valid"]) == {"macro_f1", "positive_f1", "weighted_f1", "map", "auroc"}
    assert history[0]["lr"] == pytest.approx(0.01 * 2 / 3)  # the warm-up's last step of three
    best = checkpoint.load(tmp_path / "best.valid.map.pt")
    assert best["epoch"] == 1 + max(range(4), key=lambda i: history[i]["valid"]["map"])
    assert best["about"] == ABOUT
    assert same(
        checkpoint.load(tmp_path / "last.pt")["method"]["model"], dict(model.trainable_state_dict())
    )


def test_selection_on_test_keeps_every_epoch_and_looks_at_none(start, tmp_path):
    history, _, _ = start(
        tmp_path, plan(select=Select("test", "map", "max"), patience=1), select_on_test=True
    )
    assert len(history) == 4 and not any("valid" in row for row in history)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [
        *(f"epoch.00{k}.pt" for k in (1, 2, 3, 4)),
        "last.pt",
    ]


@pytest.mark.parametrize("patience", [1, 2])
def test_a_run_without_progress_stops_early(patience, start, tmp_path):
    history, _, _ = start(tmp_path, plan(patience=patience, epochs=9), reprogrammer="none", lr=0.0)
    assert len(history) == 1 + patience
    assert (
        start(tmp_path, plan(patience=patience, epochs=9), reprogrammer="none", lr=0.0)[0]
        == history
    )


def test_a_model_of_which_nothing_learns_is_kept_as_it_is(start, tmp_path):
    history, model, _ = start(tmp_path, learns=False)
    assert [(row["epoch"], row["loss"]) for row in history] == [(0, None)] and "map" in history[0][
        "valid"
    ]
    best = checkpoint.load(tmp_path / "best.valid.map.pt")
    assert best["epoch"] == 0 and same(best["learned"], dict(model.trainable_state_dict()))
    assert start(tmp_path, learns=False)[0] == history
    start(
        tmp_path / "test",
        plan(select=Select("test", "map", "max")),
        select_on_test=True,
        learns=False,
    )
    assert (tmp_path / "test" / "epoch.000.pt").is_file()


def test_a_validation_split_without_labels_is_an_error_before_training(start, tmp_path):
    with pytest.raises(RuntimeError, match="no clip of the validation split has a label"):
        start(tmp_path, plan(epochs=1), relabel=lambda valid: valid.mask.zero_())
    assert not RunFolder(tmp_path).last.exists()


def test_where_validation_has_labels_of_one_kind_only_the_last_epoch_is_taken(start, tmp_path):
    own = plan(epochs=3, patience=1)
    history, _, _ = start(tmp_path, own, relabel=lambda valid: valid.targets.zero_())
    assert [row["valid"]["map"] for row in history] == [None] * 3
    assert checkpoint.load(RunFolder(tmp_path).best("valid", "map"))["epoch"] == 3
    assert "the last" in trainer.describe(history, own)


def rows(*values):
    return [{"epoch": epoch, "valid": {"map": value}} for epoch, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("max", [0.1, 0.4, 0.3], 2),
        ("min", [0.3, 0.4, 0.1, 0.2], 3),
        ("max", [0.2, 0.5, 0.5], 2),
        ("min", [0.5, 0.2, 0.2], 2),
        ("max", [None, 0.1, None], 2),
        ("min", [None, 7.0], 2),
        ("max", [None, None], 2),
        ("max", [], None),
        ("max", [0.0], 1),
    ],
)
def test_the_best_epoch_is_the_earliest_of_the_best(mode, values, best):
    found = trainer.best(rows(*values), Select("valid", "map", mode))
    assert (found and found["epoch"]) == best


def test_epochs_that_nobody_looked_at_are_not_chosen_and_do_not_stop_a_run():
    history = [
        {"epoch": 1},
        {"epoch": 2},
        *({"epoch": 3 + k, "valid": {"map": 0.1}} for k in range(2)),
    ]
    assert trainer.best(history, PLAN.select)["epoch"] == 3
    assert not trainer.finished(history[:2], plan(epochs=5, patience=1))
    assert trainer.finished(history, plan(epochs=5, patience=1))


@pytest.mark.parametrize(
    ("values", "patience", "finished", "stopped_improving"),
    [
        ([], 1, False, False),
        ([0.1], 1, False, False),
        ([0.1, 0.1], 1, True, True),
        ([0.1, 0.2], 1, False, False),
        ([0.3, 0.2, 0.2], 3, False, False),
        ([0.3, 0.2, 0.2, 0.1], 3, True, True),
        ([0.3, 0.2, 0.2], None, False, False),
        ([0.1] * 4, None, False, False),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 2, True, False),
        ([0.1, 0.2, 0.3, 0.2, 0.1], 2, True, True),
    ],
)
def test_a_run_is_finished_at_its_end_or_out_of_patience(
    values, patience, finished, stopped_improving
):
    settings = plan(epochs=5, patience=patience)
    assert trainer.finished(rows(*values), settings) == finished
    assert trainer.stopped_improving(rows(*values), settings) == stopped_improving


@pytest.mark.parametrize("micro_batch", [1, 3, 5, 12, 50])
def test_accumulated_gradients_are_the_whole_batchs(micro_batch, start, tiny_clips, tmp_path):
    moved = []
    clips = tiny_clips(12)
    clips.mask[3] = False  # a clip, for size 1 a whole part, without any label
    for name, size in (("whole", None), ("parts", micro_batch)):
        torch.manual_seed(0)
        own_plan = plan(
            epochs=1, batch_size=12, micro_batch=size, clip_norm=None, schedule={"name": "constant"}
        )
        history, model, _ = start(
            tmp_path / name, own_plan, reprogrammer="none", lr=1.0, name="sgd", train=clips
        )
        moved.append(
            (
                history[0]["loss"],
                torch.cat([p.detach().flatten() for p in model.trainable_parameters()]),
            )
        )
    assert moved[0][0] == pytest.approx(moved[1][0], abs=1e-6)
    assert (moved[0][1] - moved[1][1]).abs().max() <= 1e-6


def test_gradients_are_clipped_to_the_plans_norm(start, tmp_path):
    steps = []
    for name, norm in (("free", None), ("clipped", 1e-3)):
        own_plan = plan(epochs=1, batch_size=12, clip_norm=norm, schedule={"name": "constant"})
        _, model, _ = start(
            tmp_path / name / "0", own_plan, reprogrammer="none", lr=0.0, name="sgd"
        )
        before = copy.deepcopy(model.head.state_dict())
        _, model, _ = start(
            tmp_path / name / "1", own_plan, reprogrammer="none", lr=1.0, name="sgd"
        )
        steps.append(
            torch.cat([(p - before[key]).flatten() for key, p in model.head.state_dict().items()])
            .norm()
            .item()
        )
    assert steps[0] > 0.01 and steps[1] == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_an_error_and_is_not_saved(value, start, tiny_clips, tmp_path):
    clips = tiny_clips(12)
    spoilt = clips.with_features(torch.full((12, 1, 64, 32), value))
    with pytest.raises(RuntimeError, match="the loss of epoch 1 is .*lower optimizer.lr"):
        start(tmp_path, reprogrammer="noise", train=spoilt)
    assert not list(tmp_path.glob("*.pt"))


def test_each_epoch_is_a_line_and_scalars_are_written_if_asked_for(start, tmp_path, capsys):
    scalars = {}

    class Writer:
        def add_scalar(self, name, value, epoch):
            scalars.setdefault(name, []).append((epoch, value))

        def flush(self):
            pass

    history, _, _ = start(tmp_path, plan(epochs=2), writer=Writer())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "epoch 1/2" in lines[0] and "left" in lines[0]
    assert scalars["loss"] == [(row["epoch"], row["loss"]) for row in history]
    assert scalars["map"] == [(row["epoch"], row["valid"]["map"]) for row in history]
