"""Parts of the baselines: pooled inputs, statistics, attention, forests, logistic regressions."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from ast_repr import backbones, features, heads, reprogrammers
from ast_repr.backbones import Output
from ast_repr.classifier import Reprogrammed
from ast_repr.data.dataset import Batch
from ast_repr.heads import logistic


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def count(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def batch(embeddings, targets, mask=None):
    """A Batch; by default every label is observed."""
    if mask is None:
        mask = torch.ones(targets.shape, dtype=torch.bool)
    return Batch(embeddings, targets, mask)


def model(backbone, head, reprogrammer=None, frames=1024, mels=128, **options):
    source = backbones.build(frames=frames, mels=mels, **backbone)
    return Reprogrammed(
        reprogrammers.build(frames=frames, bins=mels, **(reprogrammer or {"name": "none"})),
        source,
        heads.build(n_classes=20, embed_dim=source.embed_dim, n_source=source.n_source, **head),
        **options,
    )


RELEASED = {"name": "pool", "cells": [1024, 128], "nonlinearity": "relu"}
LINEAR = {"name": "embedding", "norm": False}


@pytest.mark.parametrize(
    ("backbone", "head", "reprogrammer", "options", "trainable"),
    [
        ({"name": "pool"}, {"name": "embedding"}, {"name": "cnn"}, {}, 16_936),
        ({"name": "pool"}, {"name": "embedding"}, {"name": "unet"}, {}, 18_201),
        (RELEASED, LINEAR, {"name": "cnn", "nonlinearity": "relu"}, {}, 2_621_480),
        ({"name": "frame_network"}, {"name": "attention"}, None, {"finetune": True}, 55_336),
        ({"name": "summary"}, {"name": "forest"}, None, {}, 0),
        ({"name": "summary"}, {"name": "logistic"}, None, {}, 0),  # by gradients
    ],
)
def test_every_baseline_has_the_published_number_of_parameters(
    backbone, head, reprogrammer, options, trainable
):
    built = model(backbone, head, reprogrammer, **options)
    assert count(built) == trainable and built.head_only == (trainable == 0)


def test_cells_are_means_of_the_input():
    x = noise(2, 1, 8, 6)
    output = backbones.build("pool", frames=8, mels=6, cells=[4, 2])(x)
    assert output.source_logits is None
    means = x.reshape(2, 4, 2, 2, 3).mean((2, 4)).flatten(1)
    torch.testing.assert_close(output.embedding, means, rtol=0, atol=1e-6)


def test_as_many_cells_as_the_input_has_are_a_flattening():
    x = noise(2, 1, 8, 6)
    assert torch.equal(
        backbones.build("pool", frames=8, mels=6, cells=[8, 6])(x).embedding, x.flatten(1)
    )
    rectified = backbones.build("pool", frames=8, mels=6, cells=[8, 6], nonlinearity="relu")
    assert torch.equal(rectified(x).embedding, x.flatten(1).clamp(min=0))


def padded(real=5, frames=8, mels=3, seed=0):
    """Un-normalised log-mels: `real` frames, one of them silence, then zeros."""
    x = noise(2, 1, frames, mels, seed=seed) - 4
    x[:, :, 1] = torch.finfo(torch.float32).eps
    x[:, :, 1].log_()
    x[:, :, real:] = 0
    return x


@pytest.mark.parametrize(
    ("mean", "std", "norm"), [(-4.0, 4.5, "none"), (-4.0, 4.5, "backbone"), (0.0, 0.5, "backbone")]
)
def test_summaries_leave_the_padding_out(mean, std, norm):
    x = padded()
    built = model(
        {"name": "summary", "statistics": ["mean", "std", "max"], "mean": mean, "std": std},
        {"name": "forest"},
        frames=8,
        mels=3,
        norm=norm,
    )
    frames = built.normalise(x)[:, 0, :5].numpy()
    expected = [frames.mean(1), frames.std(1), frames.max(1)]  # numpy's std is the population's
    expected = np.concatenate(expected, axis=1)
    np.testing.assert_allclose(built.head_input(x).numpy(), expected, rtol=0, atol=1e-5)


def test_the_mean_alone_is_the_mean_of_all_frames_without_padding():
    x = noise(2, 1, 8, 3)
    torch.testing.assert_close(
        backbones.build("summary", frames=8, mels=3)(x).embedding,
        x[:, 0].mean(1),
        rtol=0,
        atol=1e-6,
    )


def test_a_clip_of_padding_alone_is_zero():
    x = torch.zeros(1, 1, 8, 3)
    summary = backbones.build("summary", frames=8, mels=3, statistics=["mean", "std", "max"])
    assert not summary(x).embedding.any()
    assert not backbones.build("frame_network", frames=8, mels=3, steps=4, layers=0)(
        x
    ).embedding.any()


def test_ten_frames_pass_the_frame_network_as_they_are_and_longer_inputs_are_averaged():
    bare = {
        "name": "frame_network",
        "mels": 3,
        "layers": 0,
    }  # no layers: the normed frames plus the frames themselves
    ten = noise(2, 1, 10, 3)
    built = backbones.build(frames=10, **bare).eval()
    torch.testing.assert_close(
        built(ten).embedding, ten[:, 0].mT * (1 + 1 / (1 + 1e-5) ** 0.5), rtol=0, atol=1e-6
    )
    long = padded(real=5)
    means = torch.stack(
        [long[:, 0, 0:2].mean(1), long[:, 0, 2:4].mean(1), long[:, 0, 4], torch.zeros(2, 3)], dim=2
    )
    built = backbones.build(frames=8, steps=4, mean=-4.0, std=4.5, **bare).eval()
    torch.testing.assert_close(
        built(long).embedding, means * (1 + 1 / (1 + 1e-5) ** 0.5), rtol=0, atol=1e-5
    )


def published_attention(vggish, state):
    """The published network in numpy: VGGish (N, 10, 128) in 0..1 to probabilities (N, K)."""

    def normed(x, name):
        scale = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + 1e-5)
        return (x - state[f"{name}.running_mean"]) * scale + state[f"{name}.bias"]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    out = []
    for clip in vggish.astype(float):
        x = normed(clip, "backbone.norm")
        for i in range(3):
            x = np.maximum(
                normed(
                    x @ state[f"backbone.layers.{i}.0.weight"][..., 0].T, f"backbone.layers.{i}.1"
                ),
                0,
            )
        x = x + clip
        attention, classified = (
            sigmoid(x @ state[f"head.{n}.weight"][..., 0].T + state[f"head.{n}.bias"])
            for n in ("attention", "classifier")
        )
        attention = np.clip(attention, 1e-7, 1 - 1e-7)
        out.append((attention / attention.sum(0) * classified).sum(0))
    return np.array(out)


def test_the_attention_network_equals_the_published_formula(spread):
    feature = features.build("vggish")
    built = spread(
        model(
            {"name": "frame_network", "mean": feature.mean, "std": feature.std},
            {"name": "attention"},
            frames=10,
            finetune=True,
        )
    )
    x = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (40, 1, 10, 128)).astype(np.float32)
    )
    for start in range(0, 40, 8):
        built.train()(x[start : start + 8])  # statistics that are not those of the start
    state = {name: tensor.double().numpy() for name, tensor in built.state_dict().items()}
    with torch.no_grad():
        found = built.eval()(x).sigmoid().numpy()
    expected = published_attention(x[:, 0].numpy() / 255, state)
    assert expected.std(axis=0).min() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_attention_weighs_the_frames_by_hand():
    head = heads.build("attention", n_classes=1, embed_dim=2)
    with (
        torch.no_grad()
    ):  # the first dimension is the logit of the attention, the second that of the classification
        head.attention.weight.copy_(torch.tensor([[[1.0], [0.0]]]))
        head.classifier.weight.copy_(torch.tensor([[[0.0], [1.0]]]))
    frames = torch.logit(
        torch.tensor([[[0.2, 0.6], [0.9, 0.1]]])
    )  # attention 0.2 and 0.6, probabilities 0.9 and 0.1
    assert head(Output(frames, None)).sigmoid().item() == pytest.approx(
        (0.2 * 0.9 + 0.6 * 0.1) / 0.8, abs=1e-6
    )
    sure = head(Output(torch.tensor([[[0.0, 0.0], [90.0, 90.0]]]), None))
    assert sure.isfinite().all() and sure.sigmoid().item() == pytest.approx(1, abs=2e-6)
    ignored = head(Output(torch.tensor([[[-500.0, -500.0], [3.0, -3.0]]]), None))
    assert ignored.item() == pytest.approx(0, abs=1e-5)  # attention nowhere is attention everywhere


def test_the_attention_network_starts_as_published():
    torch.manual_seed(0)
    built = model({"name": "frame_network"}, {"name": "attention"}, frames=10)
    weight = built.backbone.layers[0][0].weight
    assert weight.abs().max() <= (6 / 128) ** 0.5 and weight.std() == pytest.approx(
        (2 / 128) ** 0.5, rel=0.02
    )
    assert not built.head.classifier.bias.any() and (built.backbone.norm.weight == 1).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: backbones.build("pool", frames=10, mels=128),
            "cells .48, 16.; expected two numbers, from 1 to 10 frames",
        ),
        (lambda: backbones.build("pool", cells=[48]), "expected two numbers"),
        (lambda: backbones.build("pool", nonlinearity="rellu"), "did you mean 'relu'"),
        (
            lambda: backbones.build("summary", statistics=["mode"]),
            "unknown statistic of summary 'mode'",
        ),
        (
            lambda: backbones.build("summary", statistics=[]),
            "no statistics; expected some of mean, std, max",
        ),
        (
            lambda: backbones.build("frame_network", frames=8),
            "steps 10; expected from 1 to the input's 8 frames",
        ),
        (
            lambda: heads.build("attention", 3, embed_dim=4)(Output(torch.zeros(2, 4), None)),
            r"expects an embedding of \(B, D, T\), found \(2, 4\)",
        ),
        (
            lambda: heads.build("logistic", 3, embed_dim=2, Cs=[]),
            r"Cs \[\]; expected one or more numbers above 0",
        ),
        (
            lambda: heads.build("logistic", 3, embed_dim=2, Cs=[0.1, 0]),
            "expected one or more numbers above 0",
        ),
        (
            lambda: heads.build("logistic", 3, embed_dim=2).fit(
                batch(noise(4, 2), torch.eye(4, 3)), None, 0
            ),
            "9 Cs and no validation split to choose by",
        ),
    ],
)
def test_impossible_choices_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


K = 4


@pytest.fixture(scope="module")
def openmic():
    """Random VGGish (N, 10, 128) that depends on targets (N, K), and the mask; train, then test."""
    rng = np.random.default_rng(5)
    targets = rng.random((260, K))
    targets[rng.random((260, K)) < 0.05] = 0.5  # exactly at the limit: present
    pull = 40 * (targets >= 0.5) @ rng.normal(size=(K, 128))
    vggish = (128 + pull[:, None] + 60 * rng.normal(size=(260, 10, 128))).clip(0, 255).astype(int)
    return vggish, targets, rng.random((260, K)) < 0.6


def notebook(vggish, targets, mask, train):
    """Forests of OpenMIC-2018's notebook (100 trees of depth 8 per instrument), and time-means."""
    means = vggish.mean(axis=1)
    forests = []
    for k in range(K):
        rows = np.flatnonzero(mask[:train, k])
        forest = RandomForestClassifier(max_depth=8, n_estimators=100, random_state=0)
        forests.append(forest.fit(means[rows], targets[rows, k] >= 0.5))
    return forests, means


