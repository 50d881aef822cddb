"""The classifiers that benchmarks time: the paper's, around an AST-base of random weights, and one around the shipped small AST."""

from ast_repr import backbones, pretrained
from ast_repr.classifier import build_model

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
CLASSES = [f"instrument {i}" for i in range(20)]


def paper(reprogrammer="unet", **dims):
    """(Reprogrammed on AST-base, the values it is assembled from); `dims` make it smaller, to try a benchmark out."""
    return _assembled(
        reprogrammer,
        {
            "name": "ast",
            "options": AST_BASE | dims,
            "source": "none",
            "file": None,
            "seed": 0,
            "finetune": False,
        },
    )


def shipped(reprogrammer="unet"):
    """(Reprogrammed on the AST that comes with the repository, the values it is assembled from)."""
    file = pretrained.find("ast_tiny_synth").path
    header = backbones.weights.read_header(file)
    options = header["dims"] | {key: header[key] for key in ("mean", "std")}
    return _assembled(
        reprogrammer,
        {
            "name": "ast",
            "options": options,
            "source": "ast_tiny_synth",
            "file": str(file),
            "seed": 0,
            "finetune": False,
        },
    )


def _assembled(reprogrammer, backbone):
    spec = {
        "norm": "backbone",
        "reprogrammer": {"name": reprogrammer},
        "backbone": backbone,
        "head": {"name": "embedding"},
    }
    return build_model(CLASSES, **spec), spec
