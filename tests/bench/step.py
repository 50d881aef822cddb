"""One training step: a U-Net in front of a frozen AST-base, a linear head behind it.

Forward, input gradient through the whole AST, no gradient of its weights, AdamW over what is
trained; input 1024 x 128, 1,214 tokens. There are four tables:

1. **ceiling**: the speed of a product of large square matrices on this machine, by PyTorch's
   own product or by oneDNN's. The products take turns with the steps, so that other load on the
   machine affects both.
2. **step**: all have the same weights and U-Net, give the same loss, and take turns in one
   process. transformers is `ASTForAudioClassification` with its fused attention (SDPA). unfused
   stands for the authors' step: the same network with attention as plain products and softmax,
   in batches of 4, in float16 on a GPU and in float32 on a CPU; it takes part in the precision
   that `train.py` takes by default. "Memory given back" is the C library's default, and comes
   first; "kept" is `train.py`'s setting on a CPU and PyTorch's on a GPU: memory that tensors
   free stays with the process. Useful operations are those that the step cannot do without.
   transformers and unfused do about 7 % more than are counted, because they compute the last
   block for all tokens, of which only two are pooled; recomputed activations are not counted
   either. "Of ceiling" is the median over turns of the step's share of the faster product of
   its precision in the same turn. Goals compare the fastest row of each side.
3. **variant**: this project's step, and its time with one thing removed or added; memory is
   kept. `cpu_kernels` is src/ast_repr/backbones/cpu_kernels.py, without which AST consists of
   plain timm blocks.
4. **component**: each part of the step alone, forward and backward, with inputs of the same
   sizes; memory is kept. "AST: rest" is the whole AST less its products and its attention:
   norms, GELU, sums, the patches, the last block and memory traffic between them. Loss and AdamW
   are left out.
"""

import copy
import sys
import tempfile
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import record
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from ast_repr import backbones, devices, losses, reprogrammers
from ast_repr.backbones import cpu_kernels
from ast_repr.backbones.audio_transformer import AudioTransformer
from ast_repr.classifier import Reprogrammed, multiply_accumulates
from ast_repr.heads.embedding import EmbeddingHead

CLASSES, FRAMES, BINS = 20, 1024, 128
BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2}
CEILINGS = {("cpu", torch.float32): 60, ("cuda", torch.bfloat16): 55}  # goals: % of them
AGAINST = {
    "transformers": {"cpu": 1.15, "cuda": 1.3},
    "unfused": {"cpu": 3, "cuda": 3},
}  # goals: times as quick
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}  # of the loss
AUTHORS = {"cpu": torch.float32, "cuda": torch.float16}  # the precision of their step
PRODUCTS = {
    "cpu": (4096, 3),
    "cuda": (8192, 20),
}  # size and number of the products that are the ceiling


def main(args):
    with mock.patch.object(
        devices, "keep_freed_memory"
    ):  # once called, the C library is no longer as it is by default
        target = devices.choose(args.device)
    dims, batches = (SMALL, [1]) if args.quick else (BASE, args.batch)
    precisions = [torch.float32, torch.bfloat16] if devices.has_bf16(target) else [torch.float32]
    models = contestants(dims, target)
    passes = {
        (p, batch): entrants(models, p, batch, target, p == precisions[-1] and batch <= 4)
        for p in precisions
        for batch in batches
    }
    size, many = PRODUCTS[target.type] if not args.quick else (128, 3)
    for work in passes.values():
        work |= products(target, dict.fromkeys(p for _, p in work), size, many)
    tops, rows = {}, []
    for (_, batch), taken in with_both_memories(passes, target, args.repeats).items():
        speeds = speeds_of(
            taken, useful_operations(models["this project"], batch), many * 2 * size**3
        )
        for (name, precision, memory), speed in speeds.items():
            if "product" in name and memory == "kept":
                tops.setdefault((said(precision), name), float(np.median(speed)))
        rows += compare(taken, speeds, batch, target)
    rows += [
        row
        for part in (gains, components)
        for p in precisions
        for row in part(models["this project"], p, batches[0], target, args.repeats)
    ]
    record.save(
        "step",
        [
            *(
                {"ceiling": p, "product by": name.removeprefix("product by "), "GFLOP/s": speed}
                for (p, name), speed in tops.items()
            ),
            *rows,
        ],
        on=target,
    )