@pytest.fixture(scope="module")
def grown(openmic):
    """The project's way to the same: feature, summary, head; (head, reads of all clips)."""
    vggish, targets, mask = openmic
    built = model(
        {"name": "summary", "statistics": ["mean"]}, {"name": "forest"}, frames=10, norm="none"
    )
    built.head = heads.build("forest", n_classes=K)
    reads = built.head_input(
        torch.from_numpy(vggish)[:, None].half().float()
    )  # the store's precision
    train = Batch(reads[:200], torch.from_numpy(targets[:200]), torch.from_numpy(mask[:200]))
    built.head.fit(train, None, seed=0)
    return built.head, reads


def logits(head, reads):
    return head(Output(reads, None))


def test_the_forest_is_the_notebooks_to_the_last_clip(openmic, grown):
    forests, means = notebook(*openmic, train=200)
    expected = np.stack([forest.predict_proba(means)[:, 1] for forest in forests], axis=1)
    probabilities = logits(*grown).sigmoid().numpy()
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-6)
    predicted = np.stack([forest.predict(means) for forest in forests], axis=1)
    assert ((probabilities >= 0.5) == predicted).all()
    _, targets, mask = openmic
    correct = (predicted == (targets >= 0.5))[200:]
    assert correct[mask[200:]].mean() > 0.7  # or equality would show little
    assert 0.2 < predicted[200:].mean() < 0.8


