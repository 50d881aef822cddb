"""Reprogrammers: the published layers and parameter counts, exact identity starts, errors."""

import pytest
import torch
from torch.nn import functional

from ast_repr import backbones, classifier, heads, reprogrammers

SMALL = {"frames": 64, "bins": 32}
IDENTITIES = {
    "none": ("none", {}),
    "noise": ("noise", {}),
    "low-rank noise": ("noise", {"rank": 4}),
    "noise per frame": ("noise", {"per": "frame"}),
    "noise per band": ("noise", {"per": "band"}),
    "affine": ("affine", {}),
    "affine per band": ("affine", {"per_band": True}),
    "adversarial": ("adversarial", {"place": "everywhere"}),
    "cnn": ("cnn", {"residual": True}),
    "wide cnn": ("cnn", {"residual": True, "width": 8, "nonlinearity": "relu"}),
    "unet": ("unet", {"residual": True}),
    "patch": ("patch", {}),
    "patch without level": ("patch", {"level": None, "size": 8}),
    "film": ("film", {}),
    "smm": ("smm", {}),
}
OTHERS = {
    "normal noise": ("noise", {"start": "normal"}),
    "uniform noise": ("noise", {"start": "uniform"}),
    "border": ("adversarial", {}),
    "published cnn": ("cnn", {}),
    "published unet": ("unet", {}),
    "levelled patch": ("patch", {"level": 0.5}),
}


def log_mel(frames=64, bins=32, count=3):
    return torch.randn(count, 1, frames, bins, generator=torch.Generator().manual_seed(1))


def count(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def base(name, finetune=False, **options):
    """AST-base with twenty classes, as sizes without memory."""
    with torch.device("meta"):
        head = heads.build("embedding", n_classes=20, embed_dim=768)
        return classifier.Reprogrammed(
            reprogrammers.build(name, **options), backbones.build("ast"), head, finetune=finetune
        )


@pytest.mark.parametrize(
    ("name", "options", "trainable"),
    [
        ("none", {}, 16_916),
        ("noise", {}, 147_988),
        ("cnn", {}, 16_936),
        ("unet", {}, 18_201),
        ("none", {"finetune": True}, 86_204_180),
        ("unet", {"residual": True}, 18_200),
        ("affine", {}, 16_918),
        ("affine", {"per_band": True}, 17_172),
        ("patch", {}, 34_357),
        ("noise", {"rank": 8}, 26_132),
        ("noise", {"rank": 4}, 16_916 + 4 * (1024 + 128)),
        ("noise", {"per": "frame"}, 16_916 + 1024),
        ("noise", {"per": "band"}, 16_916 + 128),
        ("film", {}, 16_916 + 256 * 16 + 16 + 16 * 256 + 256),
        ("smm", {}, 16_916 + 25_081 + 131_072),
    ],
)
def test_trainable_parameters_are_the_papers(name, options, trainable):
    model = base(name, **options)
    assert sum(p.numel() for p in model.trainable_parameters()) == trainable
    assert sum(p.numel() for p in model.backbone.parameters()) == 86_594_063


@pytest.mark.parametrize(
    "options", [*IDENTITIES.values(), *OTHERS.values()], ids=[*IDENTITIES, *OTHERS]
)
def test_the_shape_is_kept(options):
    name, options = options
    found = reprogrammers.build(name, **SMALL, **options)(log_mel())
    assert found.shape == (3, 1, 64, 32)
    assert found.isfinite().all()


@pytest.mark.parametrize("options", IDENTITIES.values(), ids=IDENTITIES)
@pytest.mark.parametrize("training", [True, False])
def test_training_starts_exactly_at_the_identity(options, training):
    name, options = options
    assert torch.equal(
        reprogrammers.build(name, **SMALL, **options).train(training)(log_mel()), log_mel()
    )


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_the_others_do_not_start_at_the_identity(options):
    name, options = options
    torch.manual_seed(0)
    assert (reprogrammers.build(name, **SMALL, **options)(log_mel()) - log_mel()).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("start", "low", "high"), [("zero", 0, 0), ("normal", 0.9, 1.1), ("uniform", 0.03, 0.05)]
)
def test_noise_is_one_tensor_of_the_asked_size(start, low, high):
    torch.manual_seed(0)
    noise = reprogrammers.build("noise", start=start)
    assert noise.delta.shape == (1, 1, 1024, 128)
    assert count(noise) == 131_072
    assert low <= noise.delta.std() <= high
    x = log_mel(1024, 128, 2)
    assert torch.equal(noise(x), x + noise.delta)


