"""Heads: the output mapping's sizes and what it computes."""

import pytest
import torch

from ast_repr import heads
from ast_repr.backbones import Output


def output(batch=3, width=32, sources=10):
    generator = torch.Generator().manual_seed(0)
    return Output(
        torch.randn(batch, width, generator=generator),
        torch.randn(batch, sources, generator=generator),
    )


def count(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("name", "options", "trainable"),
    [
        ("embedding", {}, 16_916),
        ("embedding", {"norm": False}, 768 * 20 + 20),
        ("labelmap", {}, 527 * 20 + 20),
        ("labelmap", {"kind": "groups"}, 0),
        ("labelmap", {"kind": "names", "groups": [[k] for k in range(20)]}, 0),
        ("forest", {}, 0),
    ],
)
def test_trainable_parameters_for_ast_base_and_twenty_classes(name, options, trainable):
    assert (
        count(heads.build(name, n_classes=20, embed_dim=768, n_source=527, **options)) == trainable
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("embedding", {}),
        ("embedding", {"norm": False}),
        ("labelmap", {}),
        ("labelmap", {"kind": "groups"}),
        ("forest", {}),
        ("labelmap", {"kind": "names", "groups": [[0], [1], [2], [3]]}),
    ],
)
def test_there_is_one_logit_per_class(name, options):
    assert heads.build(name, n_classes=4, embed_dim=32, n_source=10, **options)(output()).shape == (
        3,
        4,
    )


def test_the_embedding_is_normalised_then_mapped(spread):
    head, x = spread(heads.build("embedding", n_classes=4, embed_dim=32)), output().embedding
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    expected = (
        normed * head.norm.weight + head.norm.bias
    ) @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(output()), expected, rtol=0, atol=1e-5)


def test_without_its_norm_the_embedding_is_mapped_as_it_is(spread):
    head, x = (
        spread(heads.build("embedding", n_classes=4, embed_dim=32, norm=False)),
        output().embedding,
    )
    torch.testing.assert_close(
        head(output()), x @ head.linear.weight.T + head.linear.bias, rtol=0, atol=1e-6
    )
    assert set(head.state_dict()) == {"linear.weight", "linear.bias"}


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({}, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        ({"groups": [[9], [0, 5], [5, 6, 7, 8]]}, [[9], [0, 5], [5, 6, 7, 8]]),
    ],
)
def test_groups_of_source_logits_are_averaged(options, groups):
    found = heads.build("labelmap", n_classes=3, n_source=10, kind="groups", **options)(output())
    expected = torch.stack(
        [output().source_logits[:, group].mean(dim=1) for group in groups], dim=1
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("embeding", {}, "unknown head 'embeding': did you mean 'embedding'"),
        ("labelmap", {"kinds": "linear"}, "'kinds': did you mean 'kind'"),
        ("embedding", {"kind": "linear"}, "unknown option of head 'embedding' 'kind'"),
        ("labelmap", {"n_source": None}, "the backbone has no source classes"),
        ("labelmap", {"kind": "groups", "groups": [[0], [1], [2, 2]]}, "none twice in a group"),
        ("labelmap", {"kind": "names"}, "kind names needs groups"),
        ("labelmap", {"kind": "names", "groups": [[0], [1], [10]]}, "from 0 to 9"),
        ("labelmap", {"activation": "tanh"}, "unknown activation of labelmap 'tanh'"),
        ("forest", {"trees": 0}, "trees 0, max_depth 8; expected from 1"),
        ("labelmap", {"kind": "group"}, "did you mean 'groups'"),
        (
            "labelmap",
            {"kind": "groups", "groups": [[0]]},
            "expected 3 non-empty groups of source indices from 0 to 9",
        ),
        ("labelmap", {"kind": "groups", "groups": [[0], [], [1]]}, "non-empty"),
        ("labelmap", {"kind": "groups", "groups": [[0], [1], [10]]}, "from 0 to 9"),
        ("labelmap", {"kind": "groups", "groups": [[0], [1], [-1]]}, "from 0 to 9"),
        ("labelmap", {"kind": "groups", "n_source": 2}, "expected 3 non-empty groups"),
    ],
)
def test_impossible_choices_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        heads.build(name, **({"n_classes": 3, "embed_dim": 32, "n_source": 10} | options))
