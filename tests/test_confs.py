"""Every shipped conf builds a model, method, optimizer and schedule under both protocols."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ast_repr import (
    backbones,
    choices,
    config,
    features,
    methods,
    model_spec,
    pretrained,
    sections,
)
from ast_repr.backbones import weights
from ast_repr.classifier import build_model
from ast_repr.data import dataset
from ast_repr.data.dataset import Batch
from ast_repr.reprogrammers import REPROGRAMMERS
from ast_repr.settings import Input, RunIdentity, Section
from ast_repr.training import augment, optim

SHIPPED = Path(__file__).parents[1] / "egs" / "openmic" / "conf"
IRMAS = SHIPPED.parents[1] / "irmas" / "conf"
MAGNATAGATUNE = SHIPPED.parents[1] / "magnatagatune" / "conf"
CONFS = choices.confs(SHIPPED)
RUN = RunIdentity("openmic", "", [], "ast_tiny_synth", "", "", seed=0)
CLASSES = list(pretrained.zero_shot("ast_audioset")["names"])[:20]


@pytest.fixture(scope="module")
def base_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    weights.save(backbones.build("ast"), path)
    return path


@pytest.mark.parametrize("lacking", [[], ["vggish"]], ids=["with vggish", "without vggish"])
@pytest.mark.parametrize("protocol", ["clean", pytest.param("paper", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CONFS)
def test_every_shipped_conf_builds_and_runs(name, protocol, lacking, backbone_file, tiny_clips):
    conf = config.load(SHIPPED, name, "openmic", protocol, lacking=lacking)
    assert conf.protocol == protocol
    assert (conf.select.split == "test") == (protocol == "paper")
    shape = features.build(**conf.feature.to_dict()).shape
    model, feature = build(conf, backbone_file, tiny_clips(2, shape=shape))
    if model.trainable_parameters():
        methods.build(model=model, **conf.method.to_dict())
        assert len(optim.build(model=model, **conf.optimizer.to_dict()).param_groups) in (1, 2)
        schedule = conf.schedule.to_dict()
        assert 0 <= optim.factor(epoch=0.5, epochs=conf.train.epochs, **schedule) <= 1
    if hasattr(model.head, "fit"):
        is_embedding = model.head.input_key == "embedding"
        width = model.backbone.embed_dim if is_embedding else model.backbone.n_source
        embeddings = torch.rand(4, width)
        train = Batch(embeddings, torch.eye(4, 20), torch.ones(4, 20, dtype=bool))
        model.head.fit(train, None if protocol == "paper" else train, seed=0)
    logits = model.eval()(torch.randn(1, *feature.shape) - 4)
    assert logits.shape == (1, 20) and logits.isfinite().all()


def build(conf, backbone_file, clips, classes=CLASSES):
    """(model, feature) as the stage `train` builds them, on the shipped source classes."""
    feature = features.build(**conf.feature.to_dict())
    conf = replace(conf, run=RUN)
    spec = model_spec.from_config(conf, classes, feature, clips, "ast_tiny_synth", backbone_file)
    return build_model(classes, **spec), feature


IRMAS_SYSTEMS = {
    "multi_stft9": 850_763,
    "multi_stft3": 283_595,
    "multi_stft3_panns": 8_598_603,
    "han_convnet": 1_446_123,
}


@pytest.mark.parametrize("name", choices.confs(IRMAS))
def test_every_conf_of_irmas_builds_and_runs(name, backbone_file, tiny_clips):
    settings = ["backbone.weights=none"] if name == "multi_stft3_panns" else []
    conf = config.load(IRMAS, name, "irmas_synthetic", settings=settings)
    classes = CLASSES[:11]
    model, feature = build(conf, backbone_file, tiny_clips(2), classes)
    window = features.window(feature)
    assert window.seconds == (1.0 if name.startswith("han_convnet") else 3.0)
    trained = sum(p.numel() for p in model.trainable_parameters())
    if trained:
        methods.build(model=model, **conf.method.to_dict())
        optim.build(model=model, **conf.optimizer.to_dict())
    assert trained == IRMAS_SYSTEMS.get(name, trained)
    x = feature(0.1 * torch.randn(2, window.samples))
    if not hasattr(model.head, "fit"):
        logits = model.eval()(x)
        assert logits.shape == (2, 11) and logits.isfinite().all()
        is_softmax = torch.allclose(logits.sigmoid().sum(dim=1), torch.ones(2))
        assert is_softmax == name.startswith("multi_stft3")


@pytest.mark.parametrize("name", ["ast_linear", "ast_unet", "ast_patch"])
def test_confs_of_irmas_run_on_musicnn(name):
    conf = config.load(IRMAS, name, "irmas", network="musicnn")
    feature = features.build(**conf.feature.to_dict())
    assert feature(torch.zeros(1, features.window(feature).samples)).shape == (1, 1, 192, 96)
    assert conf.backbone.name == "musicnn"


def test_a_backbone_is_normalised_as_the_catalogue_says(tiny_ast, tmp_path, monkeypatch):
    path = tmp_path / "tiny.safetensors"
    weights.save(tiny_ast(frames=1024, mels=128), path)
    header = {"dims": weights.read_header(path)["dims"]}  # as of a file of the hub
    monkeypatch.setattr(weights, "read_header", lambda path: header)
    monkeypatch.setattr(pretrained, "statistics", lambda name: {"mean": -6.8, "std": 5.5})
    conf = replace(config.load(SHIPPED, "ast_linear"), run=RUN)
    spec = model_spec.from_config(conf, CLASSES, features.build("logmel"), None, "other", path)
    options = spec["backbone"]["options"]
    assert (options["mean"], options["std"]) == (-6.8, 5.5)


VARIANTS = []
for folder in (SHIPPED, IRMAS, MAGNATAGATUNE):
    for names in config.studies(folder).values():
        VARIANTS += [(folder, name) for name in names]


@pytest.mark.parametrize(("folder", "name"), VARIANTS)
def test_every_variant_of_a_study_is_a_conf(folder, name):
    assert config.select(folder, name) == [name]
    config.load(folder, name, lacking=["vggish"])


@pytest.mark.parametrize("name", config.studies(SHIPPED)["scalograms"])
def test_every_input_trains_every_network_for_a_step(name, tiny_clips):
    conf = config.load(SHIPPED, name)
    shortest = {"frames": 100} if conf.feature.name == "logmel" else {"seconds": 1.0}
    conf = replace(conf, feature=Section(conf.feature.name, shortest))
    clips = tiny_clips(4, shape=features.build(**conf.feature.to_dict()).shape)
    model, _ = build(conf, "", clips, CLASSES[:3])
    assert_trained_by_a_step(model.train(), conf, clips.batch(torch.arange(4)))
    assert bool(model.segments) == (conf.head.name == "attention")


def test_the_combinations_are_three_inputs_under_three_networks():
    pairs = set()
    for name in config.studies(SHIPPED)["scalograms"]:
        conf = config.load(SHIPPED, name)
        is_recurrent = conf.backbone.options.get("recurrent", False)
        pairs.add((conf.feature.name, conf.backbone.name, is_recurrent))
    assert {feature for feature, _, _ in pairs} == {"logmel", "logmel_vggish", "scalogram"}
    assert len({pair[1:] for pair in pairs}) == 3 and len(pairs) == 9


@pytest.fixture(scope="module")
def frozen_files(backbone_file, tmp_path_factory):
    """Weight files of a tiny AST and of a musicnn."""
    path = tmp_path_factory.mktemp("musicnn") / "musicnn.safetensors"
    weights.save(backbones.build("musicnn"), path, [str(number) for number in range(50)])
    return {"ast": backbone_file, "musicnn": path}


@pytest.mark.parametrize("network", ["ast", "musicnn"])
@pytest.mark.parametrize("name", config.studies(SHIPPED)["augmentation_frozen"])
def test_augmented_clips_train_a_reprogrammer_of_a_frozen_network(
    name, network, frozen_files, spread
):
    conf = config.load(SHIPPED, name, network=network, settings=["feature.frames=192"])
    model, feature = build(conf, frozen_files[network], None)
    for module in (model.reprogrammer, model.head):
        spread(module)  # weights that start at zero pass no gradient
    waves = 0.1 * torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(2, 20)
    batch = Batch(feature(waves), targets, torch.ones_like(targets, dtype=torch.bool))
    generator = dataset.generator(0)
    augmented = augment.augment(batch, generator, conf.augment, feature, model.mean)
    is_active = augment.is_active(conf.augment)
    assert torch.equal(augmented.features, batch.features) != is_active
    frozen = weights.fingerprint(model.backbone)
    assert_trained_by_a_step(model.train(), conf, augmented)
    assert weights.fingerprint(model.backbone) == frozen


def assert_trained_by_a_step(model, conf, batch):
    """Train a model on a batch; its loss is finite, and each trained tensor has a gradient."""
    method = methods.build(model=model, **conf.method.to_dict())
    optimizer = optim.build(model=model, **conf.optimizer.to_dict())
    before = [parameter.detach().clone() for parameter in model.trainable_parameters()]
    loss = method.step(batch, epoch=1)["loss"]
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    for old, new in zip(before, model.trainable_parameters(), strict=True):
        assert new.grad.isfinite().all() and not torch.equal(old, new)


PAPER = {  # optimizer, lr, betas, weight decay, batch, epochs of the authors of each system
    "ast_unet": ("adam", 1e-5, [0.95, 0.999], 5e-7, 4, 30),
    "ast_finetune": ("adam", 1e-5, [0.95, 0.999], 5e-7, 4, 30),
    "cnn_only": ("adam", 1e-5, [0.95, 0.999], 5e-7, 4, 30),
    "attention": ("adam", 5e-4, [0.9, 0.999], 1e-5, 128, 250),
    "mean_teacher": ("adam", 1e-3, [0.9, 0.999], 1e-5, 64, 100),
    "label_enhancement": ("adam", 1e-3, [0.9, 0.999], 1e-5, 64, 200),
    "cp_resnet": ("adam", 1e-4, [0.9, 0.999], 1e-4, 16, 100),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_protocol_has_the_settings_of_each_systems_authors(name):
    conf = config.load(SHIPPED, name, protocol="paper")
    optimizer = conf.optimizer.to_dict()
    optimizer = [optimizer[key] for key in ("name", "lr", "betas", "weight_decay")]
    assert (*optimizer, conf.train.batch_size, conf.train.epochs) == PAPER[name]
    masks = (0, 0) if conf.feature.name == "vggish" else (96, 24)
    masks = (192, 48) if name == "cp_resnet" else masks
    assert (conf.augment.time, conf.augment.freq) == masks


STUDENTS = [
    "student_small",
    "kd_ast",
    "east_final_ast",
    "east_kd_ast",
    "kd_musicnn",
    "east_final_musicnn",
    "east_kd_musicnn",
]
TRAINED = {  # with AST-base and twenty classes, from the layers' sizes in the authors' code
    "ast_linear": 16_916,
    "ast_linear_raw": 16_916,
    "ast_linear_random": 16_916,
    "ast_noise": 147_988,
    "ast_adversarial": 147_988,
    "ast_cnn": 16_936,
    "ast_unet": 18_201,
    "ast_unet_residual": 18_200,
    "ast_patch": 16_916 + 17_441,
    "ast_finetune": 86_204_180,
    "ast_labelmap": 527 * 20 + 20,
    "ast_zero_shot": 0,
    "cnn_only": 16_936,
    "unet_only": 18_201,
    "cnn_only_released": 2_621_480,
    "attention": 55_336,
    "mean_teacher": 55_336,
    "label_enhancement": 55_336,
    "forest": 0,
    "logmel_statistics": 0,  # by gradients, as below
    "ast_logistic": 0,
    "ast_logistic_random": 0,
    "ast_patch_head_only": 16_916,
    "ast_attentive": 2 * 20 * 768 + 20,
    "ast_prototypes": 78_820,
    "ast_stacked": 2 * 2304 + 20 * 2304 + 20,
    "ast_layer_mix": 12 + 2 * 2304 + 20 * 2304 + 20,
    "ast_zero_shot_calibrated": 0,
    "ast_best_source": 0,
    "ast_flm": 0,
    "ast_blm": 0,
    "ast_blm_plus": 0,
    "ast_ilm": 131_072,
    "ast_film": 16_916 + 8_464,
    "ast_smm": 16_916 + 25_081 + 131_072,
    "ast_lor_vp": 16_916 + 4_608,
    "ast_lora": 16_916 + 442_368,
    "ast_adapter": 16_916 + 304_320,
    "ast_ssf": 16_916 + 165_888,
    "ast_bitfit": 16_916 + 101_376,
    "ast_prompt": 16_916 + 19_200,
    "ast_prompt_deep": 16_916 + 230_400,
    "ast_prefix": 16_916 + 589_824,
    "logmel_vggish_cnn_attention": 84_256,
    "scalogram_cnn_attention": 84_256,
    "logmel_dutta": 25_932,
    "scalogram_dutta": 25_932,
    "cp_resnet": 5_534_612,
    **dict.fromkeys(STUDENTS, 89_732),
}


@pytest.mark.parametrize("name", ["mobilefcn", *STUDENTS])
def test_every_student_of_magnatagatune_builds(name):
    conf = config.load(MAGNATAGATUNE, name)
    sections.check(conf)
    tags = [f"tag {k}" for k in range(50)]
    model, feature = build(conf, "unused", None, tags)
    trained = sum(p.numel() for p in model.trainable_parameters())
    assert trained == (314_098 if name == "mobilefcn" else 24_802)
    assert (conf.teacher is not None) == ("_ast" in name or "_musicnn" in name)
    assert model.encode(torch.randn(2, *feature.shape)).embedding.shape[2] == 6  # frames
    logits = model(torch.randn(2, *feature.shape))
    assert logits.shape == (2, 50) and logits.isfinite().all()


@pytest.mark.slow
def test_parameter_counts_at_the_size_of_ast_base(base_file):
    assert set(TRAINED) == set(CONFS)
    for name, expected in TRAINED.items():
        conf = replace(config.load(SHIPPED, name, "openmic"), input=Input("none"))
        if name.startswith("ast_zero_shot"):
            # As many parameters, and no names needed.
            conf = replace(conf, head=Section("labelmap", {"kind": "groups"}))
        model, _ = build(conf, base_file, None)
        assert sum(p.numel() for p in model.trainable_parameters()) == expected, name
        if name == "mean_teacher":  # the paper's 0.111 M counts both networks
            assert (
                sum(
                    p.numel()
                    for p in methods.build(model=model, **conf.method.to_dict()).parameters()
                )
                == 110_672
            )


def test_there_is_a_conf_for_every_reprogrammer():
    variants = [name for confs in config.studies(SHIPPED).values() for name in confs]
    assert {config.load(SHIPPED, name).reprogrammer.name for name in [*CONFS, *variants]} == set(
        REPROGRAMMERS
    )
