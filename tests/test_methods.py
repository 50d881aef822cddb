"""Mean teacher's average and loss by hand, label enhancement's stages, any method on any model."""

import pytest
import torch

from ast_repr import backbones, heads, losses, methods, reprogrammers
from ast_repr.classifier import HeadOnlyModel, Reprogrammed
from ast_repr.data.dataset import Batch, Clips
from ast_repr.manifest import Clip
from ast_repr.run_folder import RunFolder
from ast_repr.settings import Select
from ast_repr.training import optim
from ast_repr.training.trainer import Plan, Trainer

CPU = torch.device("cpu")
PLAN = Plan(
    epochs=3,
    batch_size=4,
    micro_batch=None,
    patience=None,
    clip_norm=None,
    schedule={"name": "constant"},
    select=Select("valid", "map", "max"),
    seed=0,
)


class Line(torch.nn.Module):
    """logits = x * w, a model of one parameter."""

    def __init__(self, w=1.0):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(w))

    def forward(self, x):
        return x * self.w

    def copy_with_shared_backbone(self):
        return Line(self.w.item())

    def trainable_state_dict(self):
        return self.state_dict()


def test_the_teacher_is_the_average_of_the_students():
    """With a = 1/2, 2/3, then 0.7.

    w = 1 -> 3: (1 + 3) / 2 = 2; -> 6: (2 * 2 + 6) / 3 = 10/3; -> 0: 0.7 * 10/3 = 7/3.
    """
    method = methods.build("mean_teacher", model=Line(), decay=0.7)
    for student, teacher in ((3.0, 2.0), (6.0, 10 / 3), (0.0, 7 / 3)):
        method.model.w.data.fill_(student)
        method.after_step()
        assert method.teacher.w.item() == pytest.approx(teacher)
    assert method.model_for_eval is method.teacher and not method.teacher.w.requires_grad