def entrants(models, precision, batch, target, unfused):
    """Make the steps that take turns: {(name, precision): step}.

    The unfused step is among them or not; each must give the same loss as this project's.

    Raises:
        RuntimeError: it does not, so it is not the same network.
    """
    own = {"this project": precision, "transformers": precision} | (
        {"unfused": AUTHORS[target.type]} if unfused else {}
    )
    work = {(name, p): step_of(models[name], p, batch, target) for name, p in own.items()}
    for (name, p), step in work.items():
        expected, found = step_of(models["this project"], p, batch, target)().item(), step().item()
        if abs(found - expected) > TOLERANCE[p]:
            raise RuntimeError(
                f"{name} in {said(p)} is another network: "
                f"its loss is {found}, this project's {expected}"
            )
    return work


def with_both_memories(passes, target, repeats):
    """Measure {pass: {(name, precision, memory): seconds}}.

    On a CPU all passes run with freed memory given back first, then all with it kept.
    """
    taken = {key: {} for key in passes}
    for memory in ("given back", "kept") if target.type == "cpu" else ("kept",):
        if target.type == "cpu" and memory == "kept":
            devices.keep_freed_memory()
        for key, work in passes.items():
            taken[key] |= {
                (*who, memory): seconds for who, seconds in record.alternate(work, repeats).items()
            }
    return taken


def speeds_of(taken, operations, product_operations):
    """{who: GFLOP/s of each turn}."""
    return {
        who: (product_operations if "product" in who[0] else operations) / np.asarray(seconds) / 1e9
        for who, seconds in taken.items()
    }


def compare(taken, speeds, batch, target):
    """Make the rows of one pass: each step's speed against the ceiling and this project's best.

    The fastest of each side has a goal.
    """
    spreads = {
        who: record.spread(seconds, "s")
        for who, seconds in taken.items()
        if "product" not in who[0]
    }
    quickest = {}
    for who in sorted(spreads, key=lambda who: spreads[who]["s"]):
        quickest.setdefault(who[0], who)
    best, rows = spreads[quickest["this project"]]["s"], []
    for who, spread in spreads.items():
        name, precision, memory = who
        top = np.max(
            [
                speed
                for (other, *kind), speed in speeds.items()
                if "product" in other and kind == [precision, memory]
            ],
            axis=0,
        )
        share, times = 100 * float(np.median(speeds[who] / top)), spread["s"] / best
        row = {
            "precision": said(precision),
            "batch": batch,
            "step": name,
            "memory": memory,
            **spread,
            "clips/s": batch / spread["s"],
            "useful GFLOP/s": float(np.median(speeds[who])),
            "of ceiling, %": share,
            "times this project's best": times,
        }
        wanted = {"goal": None, "met": None}
        if who == quickest[name] and name in AGAINST:
            wanted = record.goal(
                times, least=AGAINST[name][target.type], unit="x, both at their quickest"
            )
        elif who == quickest[name] and (target.type, precision) in CEILINGS:
            wanted = record.goal(
                share, least=CEILINGS[target.type, precision], unit=" % of ceiling"
            )
        rows.append(row | wanted)
    return rows


def gains(model, precision, batch, target, repeats):
    """Make the rows of the variants: the full step, and the step with one thing changed."""
    step = step_of(model, precision, batch, target)
    work = {}
    if target.type == "cuda":
        work["without fused attention (plain products and softmax)"] = within(
            step, sdpa_kernel, SDPBackend.MATH
        )
    elif precision == torch.float32:  # cpu_kernels leaves bfloat16 to PyTorch
        plain = without_kernels(model)
        work["without cpu_kernels (plain timm blocks)"] = step_of(plain, precision, batch, target)
    work["without the shortened last block (all its tokens)"] = patched(
        step, AudioTransformer, "forward", whole_forward
    )
    work["with --recompute"] = patched(step, model.backbone, "grad_checkpointing", True)
    if model.backbone.embed_dim != SMALL["embed_dim"]:  # takes too long for a try
        compiled = copy.deepcopy(model)
        compiled.backbone.compile()
        work["with --compile"] = step_of(compiled, precision, batch, target)
    taken = record.alternate(
        {"the full step": step}
        | {name: variant for name, variant in work.items() if runs(name, variant)},
        repeats,
    )
    spreads = {name: record.spread(seconds, "s") for name, seconds in taken.items()}
    full = spreads["the full step"]
    for spread in spreads.values():
        spread["times the full step"] = spread["s"] / full["s"]
    about, nothing = {"precision": said(precision), "batch": batch}, dict.fromkeys(full)
    return [
        {**about, "variant": name, **spreads.get(name, nothing)}
        for name in ("the full step", *work)
    ]


