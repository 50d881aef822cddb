"""LoRA (Hu et al. 2022): low-rank updates of the attention's projections."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from ..backbones.audio_transformer import AudioTransformer
from ..registry import unknown
from .layers import MOST

PROJECTIONS = ("q", "k", "v")


class LoRA(nn.Module):
    """W x + (alpha / rank) B A x in the query, key or value projection W of every block.

    B (D, rank) starts at zero. 442,368 parameters for rank 12 on q and v of AST-base, as in
    Cappellazzo et al. 2024.

    Args:
        backbone: frozen.
        rank: of the updates.
        alpha: their scale, None for `rank`.
        projections: some of "q", "k" and "v".

    Raises:
        ValueError: a rank out of range, unknown projections, or none.
    """

    def __init__(
        self,
        backbone: AudioTransformer,
        rank: int = 12,
        alpha: float | None = None,
        projections: Sequence[str] = ("q", "v"),
    ):
        super().__init__()
        if not 1 <= rank <= MOST or not projections:
            raise ValueError(
                f"lora: rank {rank}, projections {list(projections)}; "
                f"expected a rank from 1 to {MOST}, and some of q, k, v"
            )
        for name in projections:
            if name not in PROJECTIONS:
                raise ValueError(unknown("projection of lora", name, PROJECTIONS))
        scale = 1.0 if alpha is None else alpha / rank
        self.updates = nn.ModuleList()
        for block in backbone.blocks:
            update = LowRankUpdate(block.attn.qkv.in_features, rank, scale, projections)
            block.attn.qkv.register_forward_hook(update)
            self.updates.append(update)


class LowRankUpdate(nn.Module):
    """Forward hook of a layer (B, N, D) -> (B, N, 3 D), which computes q, k and v."""

    def __init__(self, dim: int, rank: int, scale: float, projections: Sequence[str]):
        super().__init__()
        self.scale = scale
        self.down = nn.ParameterDict()
        self.up = nn.ParameterDict()
        for name in PROJECTIONS:
            if name in projections:
                self.down[name] = nn.init.kaiming_uniform_(torch.empty(rank, dim), a=5**0.5)
                self.up[name] = torch.zeros(dim, rank)

    def forward(
        self, layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        """Return the output with the updates added."""
        (x,) = inputs
        qkv = dict(zip(PROJECTIONS, output.chunk(3, dim=-1), strict=True))
        for name, down in self.down.items():
            hidden = functional.linear(x, down)
            qkv[name] = qkv[name] + self.scale * functional.linear(hidden, self.up[name])
        return torch.cat([qkv[name] for name in PROJECTIONS], dim=-1)