def test_the_loss_is_bce_where_observed_and_consistency_everywhere():
    method = methods.build("mean_teacher", model=Line(2.0), weight=3.0)
    method.teacher.w.fill_(0.0)
    batch = Batch(
        torch.tensor([[0.5, -1.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])
    )
    found = method.step(batch, 0)
    # Student sigmoid(1), sigmoid(-2); teacher 0.5, 0.5. The target is 1:
    # bce = log(1 + e^-1).
    e = torch.e
    bce = torch.log(torch.tensor(1 + e**-1))
    agreement = ((1 / (1 + e**-1) - 0.5) ** 2 + (1 / (1 + e**2) - 0.5) ** 2) / 2
    assert found["bce"].item() == pytest.approx(bce.item(), abs=1e-6)
    assert found["consistency"].item() == pytest.approx(agreement, abs=1e-6)
    assert found["loss"].item() == pytest.approx(bce.item() + 3 * agreement, abs=1e-6)
    found["loss"].backward()
    assert method.teacher.w.grad is None and method.model.w.grad != 0


def test_the_teacher_resumes_from_its_state(tiny_ast):
    one, two = (
        methods.build("mean_teacher", model=build(tiny_ast, "noise", "embedding")) for _ in range(2)
    )
    for _ in range(3):
        one.model.reprogrammer.delta.data += 1
        one.after_step()
    two.load_resumable_state(one.resumable_state())
    for method in (one, two):
        method.after_step()
    assert (
        torch.equal(one.teacher.reprogrammer.delta, two.teacher.reprogrammer.delta)
        and one.steps == two.steps == 4
    )


def build(tiny_ast, reprogrammer, head):
    backbone = tiny_ast()
    return Reprogrammed(
        reprogrammers.build(reprogrammer, 64, 32),
        backbone,
        heads.build(head, 3, embed_dim=backbone.embed_dim, n_source=backbone.n_source),
    )


def fit(method, optimizer, folder, train, valid, plan=PLAN):
    """Train a method; returns the history."""
    return Trainer(method, optimizer, plan, RunFolder(folder), CPU).fit(train, valid)


# Of the methods for any head; those that need a teacher are in test_teachers.py.
OPTIONS = {"supervised": {}, "mean_teacher": {}, "label_enhancement": {"epochs": 1}}


@pytest.mark.slow
@pytest.mark.parametrize("reprogrammer", reprogrammers.REPROGRAMMERS)
@pytest.mark.parametrize("name", OPTIONS)
def test_every_method_trains_every_reprogrammer(name, reprogrammer, tiny_ast, tiny_clips, tmp_path):
    torch.manual_seed(0)
    model = build(tiny_ast, reprogrammer, "embedding")
    before = backbones.weights.fingerprint(model.backbone)
    method = methods.build(name, model=model, **OPTIONS[name])
    own = optim.build("adamw", model, 0.01)
    history = fit(method, own, tmp_path, tiny_clips(8), tiny_clips(8, 1, "valid"))
    assert len(history) == 3 and all(row["loss"] > 0 for row in history)
    assert ["valid" in row for row in history] == [name != "label_enhancement", True, True]
    assert backbones.weights.fingerprint(model.backbone) == before
    assert all(p.grad is not None for p in model.trainable_parameters())


@pytest.mark.parametrize("name", OPTIONS)
def test_every_method_trains_a_head_alone(name, tiny_ast, tiny_clips, tmp_path):
    model = build(tiny_ast, "none", "embedding")
    read = {
        split: clips.with_features(torch.randn(8, 32))
        for split, clips in {"train": tiny_clips(8), "valid": tiny_clips(8, 1, "valid")}.items()
    }
    probe = HeadOnlyModel(model)
    method = methods.build(name, model=probe, **OPTIONS[name])
    fit(method, optim.build("adamw", probe, 0.1), tmp_path, read["train"], read["valid"])
    saved = torch.load(tmp_path / "best.valid.map.pt", weights_only=True)["learned"]
    assert saved.keys() == model.trainable_state_dict().keys()


@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_micro_batches_train_as_the_whole_batch_does(
    name, micro_batch, tiny_ast, tiny_clips, tmp_path
):
    moved, train = [], tiny_clips(6)
    train.mask[2] = False
    for size in (None, micro_batch):
        torch.manual_seed(0)
        model = build(tiny_ast, "none", "embedding")
        plan = Plan(**(vars(PLAN) | {"epochs": 2, "batch_size": 6, "micro_batch": size}))
        own = optim.build("sgd", model, 0.5)
        method = methods.build(name, model=model, **OPTIONS[name])
        valid = tiny_clips(8, 1, "valid")
        history = fit(method, own, tmp_path / str(size), train, valid, plan)
        moved.append((history[-1]["loss"], model.head.linear.weight.detach()))
    assert moved[0][0] == pytest.approx(moved[1][0], abs=1e-6)
    torch.testing.assert_close(moved[0][1], moved[1][1], rtol=0, atol=1e-6)


def test_a_batch_without_labels_trains_by_consistency_alone(tiny_ast, tiny_clips, tmp_path):
    train = tiny_clips(8)
    train = train.with_labels(train.targets, torch.zeros_like(train.mask))
    for name, moves in (("supervised", False), ("mean_teacher", True)):
        model = build(tiny_ast, "none", "embedding")
        method = methods.build(name, model=model)
        if moves:
            method.teacher.head.linear.bias.data += 1.0
        before = model.head.linear.weight.detach().clone()
        own = optim.build("adamw", model, 0.01)
        fit(method, own, tmp_path / name, train, tiny_clips(8, 1, "valid"))
        assert torch.equal(model.head.linear.weight, before) != moves


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(1, marks=pytest.mark.slow),
        3,
        pytest.param(4, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", OPTIONS)
def test_every_method_resumes_bit_equal(name, cut, tiny_ast, tiny_clips, tmp_path, monkeypatch):
    def run(folder, at=None):
        torch.manual_seed(0)
        model = build(tiny_ast, "unet", "embedding")
        method = methods.build(name, model=model, **OPTIONS[name])
        steps, step = iter(range(99)), method.step

        def cut_off(*args):
            if at is not None and next(steps) >= at:
                raise KeyboardInterrupt
            return step(*args)

        method.step = cut_off
        own = optim.build("adamw", model, 0.01)
        fit(method, own, tmp_path / folder, tiny_clips(8), tiny_clips(8, 1, "valid"))
        return method.resumable_state()

    straight = run("straight")
    with pytest.raises(KeyboardInterrupt):
        run("cut", cut)
    torch.manual_seed(99)
    assert same(run("cut"), straight)


def same(one, two):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return one == two


def mapped(tiny_ast):
    torch.manual_seed(0)
    head = heads.build("statistical_labelmap", 3, n_source=10, kind="frequency")
    return Reprogrammed(reprogrammers.build("noise", 64, 32), tiny_ast(), head)


def test_iterative_mapping_fits_the_map_to_the_program_before_each_epoch(
    tiny_ast, tiny_clips, tmp_path
):
    model = mapped(tiny_ast)
    method = methods.build("iterative_mapping", model=model)
    fits = []
    fit_head = model.head.fit

    def record(train, valid, seed):
        fits.append(train.features)
        fit_head(train, valid, seed)

    model.head.fit = record
    train = tiny_clips(8)
    own = optim.build("adamw", model, 0.1)
    fit(method, own, tmp_path, train, tiny_clips(8, 1, "valid"))
    assert len(fits) == PLAN.epochs and model.training
    start = mapped(tiny_ast).head_input(train.batch(torch.arange(8)).features.float())
    torch.testing.assert_close(fits[0], start)  # that of FLM: the program is still zero
    assert not torch.allclose(fits[1], fits[0]) and not torch.allclose(fits[2], fits[1])
    assert model.head.weight.sum(dim=0).tolist() == [1, 1, 1]
    saved = torch.load(tmp_path / "best.valid.map.pt", weights_only=True)["learned"]
    assert {"head.weight", "head.scale", "head.offset", "reprogrammer.delta"} == saved.keys()


def test_iterative_mapping_resumes_bit_equal(tiny_ast, tiny_clips, tmp_path):
    states = []
    for epochs in ((3,), (1, 3)):
        for count in epochs:
            model = mapped(tiny_ast)
            method = methods.build("iterative_mapping", model=model)
            own = optim.build("adamw", model, 0.1)
            plan = Plan(**(vars(PLAN) | {"epochs": count}))
            folder = tmp_path / str(len(epochs))
            fit(method, own, folder, tiny_clips(8), tiny_clips(8, 1, "valid"), plan)
        states.append(method.resumable_state())
    assert same(*states)


def test_a_method_that_lets_no_epoch_be_chosen_is_refused_before_it_trains(
    tiny_ast, tiny_clips, tmp_path
):
    model = build(tiny_ast, "none", "embedding")
    method = methods.build("label_enhancement", model=model, epochs=3)
    with pytest.raises(ValueError, match="none of 3 epochs may be chosen.*raise train.epochs"):
        own = optim.build("adamw", model, 0.01)
        fit(method, own, tmp_path, tiny_clips(8), tiny_clips(8, 1, "valid"))
    assert not list(tmp_path.iterdir())


def clips(labels):
    names = ["a", "b"]
    return Clips(
        [Clip(str(i), str(i), "", 0.0, "train", own) for i, own in enumerate(labels)],
        names,
        torch.tensor([[3.0], [1.0], [2.0], [0.0], [9.0]]).__getitem__,
    )


class Score(Line):
    """Both classes score x * w."""

    def forward(self, x):
        return (x * self.w).expand(-1, 2)

    def load_trainable_state_dict(self, state):
        self.load_state_dict(state)


def test_stage_one_takes_missing_labels_for_negatives_and_stage_two_prunes_the_likeliest():
    model = Score(1.0)
    method = methods.build("label_enhancement", model=model, epochs=2, prune=0.5)
    own = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    own.state[model.w]["momentum_buffer"] = torch.ones(())
    train = clips([{}, {"a": 0.0}, {"b": 1.0}, {}, {"a": 0.9}])
    first = method.start_epoch(0, train, own, CPU)
    assert first.mask.all() and torch.equal(
        first.targets, torch.where(train.mask, train.targets, 0.0).round()
    )
    assert method.first_selectable == 2
    model.w.data.fill_(2.0)  # what stage one learned; scores rise with x
    second = method.start_epoch(2, train, own, CPU)
    # Missing in class a: clips 0, 2, 3 (x 3, 2, 0), of which round(1.5) = 2 go: 0 and 2.
    # Missing in class b: clips 0, 1, 3, 4 (x 3, 1, 0, 9), of which 4 and 0 go.
    assert second.mask.tolist() == [
        [False, False],
        [True, True],
        [False, True],
        [True, True],
        [True, False],
    ]
    assert model.w.item() == 1.0 and not own.state  # from scratch
    assert method.start_epoch(3, train, own, CPU) is second
    other = methods.build("label_enhancement", model=Score(5.0), epochs=2, prune=0.5)
    other.load_resumable_state(method.resumable_state())
    assert torch.equal(other.start_epoch(3, train, own, CPU).mask, second.mask)


def test_consistency_is_the_mean_square_over_all_cells():
    found = losses.consistency(torch.tensor([[0.2, 1.0]]), torch.tensor([[0.6, 0.0]]))
    assert found.item() == pytest.approx((0.16 + 1) / 2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mean_teacher", {"weight": -1.0}, "expected a weight of at least 0"),
        ("mean_teacher", {"decay": 1.5}, "a decay from 0 to 1"),
        ("label_enhancement", {"epochs": 0}, "at least one epoch"),
        ("label_enhancement", {"prune": 2.0}, "a fraction from 0 to 1"),
        ("iterative_mapping", {}, "the head is not fitted; expected head: .*statistical_labelmap"),
    ],
)
def test_impossible_options_are_refused(name, options, message):
    model = Line()
    model.head = torch.nn.Identity()
    with pytest.raises(ValueError, match=message):
        methods.build(name, model=model, **options)
