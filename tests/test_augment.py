"""Stripes no longer than asked for; mixtures against those of waveforms; noise and gains."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ast_repr import config, features, sections, stft_stack
from ast_repr.data import dataset
from ast_repr.data.dataset import Batch
from ast_repr.losses import masked_bce
from ast_repr.settings import Augment, Mix, Mixup
from ast_repr.training import augment


def hidden(time, freq, seed=0, size=64):
    x = torch.randn(size, 1, 50, 20, generator=torch.Generator().manual_seed(1))
    out = augment.spec_augment(x.clone(), dataset.generator(seed), time=time, freq=freq, fill=9.0)
    assert torch.equal(out[out != 9.0], x[out != 9.0])
    return (out == 9.0)[:, 0]


@pytest.mark.parametrize(("time", "freq"), [(12, 0), (0, 6), (12, 6)])
def test_each_clip_has_at_most_one_stripe_of_each_kind_and_no_longer_than_asked_for(time, freq):
    mask = hidden(time, freq)
    for other, longest in ((2, time), (1, freq)):
        stripes = mask.all(dim=other).int()
        lengths = stripes.sum(dim=1)
        assert lengths.max() <= longest and (not longest or lengths.max() > longest // 2)
        assert (stripes.diff(dim=1).abs().sum(dim=1) <= 2).all()
    whole = mask.all(dim=2, keepdim=True) | mask.all(dim=1, keepdim=True)
    assert torch.equal(mask, mask & whole)


def test_nothing_is_hidden_where_nothing_is_asked_for():
    assert not hidden(0, 0).any()


def test_the_same_generator_hides_the_same_cells_and_another_one_others():
    assert torch.equal(hidden(12, 6, seed=3), hidden(12, 6, seed=3))
    assert not torch.equal(hidden(12, 6, seed=3), hidden(12, 6, seed=4))


def test_a_band_may_have_its_own_fill():
    fill = torch.arange(20.0)
    x = torch.randn(4, 1, 50, 20)
    out = augment.spec_augment(x, dataset.generator(0), time=12, freq=6, fill=fill)
    assert torch.equal(out, torch.where(out == x, x, fill)) and not torch.equal(out, x)


def test_clips_of_a_batch_have_stripes_of_their_own():
    assert len({tuple(row.flatten().tolist()) for row in hidden(12, 6)}) > 50


RATES = {
    "logmel": 16_000,
    "logmel_passt": 32_000,
    "logmel_vggish": 16_000,
    "musicnn_mel": 16_000,
    "panns_mel": 32_000,
    "han_mel": 22_050,
    "multi_stft": 22_050,
    "scalogram": 16_000,
}
SECONDS = {
    "logmel": {"frames": 298, "seconds": 3.0},
    "musicnn_mel": {"frames": 188, "seconds": 3.0},
    "panns_mel": {"frames": 301, "seconds": 3.0},
    "han_mel": {"seconds": 3.0},
    "logmel_passt": {"frames": 300, "seconds": 3.0},
    "logmel_vggish": {"seconds": 3.0},
    "scalogram": {"seconds": 3.0, "bins": 48},
}


def tones(frequencies, rate, seed):
    """Three seconds of harmonic tones with noise, peak 0.5 at most."""
    time = np.arange(3 * rate) / rate
    rng = np.random.default_rng(seed)
    wave = sum(np.sin(2 * np.pi * hz * time + rng.uniform(0, 6)) for hz in frequencies)
    wave = wave * np.exp(-time) + 0.05 * rng.standard_normal(len(time))
    return torch.from_numpy(0.5 * wave / np.abs(wave).max()).float()


def batch_of(features, targets=None, mask=None):
    targets = torch.eye(len(features), 3) if targets is None else targets
    mask = torch.ones(targets.shape, dtype=torch.bool) if mask is None else mask
    return Batch(features, targets, mask)


@pytest.mark.parametrize("name", RATES)
def test_powers_are_undone(name):
    feature = features.build(name, **SECONDS.get(name, {}))
    x = feature(tones([220, 700, 3000], RATES[name], 0)[None])
    torch.testing.assert_close(feature.from_power(feature.to_power(x)), x, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", RATES)
def test_mixing_is_close_to_the_feature_of_mixed_waveforms(name):
    """Without a gain both are equally loud; the phases of each cell make the difference."""
    feature = features.build(name, **SECONDS.get(name, {}))
    waves = [tones([220, 660, 1100], RATES[name], 1), tones([330, 1500, 4000], RATES[name], 2)]
    first, second = (feature(wave[None]) for wave in waves)
    batch = batch_of(torch.cat([first, second]))
    mixed = augment.mix(batch, dataset.generator(0), feature, 1.0, 0.0)
    loudness = [feature.to_power(x).sum() for x in (first, second)]
    ratio = (loudness[0] / loudness[1]).sqrt()
    if name == "multi_stft":  # its powers are relative to each clip's loudest cell
        ratio = (waves[0].square().sum() / waves[1].square().sum()).sqrt()
    expected = feature((waves[0] + ratio * waves[1])[None] / 2**0.5)
    audible = (expected != 0) & (
        feature.to_power(expected) > 1e-6 * feature.to_power(expected).max()
    )
    decibels = 10 * (feature.to_power(mixed.features[:1]) / feature.to_power(expected)).log10()
    decibels = decibels[audible]
    if name == "han_mel":  # the peak of a sum is not known
        decibels = decibels - decibels.median()
    assert decibels.median().abs() < 1.5
    assert decibels.abs().median() < 2.5


def test_a_mixture_has_the_labels_of_both_and_the_level_of_the_first():
    feature = features.build("musicnn_mel", frames=50)
    x = feature.from_power(
        torch.rand(3, 1, 50, 96) * torch.tensor([1.0, 10.0, 0.1])[:, None, None, None]
    )
    mixed = augment.mix(batch_of(x), dataset.generator(0), feature, 1.0, 12.0)
    assert torch.equal(mixed.targets, torch.tensor([[1.0, 0, 1], [1, 1, 0], [0, 1, 1]]))
    assert mixed.mask.all()
    before = feature.to_power(x).sum(dim=(1, 2, 3))
    after = feature.to_power(mixed.features).sum(dim=(1, 2, 3))
    torch.testing.assert_close(after, before, rtol=1e-3, atol=0)


def test_a_gain_decides_which_clip_is_louder():
    feature = features.build("musicnn_mel", frames=200)
    power = torch.zeros(2, 1, 200, 96)
    power[0, ..., :48] = 1.0
    power[1, ..., 48:] = 1.0
    x = feature.from_power(power).repeat(200, 1, 1, 1)
    batch = batch_of(x, torch.zeros(400, 3))
    mixed = feature.to_power(augment.mix(batch, dataset.generator(0), feature, 1.0, 6.0).features)
    decibels = 10 * (mixed[::2, 0, 0, 48] / mixed[::2, 0, 0, 0]).log10()
    assert -6.01 < decibels.min() < -5.5 and 5.5 < decibels.max() < 6.01


def test_an_unobserved_class_stays_so_unless_the_other_clip_has_it():
    feature = features.build("musicnn_mel", frames=5)
    targets = torch.tensor([[1.0, 0.0, 7.0], [0.0, 7.0, 7.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    batch = batch_of(torch.rand(2, 1, 5, 96), targets, mask)
    mixed = augment.mix(batch, dataset.generator(0), feature, 1.0, 0.0)
    assert mixed.mask.tolist() == [[True, False, False]] * 2
    assert mixed.targets[:, 0].tolist() == [1.0, 1.0]


def test_clips_that_are_not_drawn_are_unchanged_to_the_bit():
    feature = features.build("logmel", frames=50)
    batch = batch_of(torch.randn(400, 1, 50, 128), torch.rand(400, 3))
    mixed = augment.mix(batch, dataset.generator(0), feature, 0.3, 6.0)
    same = (mixed.features == batch.features).flatten(1).all(dim=1)
    assert 0.6 < same.float().mean() < 0.8
    assert torch.equal(mixed.targets[same], batch.targets[same])
    nothing = augment.mix(batch, dataset.generator(0), feature, 0.0, 6.0)
    assert all(torch.equal(a, b) for a, b in zip(nothing[:3], batch[:3], strict=True))


def test_padding_stays_padding():
    feature = features.build("logmel", frames=60)
    x = feature(torch.stack([tones([220], 16_000, k) for k in range(2)])[:, :8_000])
    settings = Augment(Mix(1.0, 6.0), noise=0.3, gain_db=6.0, time=0, freq=0, fill="zero")
    out = augment.augment(batch_of(x), dataset.generator(0), settings, feature, 0.0).features
    assert torch.equal(out == 0, x == 0) and (x[:, :, 48:] == 0).all()


def test_noise_has_at_most_its_amplitude_and_gains_their_decibels():
    feature = features.build("musicnn_mel", frames=100)
    x = feature.from_power(torch.ones(64, 1, 100, 96))
    settings = Augment(None, noise=0.5, gain_db=0.0, time=0, freq=0, fill="zero")
    noisy = augment.augment(batch_of(x), dataset.generator(0), settings, feature, 0.0)
    added = feature.to_power(noisy.features).mean(dim=(1, 2, 3)) - 1
    assert 0 <= added.min() < 0.01 and 0.2 < added.max() < 0.26
    settings = Augment(None, noise=0.0, gain_db=3.0, time=0, freq=0, fill="zero")
    louder = augment.augment(batch_of(x), dataset.generator(0), settings, feature, 0.0)
    decibels = 10 * feature.to_power(louder.features).log10()
    assert -3.01 < decibels.min() < -2.5 and 2.5 < decibels.max() < 3.01


def sinusoid(name, hz, start_s):
    """Powers (T, F) of three seconds of a feature, silent before `start_s`."""
    feature = features.build(name, **SECONDS.get(name, {}))
    time = torch.arange(3 * RATES[name]) / RATES[name]
    wave = torch.sin(2 * torch.pi * hz * time) * (time >= start_s)
    return feature, feature.to_power(feature(wave[None]))


def spectrogram(name, power):
    return stft_stack.unfold(power)[2][0] if name == "multi_stft" else power[0, 0]


@pytest.mark.parametrize("name", RATES)
def test_a_sinusoid_of_another_pitch_is_where_a_higher_one_is(name):
    feature, power = sinusoid(name, 800, 0.0)
    fifth_up = feature.warp(power, torch.tensor([1.0]), torch.tensor([1.5]))
    _, expected = sinusoid(name, 1200, 0.0)
    band = spectrogram(name, fifth_up).sum(dim=0).argmax()
    assert abs(band - spectrogram(name, expected).sum(dim=0).argmax()) <= 1


@pytest.mark.parametrize("name", RATES)
def test_at_twice_the_tempo_a_sinusoid_begins_in_half_the_time_and_ends(name):
    feature, power = sinusoid(name, 800, 2.0)
    faster = feature.warp(power, torch.tensor([2.0]), torch.tensor([1.0]))
    envelope = spectrogram(name, faster).sum(dim=1)
    sounds = (envelope > 0.3 * envelope.max()).nonzero().flatten()
    frames_per_s = len(envelope) / 3
    assert sounds[0].item() == pytest.approx(frames_per_s, abs=4)
    assert sounds[-1].item() == pytest.approx(1.5 * frames_per_s, abs=4)
    assert torch.equal(feature.warp(power, torch.ones(1), torch.ones(1)), power)


def test_changes_of_tempo_and_pitch_keep_to_their_range_and_the_labels():
    feature = features.build("musicnn_mel", frames=200)
    power = torch.zeros(300, 1, 200, 96)
    power[:, :, 100, 48] = 1.0
    settings = Augment(None, 0.0, 0.0, time=0, freq=0, fill="zero", stretch=0.1, semitones=2.0)
    assert augment.is_active(settings)
    batch = batch_of(feature.from_power(power), torch.rand(300, 3))
    out = augment.augment(batch, dataset.generator(0), settings, feature, 0.0)
    assert torch.equal(out.targets, batch.targets)
    frames = feature.to_power(out.features).sum(dim=3).argmax(dim=2)
    bands = feature.to_power(out.features).sum(dim=2).argmax(dim=2)
    assert 90 <= frames.min() < 93 and 108 < frames.max() <= 112  # 100 / 1.1 and 100 / 0.9
    ratios = feature.hz[bands] / feature.hz[48]
    assert 0.87 < ratios.min() < 0.91 and 1.1 < ratios.max() < 1.15  # bands are 3 % apart
    again = augment.augment(batch, dataset.generator(0), settings, feature, 0.0)
    assert torch.equal(again.features, out.features)


@pytest.mark.parametrize("name", RATES)
def test_a_pitch_shift_of_zero_changes_nothing_and_an_octave_doubles_the_frequency(name):
    feature, power = sinusoid(name, 800, 0.0)
    batch = batch_of(feature.from_power(power))
    same = augment.shift_pitch(batch, feature, 0.0)
    torch.testing.assert_close(same.features, batch.features, rtol=0, atol=2e-3)
    octave = feature.to_power(augment.shift_pitch(batch, feature, 12.0).features)
    _, expected = sinusoid(name, 1600, 0.0)
    band = spectrogram(name, octave).sum(dim=0).argmax()
    assert abs(band - spectrogram(name, expected).sum(dim=0).argmax()) <= 1


FILTERED = ["logmel", "logmel_passt", "logmel_vggish", "musicnn_mel", "panns_mel"]
FILTERED += ["han_mel", "scalogram"]


def test_a_filter_peaks_at_the_gain_that_was_drawn():
    hz = torch.logspace(np.log10(100), np.log10(8_000), 4_000, dtype=torch.float64)
    power = torch.rand(50, 1, 2, 4_000)
    filtered = augment.filter_frequencies(power, dataset.generator(0), hz, 10.0)
    gains_db = 10 * (filtered / power).log10()[:, 0]
    torch.testing.assert_close(gains_db[:, 0], gains_db[:, 1], rtol=0, atol=1e-4)
    drawn = 20 * torch.rand(50, generator=dataset.generator(0)) - 10
    largest = gains_db[:, 0].abs().argmax(dim=1, keepdim=True)
    peaks = gains_db[:, 0].gather(1, largest)[:, 0]
    torch.testing.assert_close(peaks, drawn, rtol=0, atol=0.01)
    assert hz[largest].min() > 149 and hz[largest].log2().std() > 1  # octaves
    touched = gains_db[:, 0].abs() > 0.61 * peaks.abs()[:, None]  # one deviation to each side
    octaves = touched.sum(dim=1) * np.log2(80) / 4_000
    assert 10 / 12 * 0.8 < octaves.median() < 10 / 12 * 1.2  # two deviations of five semitones


@pytest.mark.parametrize("name", FILTERED)
def test_filters_change_features_with_frequencies_and_none_change_at_0_db(name):
    feature = features.build(name, **SECONDS.get(name, {}))
    x = feature(tones([220, 700, 3000], RATES[name], 0)[None])
    settings = Augment(None, 0.0, 0.0, time=0, freq=0, fill="mean", filter_db=10.0)
    assert augment.is_active(settings)
    out = augment.augment(batch_of(x), dataset.generator(0), settings, feature, 0.0).features
    assert not torch.equal(out, x) and torch.equal(out == 0, x == 0)
    same = augment.filter_frequencies(x, dataset.generator(0), feature.hz, 0.0)
    assert torch.equal(same, x)


def test_dropout_masks_single_cells_and_none_at_probability_0():
    feature = features.build("vggish")
    fill = torch.arange(128.0)
    batch = batch_of(torch.randn(40, 1, 10, 128))
    settings = Augment(None, 0.0, 0.0, time=0, freq=0, fill="mean", dropout=0.2)
    assert augment.is_active(settings)
    out = augment.augment(batch, dataset.generator(0), settings, feature, fill).features
    dropped = out != batch.features
    assert torch.equal(out, torch.where(dropped, fill, batch.features))
    assert 0.19 < dropped.float().mean() < 0.21
    settings = replace(settings, dropout=0.0)
    assert not augment.is_active(settings)
    out = augment.augment(batch, dataset.generator(0), settings, feature, fill).features
    assert torch.equal(out, batch.features)


def test_bands_without_frequencies_are_not_filtered():
    settings = Augment(None, 0.0, 0.0, time=0, freq=0, fill="mean", filter_db=10.0)
    batch = batch_of(torch.rand(2, 3, 8, 128))
    with pytest.raises(ValueError, match="MultiSTFT have no frequencies"):
        augment.augment(batch, dataset.generator(0), settings, features.build("multi_stft"), 0.0)


def mixed_up(missing, alpha=0.3, seed=0):
    """(batch, the batch after mixup, each clip's share) of clips with missing labels."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(40, 3, generator=generator) < 0.5
    targets = (torch.rand(40, 3, generator=generator) < 0.5).float()
    batch = Batch(
        torch.eye(40)[:, None, :, None],
        torch.where(mask, targets, torch.nan),
        mask,
        torch.eye(40)[:, :, None],
        torch.eye(40),
    )
    mixed = augment.mixup(batch, dataset.generator(seed), alpha, missing)
    return batch, mixed, mixed.teacher_logits.diagonal()


@pytest.mark.parametrize("missing", ["ignored", "negative"])
def test_mixup_interpolates_features_and_what_a_teacher_computed_by_one_share(missing):
    _, mixed, shares = mixed_up(missing)
    expected = shares.diag() + (1 - shares).diag().roll(-1, 1)  # the next clip: one row above
    for tensor in (mixed.features, mixed.teacher_frames, mixed.teacher_logits):
        torch.testing.assert_close(tensor.reshape(40, 40), expected, rtol=0, atol=1e-6)
    assert 0.5 <= shares.min() < 0.7 and 0.99 < shares.max() <= 1
    assert not torch.equal(shares, mixed_up(missing, seed=1)[2])
    again = mixed_up(missing)[1]
    assert all(torch.equal(a, b) for a, b in zip(mixed, again, strict=True))


def test_mixup_of_partial_labels_is_the_loss_of_both_clips_by_their_shares():
    batch, mixed, shares = mixed_up("ignored")
    logits = torch.randn(40, 3)
    total = 0.0
    weight = 0.0
    for share, roll in ((shares, 0), (1 - shares, 1)):
        mask = batch.mask.roll(roll, 0)
        targets = batch.targets.roll(roll, 0)
        cells = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, targets.nan_to_num(), reduction="none"
        )
        total += (share[:, None] * mask * cells).sum()
        weight += (share[:, None] * mask).sum()
    loss = masked_bce(logits, mixed.targets, mixed.mask)
    torch.testing.assert_close(loss, total / weight)


