"""Adapters: small trained parts inside a frozen network, whose weights stay unchanged.

They need a transformer; some also suit musicnn. An adapter registers forward hooks on layers of the
backbone. The parameters are the adapter's, so the backbone keeps its tensors, their names and its
fast layers (`backbones.cpu_kernels`); wrapping layers as `peft` does would rename them. Training
starts at the frozen backbone, except for prompts and prefixes.
"""

from typing import Any

from torch import nn

from .. import registry
from ..backbones.audio_transformer import AudioTransformer
from ..backbones.musicnn import Musicnn
from ..choices import MUSICNN_ADAPTERS
from .bitfit import BitFit
from .bottleneck import Bottleneck
from .lora import LoRA
from .prefix import Prefix
from .prompt import Prompt
from .ssf import SSF

ADAPTERS = {
    "lora": LoRA,
    "bottleneck": Bottleneck,
    "ssf": SSF,
    "bitfit": BitFit,
    "prompt": Prompt,
    "prefix": Prefix,
}


def build(name: str | type, backbone: nn.Module, **kwargs: Any) -> nn.Module:
    """Build the adapter `name` and attach it to `backbone`.

    Raises:
        ValueError: an unknown name or keyword (the message lists the valid ones), a value out of
            range, or a backbone that the adapter does not suit.
    """
    kinds = AudioTransformer | Musicnn if name in MUSICNN_ADAPTERS else AudioTransformer
    if name in ADAPTERS and not isinstance(backbone, kinds):
        raise ValueError(
            f"adapter {name!r}: found a backbone {type(backbone).__name__}, expected one of "
            f"transformer blocks; use backbone ast, or on musicnn {' or '.join(MUSICNN_ADAPTERS)}"
        )
    return registry.build("adapter", ADAPTERS, name, {"backbone": backbone, **kwargs})
