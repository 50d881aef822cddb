"""The classifier that benchmarks time: the paper's, with random weights."""

from ast_repr import backbones
from ast_repr.classifier import Reprogrammed, build_model

AST_BASE = {
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "patch": 16,
    "stride": 10,
    "frames": 1024,
    "mels": 128,
    "n_source": 527,
    "mean": backbones.AUDIOSET_MEAN,
    "std": backbones.AUDIOSET_STD,
}
QUICK = {"embed_dim": 64, "depth": 2, "num_heads": 2, "stride": 16}
CLASSES = [f"instrument {i}" for i in range(20)]


def paper(reprogrammer: str = "unet", **dims) -> tuple[Reprogrammed, dict]:
    """Build the classifier on AST-base and return it with the values it is built from.

    `dims` make the AST smaller, to try a benchmark.
    """
    backbone = {
        "name": "ast",
        "options": AST_BASE | dims,
        "source": "none",
        "file": None,
        "seed": 0,
        "finetune": False,
    }
    spec = {
        "norm": "backbone",
        "reprogrammer": {"name": reprogrammer},
        "backbone": backbone,
        "head": {"name": "embedding"},
    }
    return build_model(CLASSES, **spec), spec