def test_mixup_as_published_takes_missing_labels_for_negatives():
    batch, mixed, shares = mixed_up("negative")
    assert torch.equal(mixed.mask, batch.mask | batch.mask.roll(1, 0))
    first = batch.targets.nan_to_num()
    expected = shares[:, None] * first + (1 - shares[:, None]) * first.roll(1, 0)
    torch.testing.assert_close(mixed.targets, expected)


def test_mixup_needs_no_powers():
    settings = Augment(None, 0.0, 0.0, time=0, freq=0, fill="mean", mixup=Mixup(0.3))
    assert augment.is_active(settings)
    batch = batch_of(torch.rand(8, 1, 10, 128))
    feature = features.build("vggish")
    out = augment.augment(batch, dataset.generator(0), settings, feature, 0.0)
    assert not torch.equal(out.features, batch.features) and out.mask.is_floating_point()


def test_mixup_needs_a_loss_per_class():
    confs = Path(__file__).parents[1] / "egs" / "openmic" / "conf"
    settings = ["augment.mixup.alpha=0.3"]
    sections.check(config.load(confs, "student_small", settings=settings))
    settings += ["method.loss=cross_entropy", "head.softmax=true"]
    with pytest.raises(ValueError, match="augment.mixup with loss cross_entropy"):
        sections.check(config.load(confs, "student_small", settings=settings))


def test_a_feature_without_powers_is_masked_only():
    settings = Augment(Mix(1.0, 6.0), noise=0.0, gain_db=0.0, time=0, freq=0, fill="zero")
    batch = batch_of(torch.rand(2, 1, 10, 128))
    with pytest.raises(ValueError, match="VGGish has no powers"):
        augment.augment(batch, dataset.generator(0), settings, features.build("vggish"), 0.0)
    with pytest.raises(ValueError, match="VGGish .*; expected test_augment: null"):
        augment.shift_pitch(batch, features.build("vggish"), 1.0)
    settings = replace(settings, mix=None, time=5)
    augment.augment(batch, dataset.generator(0), settings, features.build("vggish"), 0.0)
