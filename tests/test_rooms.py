"""Rooms build what is outside of the package by "module.Class", with one clear line where that cannot be."""

import pytest

from ast_repr import backbones, features, heads, methods, reprogrammers

OUTSIDE = """
from torch import nn

number = 1

class Own(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.size = size

class Head(nn.Module):
    def __init__(self, n_classes, embed_dim, scale=1.0):
        super().__init__()
        self.sizes = n_classes, embed_dim, scale

class Reprogrammer(nn.Module):
    def __init__(self, frames, bins):
        super().__init__()
        self.sizes = frames, bins

class Method(nn.Module):
    def __init__(self, model, weight=1.0):
        super().__init__()
        self.weight = weight
"""


@pytest.fixture(autouse=True)
def outside(tmp_path, monkeypatch):
    (tmp_path / "outside_of_rooms.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)


def test_every_room_builds_what_is_outside():
    assert reprogrammers.build("outside_of_rooms.Reprogrammer", frames=16, bins=8).sizes == (16, 8)
    assert heads.build(
        "outside_of_rooms.Head", n_classes=2, embed_dim=5, n_source=7, scale=2.0
    ).sizes == (2, 5, 2.0)
    assert methods.build("outside_of_rooms.Method", model=None, weight=3.0).weight == 3.0
    assert (
        backbones.build("outside_of_rooms.Own", size=4).size
        == features.build("outside_of_rooms.Own", size=4).size
        == 4
    )


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "not_there_at_all.Gain",
            {},
            "No module named 'not_there_at_all'; put the folder of not_there_at_all.py on PYTHONPATH",
        ),
        ("outside_of_rooms.Gain", {}, "found no class Gain in outside_of_rooms"),
        ("outside_of_rooms.number", {}, "found no class number in outside_of_rooms"),
        (
            "outside_of_rooms.Reprogrammer",
            {"width": 2},
            "unknown option of reprogrammer 'outside_of_rooms.Reprogrammer' 'width'",
        ),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(name, options, said):
    with pytest.raises(ValueError) as caught:
        reprogrammers.build(name, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)