@pytest.mark.parametrize(
    ("scale", "bound", "fill"), [(0.75, 1.0, 0.0), (0.5, 0.3, -2.0), (0.9, 2.0, 0.5)]
)
def test_the_border_holds_a_bounded_program_around_the_shrunken_input(scale, bound, fill):
    program = reprogrammers.build("adversarial", **SMALL, scale=scale, bound=bound, fill=fill)
    with torch.no_grad():
        program.program.copy_(
            5 * torch.randn(1, 1, 64, 32, generator=torch.Generator().manual_seed(2))
        )
        found = program(log_mel())
    frames, bins = round(64 * scale), round(32 * scale)
    top, left = (64 - frames) // 2, (32 - bins) // 2
    shrunken = functional.interpolate(
        log_mel(), (frames, bins), mode="bilinear", align_corners=False
    )
    assert torch.equal(found[..., top : top + frames, left : left + bins], shrunken)
    outside = torch.ones(64, 32, dtype=bool)
    outside[top : top + frames, left : left + bins] = False
    around = found[:, 0, outside]
    assert around.numel() == 3 * (64 * 32 - frames * bins)
    torch.testing.assert_close(
        around,
        (fill + bound * torch.tanh(program.program))[0, 0, outside].expand(3, -1),
        rtol=0,
        atol=1e-6,
    )
    assert (around - fill).abs().max() <= bound + 1e-6
    assert (around - fill).std() > bound / 2


def test_everywhere_adds_a_bounded_program_to_the_whole_input():
    program = reprogrammers.build("adversarial", **SMALL, place="everywhere", bound=0.1)
    torch.nn.init.constant_(program.program, 50.0)
    torch.testing.assert_close(program(log_mel()), log_mel() + 0.1, rtol=0, atol=1e-6)


def test_the_published_cnn_is_linear_and_has_twenty_parameters():
    cnn = reprogrammers.build("cnn", **SMALL)
    assert count(cnn) == 20
    x, y, zero = log_mel()[:1], log_mel()[1:2], torch.zeros(1, 1, 64, 32)
    torch.testing.assert_close(
        cnn(x + 2 * y) - cnn(zero), cnn(x) - cnn(zero) + 2 * (cnn(y) - cnn(zero)), rtol=0, atol=1e-5
    )
    assert count(reprogrammers.build("cnn", **SMALL, width=8)) == 9 * 8 + 8 + 9 * 8 + 1


def test_affine_scales_and_offsets():
    affine = reprogrammers.build("affine", **SMALL, per_band=True)
    with torch.no_grad():
        affine.scale[3], affine.offset[3] = 2.0, -0.5
    expected = log_mel()
    expected[..., 3] = 2 * expected[..., 3] - 0.5
    assert torch.equal(affine(log_mel()), expected)


def test_low_rank_noise_has_the_asked_rank():
    noise = reprogrammers.build("noise", **SMALL, rank=4)
    torch.nn.init.normal_(noise.bands)
    delta = (noise(log_mel()) - log_mel())[0, 0]
    torch.testing.assert_close((noise(log_mel()) - log_mel())[2, 0], delta, rtol=0, atol=1e-5)
    assert torch.linalg.matrix_rank(delta, rtol=1e-4) == 4
    assert count(noise) == 4 * (64 + 32)


