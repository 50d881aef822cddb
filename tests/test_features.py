"""The log-mel equals that of AST's loader and of a second Kaldi; VGGish is read safely."""

import json
from pathlib import Path

import kaldi_native_fbank as knf
import numpy as np
import pytest
import torch
from torchaudio.compliance import kaldi

from ast_repr import backbones, features, manifest
from ast_repr.features import spectrum, vggish

RATE = 16_000


def noise(seconds):
    return 0.3 * np.random.default_rng(1).standard_normal(round(seconds * RATE)).astype(
        np.float32
    ).clip(-3, 3) + np.float32(0.02)


def chirp(seconds):
    """100 Hz to 7.5 kHz, an offset to be removed, a little noise (Kaldis differ in silence)."""
    t = np.arange(round(seconds * RATE)) / RATE
    tone = 0.5 * np.sin(2 * np.pi * (100 * t + (7400 / seconds) * t**2 / 2)) + 0.05
    return (tone + 0.01 * np.random.default_rng(2).standard_normal(len(t))).astype(np.float32)


def ast_loader(waveform, frames=1024):
    """Compute the log-mel of the authors' dataloader (`_wav2fbank`), before its normalisation."""
    waveform = torch.from_numpy(waveform)[None]
    waveform = waveform - waveform.mean()
    fbank = kaldi.fbank(
        waveform,
        htk_compat=True,
        sample_frequency=RATE,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )
    return torch.nn.functional.pad(fbank, (0, 0, 0, max(0, frames - len(fbank))))[:frames]


def native_fbank(waveform):
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = "hanning"
    options.frame_opts.samp_freq = RATE
    options.mel_opts.num_bins = 128
    options.use_energy = False
    options.htk_compat = True
    bank = knf.OnlineFbank(options)
    bank.accept_waveform(RATE, (waveform - waveform.mean()).tolist())
    bank.input_finished()
    return np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)])


def logmel(waveform, **kwargs):
    return features.build("logmel", **kwargs)(torch.from_numpy(waveform)[None])[0, 0]


@pytest.mark.parametrize("signal", [noise, chirp])
@pytest.mark.parametrize("seconds", [2.5, 10, 12])
def test_it_equals_the_authors_loader(signal, seconds):
    result = logmel(signal(seconds))
    assert result.shape == (1024, 128)
    assert result.dtype == torch.float32
    assert torch.equal(result, ast_loader(signal(seconds)))


@pytest.mark.parametrize("signal", [noise, chirp])
def test_it_equals_a_second_kaldi_implementation(signal):
    expected = native_fbank(signal(3))
    apart = np.abs(logmel(signal(3))[: len(expected)].numpy() - expected)
    faint = (
        expected < expected.max(axis=1, keepdims=True) - 15
    )  # 65 dB under the frame's peak: rounding of the FFT shows
    assert apart[~faint].max() <= 1e-3
    assert apart.max() <= 0.05
    assert expected.shape == (298, 128)
    assert expected.std() > 0.5
    assert faint.mean() < 0.4


@pytest.mark.parametrize("bins", [40, 128])
def test_mel_filters_equal_those_of_torchaudio(bins):
    expected, _ = kaldi.get_mel_banks(bins, 512, RATE, 20.0, 0.0, 100.0, -500.0, 1.0)
    result = spectrum.htk_filters(RATE, 512, bins, 20.0, RATE / 2)
    assert torch.equal(result[:-1], expected.T)
    assert not result[-1].any()


def test_ten_seconds_are_998_frames_then_exact_zeros():
    result = logmel(noise(10))
    assert (result[:998] != 0).any(dim=1).all()
    assert (result[998:] == 0).all()
    assert len(result[998:]) == 26


def test_silence_is_the_logarithm_of_the_smallest_float():
    assert torch.equal(
        logmel(np.zeros(RATE, np.float32))[:98],
        torch.full((98, 128), torch.finfo(torch.float32).eps).log(),
    )


def test_longer_sound_is_cut_to_the_frames_asked_for():
    assert torch.equal(logmel(noise(2), frames=64), logmel(noise(2))[:64])


def test_a_clip_does_not_depend_on_its_batch():
    waveforms = torch.from_numpy(np.stack([noise(1), chirp(1), np.zeros(RATE, np.float32)]))
    feature = features.build("logmel", frames=128)
    together = feature(waveforms)
    assert together.shape == (3, 1, 128, 128)
    for i in range(3):
        assert torch.equal(together[i : i + 1], feature(waveforms[i : i + 1]))


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_less_than_one_frame_gives_zeros(samples):
    result = features.build("logmel")(torch.full((2, samples), 0.5))
    assert result.shape == (2, 1, 1024, 128)
    assert not result.any()


def test_one_frame_of_samples_gives_one_frame():
    result = logmel(noise(1)[:400])
    assert result[0].any()
    assert not result[1:].any()