def test_thresholds_compare_as_scikit_learn_does(openmic, grown):
    """On the thresholds, which means of whole numbers hardly ever equal, and next to them."""
    forests, _ = notebook(*openmic, train=200)
    head, reads = grown
    on = reads[:1].repeat(len(head.threshold[:300]), 1)
    on[torch.arange(len(on)), head.feature[:300].long()] = head.threshold[:300]
    for x in (on, torch.nextafter(on, torch.tensor(1e9)), torch.nextafter(on, torch.tensor(-1e9))):
        np.testing.assert_allclose(
            logits(head, x)[:, 0].sigmoid().numpy(),
            forests[0].predict_proba(x.numpy())[:, 1],
            rtol=0,
            atol=1e-6,
        )


def test_a_stored_forest_comes_back_into_an_empty_head(grown, tmp_path):
    head, reads = grown
    torch.save(
        {f"head.{name}": tensor for name, tensor in head.state_dict().items()},
        tmp_path / "forest.pt",
    )
    state = torch.load(tmp_path / "forest.pt", weights_only=True)
    empty = torch.nn.Module()
    empty.head = heads.build("forest", n_classes=K)
    assert not logits(empty.head, reads).any()
    empty.load_state_dict(state)
    assert torch.equal(logits(empty.head, reads), logits(head, reads))
    with pytest.raises(RuntimeError, match="head.roots"):
        empty.load_state_dict(
            {name: tensor for name, tensor in state.items() if name != "head.roots"}
        )


