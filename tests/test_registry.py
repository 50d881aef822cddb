"""Registries build their classes, and others only if the caller allows their exact name."""

import sys

import pytest

from ast_repr import backbones, features, heads, methods, registry, reprogrammers

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
    (tmp_path / "foreign_module.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("foreign_module", None)


def resolved(name, *, given=(), **options):
    return registry.resolve("kind", {"name": name, **options}, {name}, given)


def test_every_registry_builds_an_allowed_class():
    own = resolved("foreign_module.Own", size=4)
    assert backbones.build(**own).size == features.build(**own).size == 4
    reprogrammer = resolved("foreign_module.Reprogrammer")
    assert reprogrammers.build(**reprogrammer, frames=16, bins=8).sizes == (16, 8)
    head = resolved("foreign_module.Head", scale=2.0)
    assert heads.build(**head, n_classes=2, embed_dim=5, n_source=7).sizes == (2, 5, 2.0)
    assert methods.build(**resolved("foreign_module.Method", weight=3.0), model=None).weight == 3


@pytest.mark.parametrize("package", [backbones, features, reprogrammers, methods, heads])
def test_a_registry_by_itself_imports_nothing(package):
    """Options that sound like permission change nothing."""
    needed = {heads: {"n_classes": 2}, methods: {"model": None}}.get(package, {})
    with pytest.raises(ValueError, match="unknown .*valid: "):
        package.build("foreign_module.Own", **needed, allow=["foreign_module.Own"])
    assert "foreign_module" not in sys.modules


@pytest.mark.parametrize(
    "allow", [(), ["foreign_module.Ow"], "foreign_module.Own2", {"foreign_module"}, ["Own"]]
)
def test_only_the_exact_name_is_allowed(allow):
    with pytest.raises(
        registry.NotAllowedError, match="--allow-class foreign_module.Own "
    ) as caught:
        registry.resolve("head", {"name": "foreign_module.Own"}, allow)
    assert "\n" not in str(caught.value)
    assert "foreign_module" not in sys.modules


@pytest.mark.parametrize("name", ["$(reboot).Own", "a b.Own", "..", "os.", ".system", "a.b\n", ""])
def test_a_text_that_is_no_class_name_is_never_imported(name):
    """Nor is it part of the command that allows it."""
    assert registry.resolve("head", {"name": name}, [name]) == {"name": name}
    with pytest.raises(ValueError, match="unknown head"):
        heads.build(name, n_classes=2)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "not_there_at_all.Gain",
            {},
            "put the folder of not_there_at_all.py on PYTHONPATH",
        ),
        ("foreign_module.Gain", {}, "found no class Gain in foreign_module"),
        ("foreign_module.number", {}, "found no class number in foreign_module"),
        (
            "foreign_module.Reprogrammer",
            {"width": 2},
            "unknown option of reprogrammer 'foreign_module.Reprogrammer' 'width'",
        ),
        ("foreign_module.Reprogrammer", {"frames": 2}, "option frames of kind"),
        ("noise", {"rank": "a"}, "option rank of reprogrammer 'noise': 'a'; expected a whole num"),
        ("noise", {"rank": True}, "expected a whole number, or null"),
        ("unet", {"residual": "yes"}, "expected true or false"),
        ("cnn", {"nonlinearity": ["relu"]}, "expected text"),
        ("adversarial", {"scale": float("nan")}, "expected a number"),
    ],
)
def test_an_entry_that_cannot_be_built_is_refused_in_one_line(name, options, said):
    with pytest.raises(ValueError) as caught:
        reprogrammers.build(**resolved(name, given=("frames", "bins"), **options))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_within_lists_are_checked():
    with pytest.raises(ValueError, match="option groups of head 'labelmap'.*each item a whole num"):
        heads.build("labelmap", n_classes=2, n_source=4, kind="names", groups=[[0], ["1"]])
