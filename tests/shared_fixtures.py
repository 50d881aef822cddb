"""A tiny AST with random weights, random clips, a run folder."""

import os

import numpy as np
import pytest
import torch

from ast_repr import backbones, checkpoint
from ast_repr.backbones import weights
from ast_repr.classifier import build_model
from ast_repr.corpora import sounds
from ast_repr.data.dataset import Clips
from ast_repr.manifest import Clip

TINY = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "patch": 16,
    "stride": 16,
    "frames": 64,
    "mels": 32,
    "n_source": 10,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny tensors are quicker on one thread, by far if the machine is busy."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of processes that are started


@pytest.fixture
def tiny_dims():
    """Keywords of an AST of 30,000 parameters that reads 64 frames of 32 bands."""
    return dict(TINY)


@pytest.fixture
def spread():
    """Function that gives a module random weights, large enough for its input to matter."""

    def fill(module, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                is_gain = parameter.ndim == 1 and bool((parameter == 1).all())
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(float(is_gain) + 0.05 * noise)
        return module

    return fill


@pytest.fixture
def tiny_ast(spread):
    """Function from overrides of TINY to an AST with spread weights, in eval mode."""
    return lambda **dims: spread(backbones.build("ast", **(TINY | dims))).eval()


@pytest.fixture(scope="session")
def backbone_file(tmp_path_factory):
    """Weight file of a tiny AST that reads whole clips, with the class names of the shipped one."""
    path = tmp_path_factory.mktemp("backbone") / "tiny.safetensors"
    source = backbones.build(
        "ast",
        embed_dim=32,
        depth=1,
        num_heads=2,
        stride=16,
        frames=1024,
        mels=128,
        n_source=len(sounds.CLASSES),
    )
    weights.save(source, path, sounds.CLASSES)
    return path


@pytest.fixture
def tiny_clips():
    """Function to make Clips of random log-mels, two labels in three observed."""

    def make(count=12, seed=0, split="train", shape=(1, 64, 32)):
        rng = np.random.default_rng(seed)
        names = ("bass", "flute", "voice")
        clips = []
        for i in range(count):
            labels = {name: round(float(rng.random()), 3) for name in names if rng.random() < 0.67}
            clips.append(Clip(f"{split}{i}", f"artist {i}", f"{i}.ogg", 0.0, split, labels))
        features = torch.from_numpy(rng.normal(-4.0, 4.5, (count, *shape)).astype(np.float16))
        return Clips(clips, list(names), features.__getitem__)

    return make


@pytest.fixture
def run(tmp_path, tiny_ast, spread):
    """A run folder as the trainer leaves it, and the model whose state is in it."""
    weights.save(tiny_ast(frames=1024, depth=1), tmp_path / "tiny.safetensors")
    header = weights.read_header(tmp_path / "tiny.safetensors")
    backbone = {
        "name": "ast",
        "options": header["dims"] | {"mean": header["mean"], "std": header["std"]},
        "source": "ast_tiny_synth",
        "file": str(tmp_path / "tiny.safetensors"),
        "seed": 0,
        "finetune": False,
    }
    spec = {
        "norm": "backbone",
        "reprogrammer": {"name": "unet", "residual": True},
        "backbone": backbone,
        "head": {"name": "embedding"},
    }
    classes = ["bass", "flute", "voice"]
    model = build_model(classes, **spec).eval()
    spread(model.reprogrammer, 1)
    torch.nn.init.normal_(model.head.linear.weight, generator=torch.Generator().manual_seed(2))
    about = {
        "classes": classes,
        "feature": {"name": "logmel", "frames": 1024, "bins": 32},
        "spec": spec,
    }
    about["backbone_sha256"] = weights.fingerprint(model.backbone)
    checkpoint.save(
        tmp_path / "run" / "best.valid.macro_f1.pt",
        {"learned": model.trainable_state_dict(), "epoch": 1, "about": about},
    )
    return tmp_path / "run", model