@pytest.mark.parametrize(("per", "constant"), [("frame", 1), ("band", 0)])
def test_noise_per_frame_or_band_is_constant_along_the_other_axis(per, constant):
    torch.manual_seed(0)
    noise = reprogrammers.build("noise", **SMALL, per=per, start="normal")
    delta = noise(torch.zeros(1, 1, 64, 32))[0, 0]
    assert delta.std(dim=constant).max() == 0
    assert delta.std(dim=1 - constant).min() > 0.5


def test_film_scales_and_shifts_each_band_by_the_statistics_of_the_clip(spread):
    film, x = spread(reprogrammers.build("film", **SMALL, rank=5)), log_mel()
    for clip, transformed in zip(x, film(x), strict=True):
        statistics = torch.cat([clip[0].mean(dim=0), clip[0].std(dim=0, unbiased=False)])
        values = film.up(functional.gelu(film.down(statistics)))
        expected = clip * (1 + values[:32]) + values[32:]
        torch.testing.assert_close(transformed, expected, rtol=0, atol=1e-5)
        assert not torch.allclose(transformed, clip, atol=1e-2)


def test_the_mask_of_smm_is_the_inputs_and_constant_in_cells(spread):
    smm, x = spread(reprogrammers.build("smm", **SMALL)).eval(), log_mel()
    torch.nn.init.ones_(smm.delta)
    masks = smm(x) - x
    cells = masks.unfold(2, 8, 8).unfold(3, 8, 8)
    torch.testing.assert_close(cells, cells[..., :1, :1].expand_as(cells), rtol=0, atol=1e-5)
    assert (masks[0] - masks[1]).abs().max() > 1e-4
    torch.testing.assert_close(masks[:, :, ::8, ::8], smm.mask(x), rtol=0, atol=1e-5)


def test_patch_removes_a_share_of_the_level_of_frames_with_sound():
    patch, x = reprogrammers.build("patch", **SMALL, level=0.25, audio=50), log_mel() + 2
    mean = x[:, :, :50].mean((2, 3), keepdim=True)
    torch.testing.assert_close(patch(x)[:, :, :50], x[:, :, :50] - 0.25 * mean, rtol=0, atol=1e-6)
    assert torch.equal(patch(x)[:, :, 50:], x[:, :, 50:])