def test_the_seed_decides_the_forest(openmic, grown):
    _, targets, mask = openmic
    reads = grown[1][:200]
    train = Batch(reads, torch.from_numpy(targets[:200]), torch.from_numpy(mask[:200]))
    outputs = []
    for seed in (1, 1, 2):
        head = heads.build("forest", n_classes=K, trees=5)
        head.fit(train, None, seed)
        outputs.append(logits(head, reads))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_the_forest_ignores_unobserved_targets_and_one_kind_of_label_is_constant():
    reads = noise(30, 4)
    targets = (noise(30, 4, seed=1) > 0).float()
    mask = torch.ones(30, 4, dtype=torch.bool)
    mask[::2, 0] = False
    mask[:, 1] = False
    mask[:, 2] = targets[:, 2] == 1
    mask[:, 3] = targets[:, 3] == 0
    outputs = []
    for unobserved in (0.0, 1.0, torch.nan):
        head = heads.build("forest", n_classes=4, trees=7, max_depth=2)
        head.fit(batch(reads, targets.where(mask, unobserved), mask), None, seed=0)
        outputs.append(logits(head, reads))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
    assert outputs[0].isfinite().all()
    probabilities = outputs[0].sigmoid()
    assert probabilities[:, 0].std() > 0.05
    constant = torch.tensor([0.0, 1.0, 0.0]).expand(30, 3)  # without labels: absent
    torch.testing.assert_close(probabilities[:, 1:], constant, rtol=0, atol=2e-7)


