"""What several test files share: a tiny AST whose random weights give logits worth comparing, and clips made of numbers."""

import numpy as np
import pytest
import torch

from ast_repr import backbones
from ast_repr.batches import Clips
from ast_repr.manifest import Clip

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch": 16, "stride": 16, "frames": 64, "mels": 32, "n_source": 10}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny tensors are quicker on one thread, by far where the machine is busy."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny_dims():
    """Keywords of an AST of 30,000 parameters that reads 64 frames of 32 bands."""
    return dict(TINY)


@pytest.fixture
def spread():
    """module, seed -> the module with random weights large enough that its outputs differ from input to input."""

    def fill(module, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                centre = 1.0 if parameter.ndim == 1 and (parameter == 1).all() else 0.0  # a norm's gain
                parameter.copy_(centre + 0.05 * torch.randn(parameter.shape, generator=generator))
        return module

    return fill


@pytest.fixture
def tiny_ast(spread):
    """overrides of TINY -> an AST with spread weights, in eval mode."""
    return lambda **dims: spread(backbones.build("ast", **(TINY | dims))).eval()


@pytest.fixture
def tiny_clips():
    """count, seed, split -> batches.Clips of random log-mels (64 x 32), three classes, about two thirds observed."""

    def make(count=12, seed=0, split="train"):
        rng = np.random.default_rng(seed)
        names = ("bass", "flute", "voice")
        labels = [{name: round(float(rng.random()), 3) for name in names if rng.random() < 0.67} for _ in range(count)]
        clips = [Clip(f"{split}{i}", f"artist {i}", f"{i}.ogg", 0.0, split, own) for i, own in enumerate(labels)]
        features = torch.from_numpy(rng.normal(-4.0, 4.5, (count, 1, 64, 32)).astype(np.float16))
        return Clips(clips, list(names), features.__getitem__)

    return make
