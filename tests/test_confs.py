"""Every conf that is shipped builds a model that runs, with its method, optimiser and schedule, under either protocol."""

from pathlib import Path

import pytest
import torch

from ast_repr import backbones, config, features, methods, optimizer
from ast_repr.backbones import weights
from ast_repr.classifier import assemble
from ast_repr.reprogrammers import REPROGRAMMERS
from ast_repr.schedule import factor

SHIPPED = Path(__file__).parents[1] / "egs" / "openmic" / "conf"
CONFS = config.names(SHIPPED)


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("backbone") / "tiny.safetensors"
    weights.save(backbones.build("ast", embed_dim=32, depth=1, num_heads=2, stride=16, frames=1024, mels=128, n_source=30), path)
    return path


@pytest.mark.parametrize("corpus", ["synthetic", "openmic"])
@pytest.mark.parametrize("protocol", ["clean", "paper"])
@pytest.mark.parametrize("name", CONFS)
def test_every_shipped_conf_builds_and_runs(name, protocol, corpus, backbone_file):
    conf = config.load(SHIPPED, name, corpus, protocol)
    assert conf["row"] and conf["protocol"] == protocol
    assert (conf["select"]["split"] == "test") == (protocol == "paper")
    feature = features.build(**conf["feature"])
    header = weights.read_header(backbone_file)
    backbone = {
        "dims": header["dims"] | {"frames": feature.frames, "mels": feature.bins}, "mean": header["mean"], "std": header["std"],
        "file": str(backbone_file) if conf["backbone"]["weights"] == "pretrained" else None, "seed": 0,
        "finetune": conf["backbone"]["finetune"],
    }  # fmt: skip
    classes = [f"class {k}" for k in range(20)]
    model = assemble(classes, conf["input"]["norm"], conf["reprogrammer"], backbone, conf["head"])
    assert model.finetune == conf["backbone"]["finetune"]
    methods.build(model=model, **conf["method"])
    assert len(optimizer.build(model=model, **conf["optimizer"]).param_groups) in (1, 2)
    assert 0 <= factor(epoch=0.5, epochs=conf["train"]["epochs"], **conf["schedule"]) <= 1
    logits = model.eval()(torch.randn(1, *feature.shape) - 4)
    assert logits.shape == (1, 20) and logits.isfinite().all()


def test_there_is_a_conf_for_every_reprogrammer():
    assert {config.load(SHIPPED, name)["reprogrammer"]["name"] for name in CONFS} == set(REPROGRAMMERS)
