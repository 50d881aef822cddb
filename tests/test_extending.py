"""How much has to be edited to extend the package, shown in a temporary copy of it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFS = ROOT / "egs" / "openmic" / "conf"
GAIN = '''
"""A gain per band."""

import torch
from torch import nn


class Gain(nn.Module):
    """x * factor."""

    def __init__(self, frames: int = 1024, bins: int = 128, start: float = 1.0):
        super().__init__()
        self.factor = nn.Parameter(torch.full((bins,), start))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, T, F) -> (B, 1, T, F)."""
        return x * self.factor
'''


@pytest.fixture
def source(tmp_path):
    """A copy of src/, beside the catalogue of weights."""
    (tmp_path / "pretrained_models").symlink_to(ROOT / "pretrained_models")
    return shutil.copytree(
        ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )


def replace(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new), encoding="utf-8")


def add_reprogrammer(source):
    """One file, and its entry in the registry."""
    (source / "ast_repr" / "reprogrammers" / "gain.py").write_text(GAIN, encoding="utf-8")
    registry = source / "ast_repr" / "reprogrammers" / "__init__.py"
    replace(registry, "from .noise", "from .gain import Gain\nfrom .noise")
    replace(registry, '    "cnn": CNN,\n', '    "cnn": CNN,\n    "gain": Gain,\n')


def add_method_option(source):
    """A keyword of the constructor, and its use."""
    method = source / "ast_repr" / "methods" / "supervised.py"
    replace(
        method,
        '(self, model: nn.Module, targets: str = "hard", loss: str = "bce")',
        '(self, model: nn.Module, targets: str = "hard", loss: str = "bce", weight: float = 1.0)',
    )
    replace(
        method,
        "        super().__init__(model)\n",
        "        super().__init__(model)\n        self.weight = weight\n",
    )


@pytest.mark.slow
def test_a_reprogrammer_and_a_method_option_need_no_further_edits(source):
    add_reprogrammer(source)
    add_method_option(source)
    variants = [
        "ast_unet+reprogrammer.name=gain+reprogrammer.start=0.5",
        "ast_unet+method.weight=0.5",
    ]
    command = [sys.executable, "check.py", "--conf-dir", CONFS, "--conf", ",".join(variants)]
    run = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