def test_patch_corrects_each_patch_by_itself():
    torch.manual_seed(4)
    patch, x = reprogrammers.build("patch", **SMALL, level=None, rank=5), log_mel()
    for parameter in patch.parameters():
        torch.nn.init.normal_(parameter)
    found = patch(x)
    for top, left in ((0, 0), (32, 16), (48, 0)):
        cut = x[1, 0, top : top + 16, left : left + 16]
        hidden = functional.gelu(patch.down(patch.norm(cut.reshape(256))) + patch.row[left // 16])
        torch.testing.assert_close(
            found[1, 0, top : top + 16, left : left + 16],
            cut + patch.up(hidden).view(16, 16),
            rtol=0,
            atol=1e-4,
        )
    changed = x.clone()
    changed[:, :, 16:32, :16] += 1 + torch.arange(16.0)
    differs = (patch(changed) != found).any(1).any(0)
    assert differs[16:32, :16].all()
    assert differs.sum() == 256


@pytest.mark.parametrize(
    "options",
    [*list(IDENTITIES.values())[1:], *OTHERS.values()],
    ids=[*list(IDENTITIES)[1:], *OTHERS],
)
def test_gradients_reach_every_parameter(options):
    name, options = options
    torch.manual_seed(5)
    program = reprogrammers.build(name, **SMALL, **options)
    for parameter in program.parameters():  # away from zero, where a product passes nothing back
        torch.nn.init.normal_(parameter, std=0.1) if parameter.dim() > 1 else parameter.data.add_(
            0.1
        )
    (program(log_mel()) * log_mel().flip(0)).sum().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0
        for p in program.parameters()
    )


UNET = [(4, 1), (8, 4), (8, 8), (4, 8), (1, 4), (1, 1)]  # e1 e2 e3 d4 d5 d6: channels out and in


def test_the_unet_has_the_published_layers():
    unet = reprogrammers.build("unet")
    convolutions = [m for m in unet.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [tuple(m.weight.shape) for m in convolutions] == [(*channels, 3, 3) for channels in UNET]
    assert all(m.bias is None and m.padding == (1, 1) and m.stride == (1, 1) for m in convolutions)
    norms = [m for m in unet.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [m.num_features for m in norms] == [out for out, _ in UNET]
    assert sum(isinstance(m, torch.nn.ReLU) for m in unet.modules()) == 6
    assert count(unet) == 1_285


def test_the_unet_computes_the_published_layers():
    torch.manual_seed(3)
    unet, x = reprogrammers.build("unet", **SMALL).eval(), log_mel()
    weights = [m.weight for m in unet.modules() if isinstance(m, torch.nn.Conv2d)]

    def layer(k, value):  # BatchNorm at its start: mean 0, variance 1, eps 1e-5
        return torch.relu(functional.conv2d(value, weights[k], padding=1) / (1 + 1e-5) ** 0.5)

    def double(value):
        return functional.interpolate(value, scale_factor=2, mode="bilinear", align_corners=True)

    e1 = functional.max_pool2d(layer(0, x), 2)
    e2 = functional.max_pool2d(layer(1, e1), 2)
    e3 = functional.max_pool2d(layer(2, e2), 2)
    expected = layer(5, double(layer(4, double(layer(3, double(e3) + e2)) + e1)) + x)
    torch.testing.assert_close(unet(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_published_unet_never_gives_negative_values(training):
    found = reprogrammers.build("unet", **SMALL).train(training)(log_mel() - 3)
    assert found.min() == 0
    assert found.max() > 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("umet", {}, "unknown reprogrammer 'umet': did you mean 'unet'"),
        (
            "unet",
            {"residul": True},
            "option of reprogrammer 'unet' 'residul': did you mean 'residual'",
        ),
        ("none", {"width": 3}, "'width'.*valid: bins, frames"),
        ("noise", {"start": "normale"}, "did you mean 'normal'.*uniform, zero"),
        ("adversarial", {"place": "boarder"}, "did you mean 'border'"),
        ("adversarial", {"scale": 1.0}, "scale 1.0.*expected 0 < scale < 1"),
        ("adversarial", {"scale": 0}, "expected 0 < scale < 1"),
        ("adversarial", {"bound": 0.0}, "bound 0.0.*bound > 0"),
        ("adversarial", {"bound": float("nan")}, "bound.*nan"),
        ("cnn", {"nonlinearity": "rleu"}, "did you mean 'relu'"),
        ("cnn", {"width": 0}, "width 0; expected 1 or more"),
        ("noise", {"rank": 0}, "rank 0"),
        (
            "noise",
            {"rank": 2, "start": "normal"},
            "rank 2, start 'normal', per 'cell'; expected a rank of 1 or more, which",
        ),
        ("noise", {"per": "bands"}, "did you mean 'band'"),
        ("noise", {"per": "band", "rank": 2}, "rank 2, start 'zero', per 'band'"),
        ("film", {"rank": 0}, "film: rank 0; expected 1 or more"),
        ("smm", {"frames": 60}, "60 x 32 frames x bins are not multiples of 8"),
        ("affine", {"perband": True}, "did you mean 'per_band'"),
        ("patch", {"size": 24}, "64 x 32 frames x bins are not multiples of the patch's side, 24"),
        ("patch", {"size": 0}, "patch's side, 0"),
        ("patch", {"rank": 0}, "rank 0, audio 998; expected 1 or more"),
        ("patch", {"audio": 0}, "audio 0; expected 1 or more"),
        ("unet", {"frames": 60}, "60 x 32 frames x bins are not multiples of 8"),
        ("unet", {"bins": 33}, "64 x 33"),
    ],
)
def test_impossible_choices_are_refused_in_one_line(name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        reprogrammers.build(name, **(SMALL | options))
    assert "\n" not in str(caught.value)
