"""Heads: the output mapping's sizes and what it computes."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from ast_repr import choices, heads
from ast_repr.backbones import Output
from ast_repr.data.dataset import Batch
from ast_repr.heads.observed import CERTAIN
from ast_repr.heads.statistical_labelmap import average_precisions


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
        ("attentive_pooling", {"token_dim": 768}, 30_740),
        ("prototypes", {"token_dim": 768}, 100 * 768 + 100 * 20 + 20),
        ("layer_mix", {"n_blocks": 12}, 12 + 16_916),
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


@pytest.mark.parametrize("fitted", [False, True])
def test_attentive_pooling_weights_the_patches_per_class(fitted, spread):
    head = heads.build("attentive_pooling", n_classes=4, token_dim=32)
    if fitted:
        spread(head)
    tokens = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(0))
    weight = torch.full((3, 7, 4), 1 / 7)
    if fitted:
        weight = (tokens @ head.query.weight.T / 32**0.5).exp()
        weight /= weight.sum(dim=1, keepdim=True)
    pooled = torch.einsum("bnk,bnd->bkd", weight, tokens)
    expected = (pooled * head.linear.weight).sum(dim=2) + head.linear.bias
    torch.testing.assert_close(head(Output(None, None, tokens)), expected)


def test_prototypes_are_signs_compared_with_the_nearest_patch(spread):
    head = spread(heads.build("prototypes", n_classes=4, token_dim=32, prototypes=5))
    tokens = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(0))
    signs = head.prototypes.detach().sign()
    cosine = torch.nn.functional.cosine_similarity(tokens[:, :, None], signs, dim=3)
    nearest = 32**0.5 * cosine.max(dim=1).values
    expected = nearest @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(Output(None, None, tokens)), expected)


def test_prototypes_have_the_gradient_of_their_signs(spread):
    head = spread(heads.build("prototypes", n_classes=4, token_dim=32, prototypes=5))
    tokens = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(0))
    head(Output(None, None, tokens)).sum().backward()
    signs = head.prototypes.detach().sign().requires_grad_()
    normed = tokens / tokens.norm(dim=2, keepdim=True)
    head.linear((normed @ signs.T).amax(dim=1)).sum().backward()
    torch.testing.assert_close(head.prototypes.grad, signs.grad)


def test_the_heads_on_tokens_are_listed_for_networks_without_them():
    on_tokens = [name for name, head in heads.HEADS.items() if head.input_key == "tokens"]
    assert sorted(on_tokens) == sorted(choices.TOKEN_HEADS)


@pytest.mark.parametrize("fitted", [False, True])
def test_a_layer_mix_starts_as_the_mean_over_blocks(fitted, spread):
    head = heads.build("layer_mix", n_classes=4, embed_dim=32, n_blocks=3)
    embedding = torch.randn(2, 32, 3, generator=torch.Generator().manual_seed(0))
    mixed = embedding.mean(dim=2)
    if fitted:
        spread(head)
        weight = head.weights.exp() / head.weights.exp().sum()
        mixed = (embedding * weight).sum(dim=2)
    torch.testing.assert_close(head(Output(embedding, None)), head.mapping(Output(mixed, None)))


def labelled():
    """A dataset.Batch of four clips with the logits of three sources, and labels of three classes.

    The last class has no absent clip; unobserved targets are NaN.
    """
    logits = torch.tensor([[2.0, -1.0, 0.0], [1.0, 3.0, 0.5], [-2.0, 0.0, 1.0], [-1.0, 9.0, 9.0]])
    nan = torch.nan
    targets = torch.tensor([[1.0, 0.0, 0.9], [0.6, 1.0, nan], [0.2, nan, nan], [nan, 1.0, nan]])
    return Batch(logits, targets, ~targets.isnan())


def fitted(kind, **options):
    head = heads.build("statistical_labelmap", n_classes=3, n_source=3, kind=kind, **options)
    head.fit(labelled(), None, seed=0)
    return head


def test_bayesian_maps_are_the_shares_of_present_labels_among_observed():
    """Class 0 is observed in clips 0, 1 and 2, of which 0 and 1 are present; class 2 in clip 0."""
    p = labelled().features.sigmoid()
    expected = (p[0] + p[1]) / (p[0] + p[1] + p[2] + 0.5)
    weight = fitted("bayesian", smoothing=0.5).weight
    torch.testing.assert_close(weight[:, 0], expected)
    torch.testing.assert_close(weight[:, 2], p[0] / (p[0] + 0.5))


def test_bayesian_plus_counts_the_most_probable_sources_of_a_clip_alone():
    p = labelled().features.sigmoid()
    first = p[0, 0] / (p[0, 0] + 1)  # the largest of clip 0; that of clip 1 is source 1
    expected = torch.stack([first, p[1, 1] / (p[1, 1] + 1), torch.zeros(())])
    torch.testing.assert_close(fitted("bayesian_plus", top=1).weight[:, 0], expected)
    every = fitted("bayesian_plus", top=3).weight
    torch.testing.assert_close(every, fitted("bayesian").weight)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_the_score_is_the_mean_of_the_map_over_the_sources_probabilities(activation):
    head = fitted("bayesian", activation=activation)
    logits = output(sources=3).source_logits
    p = logits.softmax(dim=1) if activation == "softmax" else logits.sigmoid()
    scores = (p[:, :, None] * head.weight).sum(dim=1) / p.sum(dim=1, keepdim=True)
    expected = scores * head.scale + head.offset
    torch.testing.assert_close(head(output(sources=3)), expected)


def test_the_frequency_map_takes_the_source_of_largest_correlation():
    """That of each source with the labels of class 1, which clips 0, 1 and 3 have."""
    logits = labelled().features[[0, 1, 3]].T
    present = torch.tensor([[0.0, 1.0, 1.0]])
    correlation = torch.corrcoef(torch.cat([logits, present]))[-1, :-1]
    weight = fitted("frequency").weight
    assert weight[:, 1].argmax() == correlation.argmax()
    assert weight[:, 0].tolist() == [1, 0, 0] and weight.sum(dim=0).tolist() == [1, 1, 1]


def test_the_best_source_has_the_best_average_precision():
    batch = labelled()
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0)).numpy()
    present = logits[:, 4] + logits[:, 2] > 0.5
    expected = [average_precision_score(present, column) for column in logits.T]
    np.testing.assert_allclose(average_precisions(logits, present), expected)
    head = fitted("average_precision")
    logits = batch.features[[0, 1, 3], :].numpy()
    precisions = average_precisions(logits, np.array([False, True, True]))
    assert head.best_sources == [0, precisions.argmax(), 0]
    assert fitted("frequency").best_sources is None


def test_names_are_calibrated_by_two_numbers_per_class():
    groups = [[0, 2], [1], [2]]
    head = fitted("names", groups=groups)
    plain = heads.build("labelmap", n_classes=3, n_source=3, kind="names", groups=groups)
    sources = output(sources=3)
    torch.testing.assert_close(head(sources), head.scale * plain(sources) + head.offset)
    assert set(head.state_dict()) == {"scale", "offset"}


@pytest.mark.parametrize("kind", ["frequency", "bayesian", "bayesian_plus", "names"])
def test_label_maps_are_calibrated_and_pass_a_gradient(kind):
    """A fitted logistic regression has the mean of the labels as its mean."""
    options = {"groups": [[0], [1], [2]]} if kind == "names" else {}
    head = fitted(kind, **options)
    sources = labelled().features.requires_grad_()
    logits = head(Output(None, sources))
    assert (logits[:, 2] == CERTAIN).all()  # no absent label
    assert logits[:3, 0].sigmoid().mean().item() == pytest.approx(2 / 3, abs=1e-3)
    logits.sum().backward()
    assert sources.grad.abs().sum() > 0 and not any(p.requires_grad for p in head.parameters())


@pytest.mark.parametrize("kind", ["frequency", "bayesian"])
def test_source_logits_of_any_scale_are_calibrated(kind):
    batch = labelled()
    batch = batch._replace(features=1e-4 * batch.features)
    head = heads.build("statistical_labelmap", n_classes=3, n_source=3, kind=kind)
    head.fit(batch, None, seed=0)
    logits = head(Output(None, batch.features))
    assert logits[0, 0] > logits[2, 0] + 1


def test_a_class_without_labels_is_absent():
    batch = labelled()
    head = heads.build("statistical_labelmap", n_classes=3, n_source=3, kind="frequency")
    head.fit(batch._replace(mask=torch.zeros_like(batch.mask)), None, seed=0)
    assert (head(output(sources=3)) == -CERTAIN).all()


def test_a_label_map_that_is_not_fitted_says_nothing():
    head = heads.build("statistical_labelmap", n_classes=4, n_source=10)
    assert not head(output()).any() and head.top == 1
    assert heads.build("statistical_labelmap", n_classes=20, n_source=527).top == 3


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
        ("attentive_pooling", {}, "the backbone has no tokens; use backbone ast"),
        ("prototypes", {}, "the backbone has no tokens; use backbone ast"),
        ("prototypes", {"token_dim": 32, "prototypes": 0}, "0 of them; expected from 1"),
        ("layer_mix", {}, "no embedding per block; use backbone: {name: ast, pooling: blocks}"),
        ("attention", {"n_blocks": 12}, "an embedding per block, not per frame; use the head"),
        ("statistical_labelmap", {"n_source": None}, "the backbone has no source classes"),
        ("statistical_labelmap", {"kind": "bayes"}, "did you mean 'bayesian'"),
        ("statistical_labelmap", {"activation": "tanh"}, "unknown activation"),
        ("statistical_labelmap", {"kind": "names"}, "kind names needs groups"),
        ("statistical_labelmap", {"smoothing": 0}, "smoothing 0, top 1; expected"),
        ("statistical_labelmap", {"top": 0}, "top 0; expected"),
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
