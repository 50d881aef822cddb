"""AST, the Audio Spectrogram Transformer (Gong, Chung and Glass 2021), composed from timm's transformer blocks.

A log-mel (B, 1, T, F) is cut into overlapping patches, flattened frequency-major, joined by DeiT's
class and distillation tokens, and read off as the mean of those two after the last norm. Dead timm
heads are not built: 86.6 M parameters with 527 source classes, not the 88.1 M of the authors' log.

The input is expected normalised, (x - mean) / (2 std), with `self.mean` and `self.std`, which
belong to the weights.
"""

from functools import partial

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.checkpoint import checkpoint

from .attention import SelfAttention
from .output import Output
from .product import linear

AUDIOSET_MEAN = -4.2677393  # of the log-mel, from the authors' AudioSet recipe
AUDIOSET_STD = 4.5689974
DEEPEST = 100  # blocks
LARGEST = 100_000  # of every other size


class FeedForward(Mlp):
    """timm's, with the same parameters and quicker products; no dropout."""

    def forward(self, x):
        """(B, N, D) -> (B, N, D)."""
        return linear(
            self.act(linear(x, self.fc1.weight, self.fc1.bias)), self.fc2.weight, self.fc2.bias
        )


class AudioTransformer(nn.Module):
    """AST at any size.

    Args:
        embed_dim, depth, num_heads: width, blocks and attention heads (AST-base: 768, 12, 12).
        patch, stride: side and step of a patch, in frames and bins.
        frames, mels: size of the input (T, F).
        n_source: source classes S (AudioSet: 527).
        mean, std: statistics of the log-mel that the weights were trained on.
        norm_eps: of every LayerNorm. The hub's copy says 1e-12, the authors' timm 1e-6; their
            logits differ by 3e-5 at most.

    Raises:
        ValueError: a size is out of range, heads do not divide the width, or the input is smaller
            than a patch.
    """

    def __init__(
        self,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        patch: int = 16,
        stride: int = 10,
        frames: int = 1024,
        mels: int = 128,
        n_source: int = 527,
        mean: float = AUDIOSET_MEAN,
        std: float = AUDIOSET_STD,
        norm_eps: float = 1e-12,
    ):
        super().__init__()
        self.dims = {
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
            "patch": patch,
            "stride": stride,
            "frames": frames,
            "mels": mels,
            "n_source": n_source,
        }
        for name, value in self.dims.items():
            most = DEEPEST if name == "depth" else LARGEST
            if not 1 <= value <= most:
                raise ValueError(f"ast: {name} {value}; expected from 1 to {most}")
        if embed_dim % num_heads:
            raise ValueError(f"ast: num_heads {num_heads} does not divide embed_dim {embed_dim}")
        if min(frames, mels) < patch:
            raise ValueError(
                f"ast: an input of {frames} x {mels} is smaller than a patch of {patch} x {patch}"
            )
        self.embed_dim, self.n_source = embed_dim, n_source
        self.frames, self.mels = frames, mels
        self.mean, self.std = mean, std
        self.recompute = False  # a block's activations on the way back, instead of keeping them: less memory, a third more time
        self.grid = (
            (mels - patch) // stride + 1,
            (frames - patch) // stride + 1,
        )  # rows in frequency, columns in time

        norm = partial(nn.LayerNorm, eps=norm_eps)
        self.patch_embed = nn.Conv2d(1, embed_dim, patch, stride)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 2 + self.grid[0] * self.grid[1], embed_dim))
        parts = {"norm_layer": norm, "attn_layer": SelfAttention, "mlp_layer": FeedForward}
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, qkv_bias=True, **parts) for _ in range(depth)
        )
        self.norm = norm(embed_dim)
        self.source_head = nn.Sequential(norm(embed_dim), nn.Linear(embed_dim, n_source))
        self._initialise()

    def _initialise(self):
        for tensor in (self.cls_token, self.dist_token, self.pos_embed):
            nn.init.trunc_normal_(tensor, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        """(B, 1, T, F) normalised log-mel -> Output(embedding (B, D), source_logits (B, S)).

        Raises:
            ValueError: the input has another shape than the position embedding was made for.
        """
        if x.ndim != 4 or x.shape[1:] != (1, self.frames, self.mels):
            raise ValueError(
                f"ast expects an input of (B, 1, {self.frames}, {self.mels}), found {tuple(x.shape)}"
            )
        patches = self.patch_embed(x.transpose(2, 3)).flatten(2).transpose(1, 2)
        tokens = torch.cat(
            [
                self.cls_token.expand(len(x), -1, -1),
                self.dist_token.expand(len(x), -1, -1),
                patches,
            ],
            dim=1,
        )
        tokens = tokens + self.pos_embed
        *blocks, last = self.blocks
        again = self.recompute and torch.is_grad_enabled()
        for block in blocks:
            tokens = checkpoint(block, tokens, use_reentrant=False) if again else block(tokens)
        # Only two tokens are pooled, so of the last block the others only need to be looked at.
        pooled = tokens[:, :2] + last.attn(last.norm1(tokens), queries=2)
        pooled = pooled + last.mlp(last.norm2(pooled))
        embedding = self.norm(pooled).mean(dim=1)
        return Output(embedding, self.source_head(embedding))