def without_kernels(model):
    """Copy the model with torch's own linear layers in AST's blocks."""
    plain = copy.deepcopy(model)
    for layer in plain.backbone.blocks.modules():
        if type(layer) is cpu_kernels.CpuLinear:
            layer.__class__ = nn.Linear
    return plain


def runs(name, step):
    """True if a step runs here (--compile needs a compiler); if not, the reason is on stderr."""
    try:
        step()
    except Exception as error:  # of any kind: the other figures are still wanted
        print(
            f"{name}: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}",
            file=sys.stderr,
        )
        return False
    return True


def components(model, precision, batch, target, repeats):
    """Make the rows of the components: each part alone, forward and backward, at its true sizes.

    The backbone's rest is computed by difference.
    """
    ast, context = (
        model.backbone,
        partial(torch.autocast, target.type, precision, enabled=precision != torch.float32),
    )
    tokens, width, heads = ast.pos_embed.shape[1], ast.embed_dim, ast.blocks[0].attn.num_heads
    blocks = len(ast.blocks) - 1  # the last one computes next to nothing
    made = partial(torch.randn, device=target, requires_grad=True)
    x, embedding = made(batch, 1, FRAMES, BINS), made(batch, width)
    hidden, wide = (made(batch, tokens, size, dtype=precision) for size in (width, 4 * width))
    q, k, v = (made(batch, heads, tokens, width // heads, dtype=precision) for _ in range(3))
    attn, mlp = ast.blocks[0].attn, ast.blocks[0].mlp

    def both_ways(inputs, forward, *args):
        """A function that runs `forward` and computes the gradients of `inputs`."""
        with context():
            gradient = torch.ones_like(forward(*args))

        def run():
            with context():
                out = forward(*args)
            torch.autograd.grad(out, inputs, gradient)

        return run

    work = {
        "U-Net": [both_ways(list(model.reprogrammer.parameters()), model.reprogrammer, x)],
        "AST": [both_ways([x], lambda: ast(x).embedding)],
        "AST: matrix products": [
            both_ways([hidden], attn.qkv, hidden),
            both_ways([hidden], attn.proj, hidden),
            both_ways([hidden], mlp.fc1, hidden),
            both_ways([wide], mlp.fc2, wide),
        ]
        * blocks,
        "AST: attention": [both_ways([q, k, v], functional.scaled_dot_product_attention, q, k, v)]
        * blocks,
        "head": [
            both_ways(
                [embedding, *model.head.parameters()], model.head, backbones.Output(embedding, None)
            )
        ],
    }
    taken = record.alternate(
        {name: lambda parts=parts: [part() for part in parts] for name, parts in work.items()},
        repeats,
    )
    ms = {name: record.spread(seconds)["ms"] for name, seconds in taken.items()}
    ms["AST: rest (by difference)"] = (
        ms.pop("AST") - ms["AST: matrix products"] - ms["AST: attention"]
    )
    whole = sum(ms.values())
    return [
        {
            "precision": said(precision),
            "batch": batch,
            "component": name,
            "ms": value,
            "share, %": 100 * value / whole,
        }
        for name, value in ms.items()
    ]


def own_model(dims, target):
    """This project's model with random weights: U-Net, AST of `dims`, linear head."""
    torch.manual_seed(0)
    backbone = backbones.build("ast", **dims, n_source=CLASSES, frames=FRAMES, mels=BINS)
    cpu_kernels.enable(backbone)
    unet = reprogrammers.build("unet", frames=FRAMES, bins=BINS, residual=True)
    return (
        Reprogrammed(unet, backbone, EmbeddingHead(CLASSES, dims["embed_dim"]), norm="none")
        .to(target)
        .train()
    )


def contestants(dims, target):
    """Make {name: model}: log-mels (B, 1, T, F) -> logits (B, K), all with the same weights.

    U-Net and head are trained.
    """
    from transformers import ASTConfig, ASTForAudioClassification

    own = own_model(dims, "cpu")
    reference = ASTForAudioClassification(
        ASTConfig(
            hidden_size=dims["embed_dim"],
            num_hidden_layers=dims["depth"],
            num_attention_heads=dims["num_heads"],
            intermediate_size=4 * dims["embed_dim"],
            num_labels=CLASSES,
            layer_norm_eps=1e-12,
        )
    ).requires_grad_(False)
    for name, parameter in reference.named_parameters():
        if "token" in name or "position" in name:
            nn.init.trunc_normal_(parameter, std=0.02)
    with tempfile.TemporaryDirectory() as folder:
        save_file(reference.state_dict(), Path(folder) / "ast.safetensors")
        backbones.weights.load(own.backbone, Path(folder) / "ast.safetensors")
    own.head.norm.load_state_dict(own.backbone.source_head[0].state_dict())
    own.head.linear.load_state_dict(own.backbone.source_head[1].state_dict())
    models = {"this project": own}
    for name, kernel in (("transformers", "sdpa"), ("unfused", "eager")):
        model = copy.deepcopy(reference)
        model.set_attn_implementation(kernel)
        model.classifier.requires_grad_(True)
        models[name] = Fronted(copy.deepcopy(own.reprogrammer), model.eval())
    return {name: model.to(target).train() for name, model in models.items()}


class Fronted(nn.Module):
    """A U-Net in front of transformers' AST."""

    def __init__(self, reprogrammer, model):
        super().__init__()
        self.reprogrammer, self.model = reprogrammer, model

    def forward(self, x):
        return self.model(self.reprogrammer(x)[:, 0]).logits


def step_of(model, precision, batch, target):
    """A function that makes a training step and returns its loss; at rate 0 all are the same."""
    generator = torch.Generator().manual_seed(1)
    x, targets = (
        torch.randn(batch, *size, generator=generator).to(target)
        for size in ((1, FRAMES, BINS), (CLASSES,))
    )
    targets, mask = targets.sigmoid(), targets > 1
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(target.type, precision, enabled=precision != torch.float32):
            logits = model(x)
        loss = losses.masked_bce(logits.float(), targets, mask)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def useful_operations(model, batch):
    """Operations of a step: the forward ones, as many backward, in attention twice as many."""
    tokens, width = model.backbone.pos_embed.shape[1], model.backbone.embed_dim
    attended = (len(model.backbone.blocks) - 1) * 4 * tokens**2 * width
    return batch * (2 * 2 * multiply_accumulates(model, (1, FRAMES, BINS)) + attended)


def products(target, precisions, size, many):
    """Make {("product by ...", precision): function that multiplies square matrices `many` times}.

    They are many so that on a GPU the launch of a kernel does not matter.
    """
    work = {}
    for precision in precisions:
        a, b = (torch.randn(size, size, device=target, dtype=precision) for _ in range(2))
        work["product by PyTorch", precision] = lambda a=a, b=b: [a @ b for _ in range(many)]
        if target.type == "cpu" and precision == torch.float32:
            work["product by oneDNN", precision] = lambda a=a, b=b: [
                cpu_kernels.onednn_linear(a, b) for _ in range(many)
            ]
    return work


def within(step, context, *args):
    """The step inside of a context."""

    def run():
        with context(*args):
            return step()

    return run


def patched(step, owner, name, value):
    """The step with one thing replaced."""
    return within(step, mock.patch.object, owner, name, value)


def said(precision):
    return str(precision).removeprefix("torch.")


def whole_forward(self, x):
    """AudioTransformer.forward, all tokens of the last block included."""
    patches = self.patch_embed(x.transpose(2, 3)).flatten(2).transpose(1, 2)
    tokens = (
        torch.cat(
            [
                self.cls_token.expand(len(x), -1, -1),
                self.dist_token.expand(len(x), -1, -1),
                patches,
            ],
            dim=1,
        )
        + self.pos_embed
    )
    for block in self.blocks:
        tokens = block(tokens)
    embedding = self.norm(tokens[:, :2]).mean(dim=1)
    return backbones.Output(embedding, self.source_head(embedding))


def parse():
    parser = record.parser(__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[4], help="sizes (4, the authors')")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.quick:
        args.repeats = 1
    return args


if __name__ == "__main__":
    main(parse())
