"""Zero-shot: the table of source classes is complete, and probabilities add up."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml

from ast_repr import heads, pretrained
from ast_repr.backbones import Output, weights
from ast_repr.corpora.synthetic import CLASSES
from ast_repr.heads.labelmap import groups

SHIPPED = Path(__file__).parents[1] / "pretrained_models"
TABLE = yaml.safe_load((SHIPPED / "instruments.yaml").read_text())


def labels(backbone):
    if backbone == "ast_audioset":
        return (SHIPPED / "audioset_labels.txt").read_text().splitlines()
    return weights.read_header(SHIPPED / "ast_tiny_synth.safetensors")["source_classes"]


def test_audioset_has_527_different_names_in_its_own_order():
    names = labels("ast_audioset")
    assert len(names) == len(set(names)) == 527 and all(
        name == name.strip() != "" for name in names
    )
    known = {
        0: "Speech",
        72: "Animal",
        137: "Music",
        140: "Guitar",
        180: "Marimba, xylophone",
        209: "Accordion",
        526: "Field recording",
    }
    assert {index: names[index] for index in known} == known


@pytest.mark.parametrize(
    ("backbone", "sources", "activation"),
    [("ast_audioset", 527, "sigmoid"), ("ast_tiny_synth", 175, "softmax")],
)
def test_every_instrument_is_covered_by_names_that_exist(backbone, sources, activation):
    assert len(CLASSES) == 20 and set(TABLE[backbone]) == {"activation", "names"}
    assert TABLE[backbone]["activation"] == activation and TABLE[backbone]["names"].keys() >= set(
        CLASSES
    )
    source = labels(backbone)
    found = groups(TABLE[backbone]["names"], CLASSES, source)
    assert len(source) == sources and len(found) == 20
    for name, group in zip(CLASSES, found, strict=True):
        assert group and [source[i] for i in group] == TABLE[backbone]["names"][name]
    head = heads.build(
        "labelmap",
        n_classes=20,
        n_source=sources,
        kind="names",
        groups=found,
        activation=activation,
    )
    assert head(Output(None, torch.randn(3, sources))).isfinite().all()


@pytest.mark.parametrize("backbone", TABLE)
def test_only_the_stated_source_classes_mean_two_instruments(backbone):
    table = dict(pretrained.zero_shot(backbone)["names"])
    guitars = table.pop("acoustic_guitar", []) + table.pop("electric_guitar", [])  # IRMAS' two
    assert set(guitars) <= set(table["guitar"])
    assert len(set(guitars)) == len(guitars)
    names = [name for sources in table.values() for name in sources]
    shared = (
        {"Acoustic Guitar (steel)", "Acoustic Guitar (nylon)"}
        if backbone == "ast_tiny_synth"
        else set()
    )
    assert {name for name in names if names.count(name) > 1} == shared


def test_names_become_places():
    table = {"voice": ["Singing", "Choir"], "organ": ["Organ"], "harp": ["Harp"]}
    assert groups(table, ["organ", "voice"], ["Choir", "Organ", "Piano", "Singing"]) == [
        [1],
        [3, 0],
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"voice": ["Choir"]}, "no source names for organ, tuba; the table has voice"),
        (
            {"voice": ["Choir"], "organ": [], "tuba": ["Organ"]},
            "no source names for organ; the table has tuba, voice",
        ),
        (
            {"voice": ["Chior", "Choir"], "organ": ["Orgel"], "tuba": ["Organ"]},
            "'Chior', 'Orgel' not among the 2 source classes",
        ),
    ],
)
def test_names_that_lead_nowhere_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        groups(table, ["organ", "voice", "tuba"], ["Choir", "Organ"])


def names_head(groups, sources, activation="sigmoid"):
    return heads.build(
        "labelmap",
        n_classes=len(groups),
        n_source=sources,
        kind="names",
        groups=groups,
        activation=activation,
    )


def test_independent_sources_any_of_which_will_do():
    head, p = names_head([[0], [0, 1], [1, 2, 3]], 4), torch.tensor([[0.5, 0.2, 0.1, 0.25]])
    found = head(Output(None, torch.logit(p))).sigmoid()
    torch.testing.assert_close(
        found, torch.tensor([[0.5, 1 - 0.5 * 0.8, 1 - 0.8 * 0.9 * 0.75]]), rtol=0, atol=1e-6
    )


def test_sources_that_exclude_each_other_add_up():
    head, p = (
        names_head([[0], [0, 1], [1, 2, 3]], 4, "softmax"),
        torch.tensor([[0.5, 0.2, 0.1, 0.2]]),
    )
    found = head(Output(None, p.log() + 7)).sigmoid()
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.7, 0.5]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("level", [-200.0, -30.0, 30.0, 200.0])
def test_logits_stay_exact_where_the_sources_are_sure(level):
    logits = torch.full((1, 4), level, requires_grad=True)
    found = names_head([[0], [0, 1, 2]], 4)(Output(None, logits))
    # Rare: three times the odds. Certain: the odds of "not one of them" are the product of three.
    expected = [level, level + math.log(3) if level < 0 else 3 * level]
    torch.testing.assert_close(found, torch.tensor([expected]), rtol=1e-6, atol=1e-5)
    found.sum().backward()
    assert (
        logits.grad.isfinite().all() and (logits.grad[0, :3] != 0).all() and logits.grad[0, 3] == 0
    )
    sure = torch.tensor([[level, 0.0, 0.0, 0.0]])
    assert names_head([[0]], 4, "softmax")(Output(None, sure)).item() == pytest.approx(
        level - math.log(3), rel=1e-6
    )


def test_nothing_of_it_needs_to_be_stored():
    assert not names_head([[0], [1]], 4).state_dict()


def test_the_table_is_plain_yaml_of_strings():
    assert json.loads(json.dumps(TABLE)) == TABLE
    assert all(
        isinstance(name, str)
        for backbone in TABLE
        for names in pretrained.zero_shot(backbone)["names"].values()
        for name in names
    )