def test_a_tie_has_the_logit_zero():
    head = heads.build("forest", n_classes=1, trees=2)
    head.value = torch.tensor([0.0, 1.0])
    head.branches = torch.tensor([[0, 0], [1, 1]], dtype=torch.int32)
    head.feature = torch.zeros(2, dtype=torch.int32)
    head.threshold = torch.zeros(2)
    head.roots = torch.tensor([[0, 1]], dtype=torch.int32)
    assert logits(head, noise(3, 2)).tolist() == [[0.0]] * 3


@pytest.fixture
def labelled():
    """Batches of training and validation clips; three classes, partly observed.

    Embeddings have very different scales, and one dimension is constant.
    """
    x = noise(160, 20)
    targets = (x @ noise(20, 3, seed=1) + 4 * noise(160, 3, seed=2)).sigmoid()
    scale = torch.logspace(-2, 2, 20)
    scale[7] = 0
    whole = batch(x * scale + 3, targets, noise(160, 3, seed=3) > 0)
    return whole.select(slice(120)), whole.select(slice(120, None))


def pipelines(train, C):
    """scikit-learn's own: standardise all training clips, then a regression per class."""
    scaler = StandardScaler().fit(train.features.double())
    regressions = []
    for k in range(train.mask.shape[1]):
        clips = train.mask[:, k]
        present = train.targets[clips, k] >= 0.5
        regression = LogisticRegression(C=C, max_iter=1000)
        regressions.append(regression.fit(scaler.transform(train.features[clips]), present))
    return scaler, regressions


def test_the_logistic_head_is_scikit_learns_regression_of_least_validation_loss(labelled):
    train, valid = labelled
    expected = {}
    losses = {}
    for C in logistic.CS:
        scaler, regressions = pipelines(train, C)
        x = scaler.transform(valid.features)
        probabilities = np.stack([each.predict_proba(x)[:, 1] for each in regressions], axis=1)
        mask = valid.mask.numpy()
        present = (valid.targets >= 0.5).numpy()
        losses[C] = log_loss(present[mask], probabilities[mask])
        expected[C] = probabilities
    best = min(losses, key=losses.get)
    assert logistic.CS[0] < best < logistic.CS[-1]
    head = heads.build("logistic", n_classes=3, embed_dim=20)
    assert not logits(head, valid.features).any()
    head.fit(train, valid, seed=0)
    found = logits(head, valid.features).sigmoid().numpy()
    np.testing.assert_allclose(found, expected[best], rtol=0, atol=1e-4)
    alone = heads.build("logistic", n_classes=3, embed_dim=20, Cs=[best])
    alone.fit(train, None, seed=1)
    assert torch.equal(logits(alone, valid.features), logits(head, valid.features))


def test_the_logistic_head_ignores_unobserved_targets(labelled):
    outputs = []
    for unobserved in (0.0, 1.0, torch.nan):
        splits = []
        for each in labelled:
            splits.append(each._replace(targets=each.targets.where(each.mask, unobserved)))
        head = heads.build("logistic", n_classes=3, embed_dim=20)
        head.fit(*splits, seed=0)
        outputs.append(logits(head, splits[1].features))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_a_logistic_class_with_labels_of_one_kind_is_constant(labelled):
    train, _ = labelled
    mask = train.mask.clone()
    mask[:, 0] = False
    mask[:, 1] &= train.targets[:, 1] >= 0.5
    head = heads.build("logistic", n_classes=3, embed_dim=20, Cs=[0.1])
    head.fit(train._replace(mask=mask), None, seed=0)
    found = logits(head, train.features)
    assert (found[:, 0] == -logistic.CERTAIN).all() and (found[:, 1] == logistic.CERTAIN).all()
    assert found[:, 2].std() > 0.1