@pytest.mark.parametrize("shape", [(16_000,), (1, 1, 16_000)])
def test_waveforms_must_be_a_batch(shape):
    with pytest.raises(ValueError, match=r"shape \(B, N\), found"):
        features.build("logmel")(torch.zeros(shape))


def test_the_spec_tells_settings_apart():
    spec = features.build("logmel").spec()
    assert spec == features.build("logmel").spec()
    assert (
        spec
        != features.build("logmel", frames=512).spec()
        != features.build("logmel", bins=64).spec()
    )
    assert features.build("logmel", frames=512, bins=64).shape == (1, 512, 64)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        (
            "logmell",
            {},
            "unknown feature 'logmell': did you mean 'logmel'. "
            "valid: han_mel, logmel, logmel_passt, logmel_vggish, multi_stft, musicnn_mel, "
            "panns_mel, scalogram, vggish",
        ),
        ("logmel", {"frame": 3}, "'frame': did you mean 'frames'. valid: bins, frames"),
    ],
)
def test_an_unknown_name_or_option_lists_the_valid_ones(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        features.build(name, **kwargs)


def test_statistics_are_those_of_audiosets_recipe():
    feature = features.build("logmel")
    assert (feature.mean, feature.std) == (backbones.AUDIOSET_MEAN, backbones.AUDIOSET_STD)


def sidecar(tmp_path, text):
    """Where the audio of a clip would be, with `text` for its VGGish."""
    path = tmp_path / "vggish" / "000" / "000046_3840.json"
    path.parent.mkdir(parents=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return tmp_path / "audio" / "000" / "000046_3840.ogg"


def vggish_frames():
    return np.random.default_rng(3).integers(0, 256, (10, 128)).tolist()


def test_a_byte_order_mark_before_vggish_changes_nothing(tmp_path):
    text = json.dumps({"features": vggish_frames()})
    feature = features.build("vggish")
    plain = feature.read(sidecar(tmp_path / "plain", text))
    assert torch.equal(feature.read(sidecar(tmp_path / "marked", "\ufeff" + text)), plain)


def test_vggish_lies_beside_the_audio():
    audio = "/x/openmic-2018/audio/000/000046_3840.ogg"
    assert manifest.sidecar(audio, "vggish") == Path("/x/openmic-2018/vggish/000/000046_3840.json")


def test_vggish_is_read_as_it_is_and_survives_the_store(tmp_path):
    frames = vggish_frames()
    feature = features.build("vggish")
    result = feature.read(
        sidecar(tmp_path, {"time_points": [0.96 * i for i in range(10)], "features": frames})
    )
    assert result.shape == feature.shape == (1, feature.frames, feature.bins)
    assert result.dtype == torch.float32
    assert result[0].tolist() == frames
    whole = torch.arange(256.0)
    assert torch.equal(whole.half().float(), whole)  # the store's precision
    torch.testing.assert_close(
        (whole - feature.mean) / (2 * feature.std), whole / 255, rtol=0, atol=1e-7
    )
    assert feature.spec() != features.build("logmel").spec()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "found no JSON object"),
        ("[" * 100_000, "found no JSON object"),
        ({"time_points": []}, "found no JSON object with 'features'"),
        ([1, 2], "found no JSON object"),
        ({"features": 3}, "found int, expected 10 frames of 128"),
        ({"features": []}, "found 0 frames of nothing"),
        ({"features": [[0] * 128] * 9}, "found 9 frames of 128, expected 10"),
        ({"features": [[0] * 128] * 9 + [[0] * 127]}, "found 10 frames of 127 and 128"),
        ({"features": [[0] * 128] * 9 + [7]}, "found 10 frames of 0 and 128"),
        (
            {"features": [[0] * 128] * 9 + [[0] * 127 + [256]]},
            "found 256, expected whole numbers from 0 to 255",
        ),
        ({"features": [[0] * 128] * 9 + [[0] * 127 + [-1]]}, "found -1"),
        ({"features": [[0] * 128] * 9 + [[0] * 127 + [0.5]]}, "found 0.5"),
        ({"features": [[0] * 128] * 9 + [[0] * 127 + ["1"]]}, "found '1'"),
        ({"features": [[0] * 128] * 9 + [[0] * 127 + [None]]}, "found None"),
        ({"features": [[0] * 128] * 9 + [[0] * 127 + [True]]}, "found True"),
    ],
)
def test_damaged_vggish_is_refused(content, message, tmp_path):
    with pytest.raises(vggish.VGGishError, match=f"000046_3840.json: {message}"):
        features.build("vggish").read(sidecar(tmp_path, content))


def test_missing_vggish_is_refused(tmp_path):
    with pytest.raises(ValueError, match="x.json: no such file; expected the VGGish of .*x.ogg"):
        features.build("vggish").read(tmp_path / "audio" / "000" / "x.ogg")


def test_vggish_is_not_computed_from_sound():
    with pytest.raises(ValueError, match="read from OpenMIC-2018's files"):
        features.build("vggish")(torch.zeros(1, RATE))
