"""AST, the Audio Spectrogram Transformer (Gong, Chung and Glass 2021), built from timm's blocks.

A log-mel (B, 1, T, F) is cut into overlapping patches, flattened frequency-major, and preceded by
DeiT's class and distillation tokens; the embedding is the mean of these two after the last norm,
joined, if wanted, by the mean and the maximum of the patches after some blocks, or another of
POOLINGS. The unused ImageNet heads of the authors' timm model are not built: 86.6 M parameters with
527 source classes, not the 88.1 M of the authors' log. PaSST (Koutini et al. 2022) is the same
network: `weights` reads its files too.

`cpu_kernels.enable` makes training faster on a CPU.
"""

from collections.abc import Sequence
from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..registry import unknown
from .output import Output, pooled_segments

# Statistics of the log-mel in the authors' AudioSet recipe.
AUDIOSET_MEAN = -4.2677393
AUDIOSET_STD = 4.5689974
DEEPEST = 100  # blocks
LARGEST = 100_000  # of every other size
POOLINGS = ("mean", "stacked", "blocks")


class AudioTransformer(nn.Module):
    """AST of any size.

    Args:
        embed_dim, depth, num_heads: width, blocks and attention heads (AST-base: 768, 12, 12).
        patch, stride: size and step of a patch, one number or a pair (bins, frames).
        frames, mels: size of the input (T, F).
        n_source: number of source classes S (AudioSet: 527).
        mean, std: statistics of the log-mels that the weights were trained on, for an input
            (x - mean) / (2 std).
        norm_eps: epsilon of every LayerNorm: 1e-12 in the copy on the hub, 1e-6 in the authors'
            timm, whose logits differ by 3e-5 at most, and in PaSST.
        pooled_blocks: blocks, from 1 to depth - 1, whose patches are normalised and pooled into
            the embedding (D = embed_dim * (1 + 2 * number of them)); none: AST as published. It has
            no parameters, so it suits any weights.
        pooling: "mean" of the class and distillation tokens, see above; "stacked", in its place
            both tokens and the mean of the patches, as in MAEST (Alonso-Jimenez et al. 2023);
            "blocks", these three after every block, (B, 3 embed_dim, depth), without
            `pooled_blocks`. Tokens inside the network are normalised without parameters.
        steps: the embedding is that of a teacher instead: the patches after the last norm, averaged
            over frequency and, over time, in this many steps (D = embed_dim); None: as above.
        patchout_time, patchout_freq: shares of the columns and rows of patches that are dropped
            in training, see Patchout.

    Attributes:
        embed_dim: size D of the embedding; `token_dim`: of a token.
        n_blocks: number of embeddings with the pooling "blocks", otherwise None.
        grid: rows (frequency) and columns (time) of patches.
        segments: the frames of each column, or step, as (first, last + 1).
        grad_checkpointing: recompute the blocks' activations in the backward pass: less memory,
            20 to 45 % more time on a CPU.

    Raises:
        ValueError: a size, `steps` or a share is out of range, or a size is no pair, num_heads does
            not divide embed_dim, the input is smaller than a patch, or the pooling is unknown.
    """

    def __init__(
        self,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        patch: int | Sequence[int] = 16,
        stride: int | Sequence[int] = 10,
        frames: int = 1024,
        mels: int = 128,
        n_source: int = 527,
        mean: float = AUDIOSET_MEAN,
        std: float = AUDIOSET_STD,
        norm_eps: float = 1e-12,
        pooled_blocks: Sequence[int] = (),
        pooling: str = "mean",
        steps: int | None = None,
        patchout_time: float = 0.0,
        patchout_freq: float = 0.0,
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
        patch_bins, patch_frames = _pair("patch", patch)
        stride_bins, stride_frames = _pair("stride", stride)
        sizes = self.dims | {
            "patch": min(patch_bins, patch_frames),
            "stride": min(stride_bins, stride_frames),
        }
        for name, value in sizes.items():
            most = DEEPEST if name == "depth" else LARGEST
            if not 1 <= value <= most:
                raise ValueError(f"ast: {name} {value}; expected from 1 to {most}")
        if embed_dim % num_heads:
            raise ValueError(f"ast: num_heads {num_heads} does not divide embed_dim {embed_dim}")
        if mels < patch_bins or frames < patch_frames:
            raise ValueError(
                f"ast: an input of {frames} frames x {mels} bins is smaller than a patch of "
                f"{patch_frames} x {patch_bins}"
            )
        if not set(pooled_blocks) <= set(range(1, depth)):
            raise ValueError(
                f"ast: pooled_blocks {list(pooled_blocks)}; expected numbers from 1 to {depth - 1}"
            )
        if pooling not in POOLINGS:
            raise ValueError(unknown("pooling of ast", pooling, POOLINGS))
        pooled_blocks = sorted(set(pooled_blocks))
        if pooled_blocks:
            self.dims["pooled_blocks"] = pooled_blocks
        if pooling != "mean":
            self.dims["pooling"] = pooling
        self.pooling = pooling
        self.n_blocks = depth if pooling == "blocks" else None
        vectors = 1 if pooling == "mean" else 3
        if pooling != "blocks":
            vectors += 2 * len(pooled_blocks)
        if steps is not None:
            vectors = 1
        self.embed_dim = vectors * embed_dim
        self.token_dim = embed_dim
        self.n_source = n_source
        self.frames = frames
        self.mels = mels
        self.mean = mean
        self.std = std
        self.with_tokens = False  # see return_tokens
        self.grad_checkpointing = False
        self.grid = patch_grid(patch, stride, frames, mels)
        rows, columns = self.grid
        if steps is not None and not 1 <= steps <= columns:
            raise ValueError(f"ast: steps {steps}; expected from 1 to {columns}")
        self.steps = steps
        self.segments = []
        for first, last in pooled_segments(columns, steps or columns):
            self.segments.append((first * stride_frames, (last - 1) * stride_frames + patch_frames))
        self.patchout = None
        if patchout_time or patchout_freq:
            self.patchout = Patchout(self.grid, patchout_time, patchout_freq)

        n_tokens = 2 + rows * columns
        norm_layer = partial(nn.LayerNorm, eps=norm_eps)
        self.patch_embed = nn.Conv2d(
            1, embed_dim, (patch_bins, patch_frames), (stride_bins, stride_frames)
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, n_tokens, embed_dim))
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, qkv_bias=True, norm_layer=norm_layer)
            for _ in range(depth - 1)
        )
        self.blocks.append(LastBlock(embed_dim, num_heads, qkv_bias=True, norm_layer=norm_layer))
        self.norm = norm_layer(embed_dim)
        self.pooled_blocks = pooled_blocks
        self.source_head = nn.Sequential(norm_layer(embed_dim), nn.Linear(embed_dim, n_source))
        self._init_weights()
        if steps is not None:
            self.return_tokens()
        if pooling != "mean":
            self.blocks[-1].count = n_tokens

    def _init_weights(self) -> None:
        for tensor in (self.cls_token, self.dist_token, self.pos_embed):
            nn.init.trunc_normal_(tensor, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def return_tokens(self) -> None:
        """Make `forward` return the tokens of the patches too, after the last norm."""
        self.with_tokens = True
        self.blocks[-1].count = self.pos_embed.shape[1]

    def forward(self, x: torch.Tensor) -> Output:
        """(B, 1, T, F) normalised log-mel -> Output(embedding (B, D), source_logits (B, S)).

        With `steps`, Output(embedding (B, D, steps), None).

        Raises:
            ValueError: the input does not have the size of the position embedding.
        """
        if x.ndim != 4 or x.shape[1:] != (1, self.frames, self.mels):
            raise ValueError(
                f"ast expects an input of (B, 1, {self.frames}, {self.mels}), "
                f"found {tuple(x.shape)}"
            )
        patches = self.patch_embed(x.transpose(2, 3)).flatten(2).transpose(1, 2)
        cls_token = self.cls_token.expand(len(x), -1, -1)
        dist_token = self.dist_token.expand(len(x), -1, -1)
        tokens = torch.cat([cls_token, dist_token, patches], dim=1) + self.pos_embed
        if self.patchout is not None:
            tokens = self.patchout(tokens)
        n_tokens = tokens.shape[1]  # without those that an adapter adds after them
        *blocks, last = self.blocks
        pooled = []
        stacked = []
        for number, block in enumerate(blocks, 1):
            if self.grad_checkpointing:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
            if self.pooling == "blocks":
                stacked.append(_stack(_normalised(tokens[:, :n_tokens])))
            elif number in self.pooled_blocks:
                patches = _normalised(tokens[:, :n_tokens])[:, 2:]
                pooled += [patches.mean(dim=1), patches.amax(dim=1)]
        tokens = self.norm(last(tokens))[:, :n_tokens]
        if self.steps is not None:
            patches = tokens[:, 2:].transpose(1, 2).unflatten(2, self.grid)
            frames = functional.adaptive_avg_pool2d(patches, (1, self.steps)).squeeze(2)
            return Output(frames, None)
        class_token = tokens[:, :2].mean(dim=1)
        if self.pooling == "blocks":
            embedding = torch.stack([*stacked, _stack(tokens)], dim=2)
        else:
            first = _stack(tokens) if self.pooling == "stacked" else class_token
            embedding = torch.cat([first, *pooled], dim=1)
        patches = tokens[:, 2:] if self.with_tokens else None
        return Output(embedding, self.source_head(class_token), patches)


def _normalised(tokens: torch.Tensor) -> torch.Tensor:
    """Normalise a block's tokens, without parameters."""
    return functional.layer_norm(tokens, tokens.shape[2:])


def _stack(tokens: torch.Tensor) -> torch.Tensor:
    """Join class token, distillation token and mean of the patches: (B, N, D) -> (B, 3 D)."""
    return torch.cat([tokens[:, 0], tokens[:, 1], tokens[:, 2:].mean(dim=1)], dim=1)


def patch_grid(
    patch: int | Sequence[int], stride: int | Sequence[int], frames: int, mels: int
) -> tuple[int, int]:
    """Return the number of rows (frequency) and of columns (time) of patches."""
    patch_bins, patch_frames = _pair("patch", patch)
    stride_bins, stride_frames = _pair("stride", stride)
    rows = (mels - patch_bins) // stride_bins + 1
    columns = (frames - patch_frames) // stride_frames + 1
    return rows, columns


def _pair(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    """Return a size as (bins, frames)."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2:
        raise ValueError(f"ast: {name} {size}; expected a number or a pair (bins, frames)")
    return pair


class Patchout(nn.Module):
    """Structured patchout (Koutini et al. 2022): drop random columns and rows of patches.

    In training only. All clips of a batch lose the same ones, drawn from torch's global generator,
    whose state a training run restores when it resumes.

    Args:
        grid: rows (frequency) and columns (time) of patches.
        time, freq: shares of the columns and of the rows, rounded down to whole ones.

    Raises:
        ValueError: a share is below 0, or 1 and more.
    """

    def __init__(self, grid: tuple[int, int], time: float, freq: float):
        super().__init__()
        if not (0 <= time < 1 and 0 <= freq < 1):
            raise ValueError(
                f"ast: patchout_time {time}, patchout_freq {freq}; expected from 0 to below 1"
            )
        self.rows, self.columns = grid
        self.kept_rows = self.rows - int(freq * self.rows)
        self.kept_columns = self.columns - int(time * self.columns)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, 2 + rows * columns, D) -> (B, 2 + kept rows * kept columns, D), in order."""
        if not self.training:
            return tokens
        rows = torch.randperm(self.rows)[: self.kept_rows].sort().values
        columns = torch.randperm(self.columns)[: self.kept_columns].sort().values
        patches = 2 + (self.columns * rows[:, None] + columns).flatten()
        kept = torch.cat([torch.arange(2), patches])
        return tokens.index_select(1, kept.to(tokens.device))


class LastBlock(Block):
    """A block that computes only the first `count` tokens: class and distillation by default."""

    count = 2

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, count, D)."""
        attn = self.attn
        qkv = attn.qkv(self.norm1(tokens)).unflatten(-1, (3, attn.num_heads, attn.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = functional.scaled_dot_product_attention(q[:, :, : self.count], k, v)
        x = tokens[:, : self.count] + attn.proj(x.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))
