"""Learning-rate schedules, value by value."""

import math

import pytest

from ast_repr.training.optim import factor

PAPER = {"name": "steps", "first": 5, "last": 25, "gamma": 0.85}


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 1.0),
        (1, 1.0),
        (4, 1.0),
        (4.99, 1.0),
        (5, 0.85),
        (5.5, 0.85),
        (6, 0.85**2),
        (24, 0.85**20),
        (25, 0.85**21),
        (26, 0.85**21),
        (29.9, 0.85**21),
    ],
)
def test_the_papers_steps(epoch, expected):
    assert factor(epoch=epoch, epochs=30, **PAPER) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 0.0),
        (0.5, 0.25),
        (1, 0.5),
        (2, 1.0),
        (4, (1 + math.cos(math.pi / 4)) / 2),
        (6, 0.5),
        (10, 0.0),
    ],
)
def test_the_cosine_rises_then_falls_to_zero(epoch, expected):
    assert factor("cosine", epoch, 10, warmup=2) == pytest.approx(expected, abs=1e-12)


def test_the_cosine_ends_at_its_floor():
    assert factor("cosine", 0, 4) == 1.0
    assert factor("cosine", 4, 4, floor=0.1) == pytest.approx(0.1) and factor(
        "cosine", 2, 4, floor=0.1
    ) == pytest.approx(0.55)


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 1), (1, 3), (2, 2), (4, 1)])
def test_no_plan_is_too_short_for_a_warm_up(epochs, warmup):
    for step in range(100):
        assert 0.0 <= factor("cosine", epochs * step / 100, epochs, warmup=warmup) <= 1.0


def test_constant_is_one():
    assert {factor("constant", epoch, 10) for epoch in (0, 0.5, 10)} == {1.0}


def test_an_unknown_schedule_lists_what_there_is():
    with pytest.raises(
        ValueError,
        match="unknown schedule 'cosin': did you mean 'cosine'. valid: constant, cosine, steps",
    ):
        factor("cosin", 0, 1)
    with pytest.raises(ValueError, match="gama"):
        factor("steps", 0, 1, gama=0.5)


def test_steps_may_be_some_epochs_apart():
    options = {"name": "steps", "first": 30, "last": 90, "every": 30, "gamma": 0.5}
    assert [
        factor(epoch=epoch, epochs=100, **options) for epoch in (0, 29.9, 30, 59, 60, 90, 99)
    ] == [1, 1, 0.5, 0.5, 0.25, 0.125, 0.125]
