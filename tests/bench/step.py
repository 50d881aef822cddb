"""One training step: a U-Net in front of a frozen AST-base, a linear head behind it

Forward, input gradient through the whole AST, no gradient of its weights, AdamW over what learns; input 1024 x 128, 1,214 tokens.
All contestants have the same weights, U-Net, precision and batch, give the same loss, and take turns in one process; with **memory kept**, after the others: the
process keeps what its tensors free instead of giving it back to the system at once, as `train.py` does on a CPU.
**transformers** is `ASTForAudioClassification` with its fused attention (SDPA). **unfused** stands for the authors' step: the same network
with attention as plain products and softmax, in batches of 4, in float16 on a GPU and in float32 on a CPU.
Operations are those of the published network that the step cannot do without: what is computed twice to save memory is not
counted, nor what is left out of the last block here, of which only two tokens are read. The ceiling is the largest speed of a
product of square matrices that this machine reached in the same run, by PyTorch's own product or by oneDNN's.
"""

import copy
import ctypes
import tempfile
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from unittest import mock

import record
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from ast_repr import backbones, device, losses, reprogrammers
from ast_repr.backbones import attention, product
from ast_repr.backbones.audio_transformer import AudioTransformer
from ast_repr.classifier import Reprogrammed, multiply_accumulates
from ast_repr.heads.embedding import EmbeddingHead

CLASSES, FRAMES, BINS = 20, 1024, 128
BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
SMALL = {"embed_dim": 192, "depth": 4, "num_heads": 3}
GOALS = {"cpu": {"float32": 0.60}, "cuda": {"bfloat16": 0.55}}  # of the ceiling
AGAINST = {"cpu": 1.15, "cuda": 1.3}  # transformers


def main(args):
    target = device.choose(args.device)
    dims, batches = (SMALL, [2]) if args.quick else (BASE, args.batch)
    precisions = [torch.float32, torch.bfloat16] if device.has_bf16(target) else [torch.float32]
    speeds = {precision: ceiling(target, precision, 1024 if args.quick else 4096) for precision in precisions}
    if target.type == "cpu":
        give_memory_back()
    rows = [{"ceiling": str(precision)[6:], "product by": name, "GFLOP/s": speed} for precision in precisions for name, speed in speeds[precision].items()]
    models = contestants(dims, target)
    for precision in precisions:
        for batch in batches:
            rows += compare(models, precision, batch, max(speeds[precision].values()), target, args.repeats)
    for part in (gains, components):
        for precision in precisions:
            rows += part(models["this project"], precision, batches[0], target, args.repeats)
    record.save("step", rows)


def compare(models, precision, batch, most, target, repeats):
    """Rows of all contestants: the speed of each against the ceiling, and how much quicker this project is."""
    theirs = torch.float16 if target.type == "cuda" else torch.float32
    work = {name: step_of(model, precision, batch, target) for name, model in models.items() if name != "unfused"}
    if batch <= 4:
        work[f"unfused, in {str(theirs)[6:]}"] = step_of(models["unfused"], theirs, batch, target)
    found = {name: step().item() for name, step in work.items()}
    assert max(found.values()) - min(found.values()) < (1e-4 if precision == torch.float32 else 2e-2), f"not the same network: {found}"
    taken = record.alternate(work, repeats)
    if target.type == "cpu":
        with memory_kept():
            taken |= record.alternate({f"{name}, memory kept": step for name, step in work.items()}, repeats)
    taken = {name: record.spread(seconds, "s") for name, seconds in taken.items()}
    best = {side: min(seconds["s"] for name, seconds in taken.items() if name.startswith(side)) for side in ("this project", "transformers")}
    rows = []
    for name, seconds in taken.items():
        speed = useful_operations(models["this project"], batch) / seconds["s"] / 1e9
        row = {"precision": str(precision)[6:], "batch": batch, "step": name, **seconds, "clips/s": batch / seconds["s"],
               "GFLOP/s": speed, "of ceiling": speed / most, "this project is quicker by": seconds["s"] / best["this project"]}  # fmt: skip
        rows.append(row | wanted(row, best, str(precision)[6:], target.type))
    return rows


def wanted(row, best, precision, kind):
    """The goal that a row is measured by, if there is one: of each side the quickest."""
    if row["step"].startswith("transformers") and row["s"] == best["transformers"]:
        return record.goal(row["this project is quicker by"], least=AGAINST[kind], unit="x")
    if row["step"].startswith("unfused") and "kept" not in row["step"]:
        return record.goal(row["this project is quicker by"], least=3, unit="x")
    if row["step"].startswith("this project") and row["s"] == best["this project"] and precision in GOALS[kind]:
        return record.goal(row["of ceiling"], least=GOALS[kind][precision], unit=" of ceiling")
    return {"goal": None, "met": None}


def gains(model, precision, batch, target, repeats):
    """What each measure brings: the step with everything, and without one thing at a time."""
    step = step_of(model, precision, batch, target)
    work = {"everything": step, "attention by PyTorch's fused kernel": patched(step, attention, "attend", functional.scaled_dot_product_attention)}
    if target.type == "cpu" and precision == torch.float32:
        work["products by PyTorch's BLAS"] = patched(step, product, "quick", lambda x: False)
    work["all tokens of the last block"] = patched(step, AudioTransformer, "forward", whole_forward)
    work["activations computed again (--recompute)"] = patched(step, model.backbone, "recompute", True)
    compiled = copy.deepcopy(model)
    compiled.backbone.compile()
    work["backbone compiled (--compile)"] = step_of(compiled, precision, batch, target)
    with memory_kept() if target.type == "cpu" else nullcontext():
        taken = record.alternate(work, repeats)
    if target.type == "cpu":
        taken |= record.alternate({"freed memory given back at once": step}, repeats)
    taken = {name: record.spread(seconds, "s") for name, seconds in taken.items()}
    full = taken["everything"]["s"]
    return [{"precision": str(precision)[6:], "batch": batch, "variant": name, **s, "times everything": s["s"] / full} for name, s in taken.items()]


def components(model, precision, batch, target, repeats):
    """Where the time of a step goes: each part alone, forwards and backwards, at its place's sizes; the backbone's rest is what is left of it."""
    ast, context = model.backbone, partial(torch.autocast, target.type, precision, enabled=precision != torch.float32)
    tokens, width, heads = ast.pos_embed.shape[1], ast.embed_dim, ast.blocks[0].attn.num_heads
    blocks = len(ast.blocks) - 1  # the last one computes next to nothing
    dtype = precision
    x = torch.randn(batch, 1, FRAMES, BINS, device=target, requires_grad=True)
    hidden = torch.randn(batch, tokens, width, device=target, dtype=dtype, requires_grad=True)
    wide = torch.randn(batch, tokens, 4 * width, device=target, dtype=dtype, requires_grad=True)
    q, k, v = (torch.randn(batch, heads, tokens, width // heads, device=target, dtype=dtype, requires_grad=True) for _ in range(3))
    embedding = torch.randn(batch, width, device=target, requires_grad=True)
    layers = ast.blocks[0]

    def products():
        for layer, own in ((layers.attn.qkv, hidden), (layers.attn.proj, hidden), (layers.mlp.fc1, hidden), (layers.mlp.fc2, wide)):
            yield product.linear(own, layer.weight, layer.bias)

    work = {
        "U-Net": (1, lambda: [model.reprogrammer(x)]),
        "AST": (1, lambda: [ast(x).embedding]),
        "AST: matrix products": (blocks, products),
        "AST: attention": (blocks, lambda: [attention.attend(q, k, v)]),
        "head": (1, lambda: [model.head(backbones.Output(embedding, None))]),
    }

    def both_ways(forward):
        with context():
            outputs = list(forward())
        torch.autograd.backward(outputs, [torch.ones_like(out) for out in outputs])

    with memory_kept() if target.type == "cpu" else nullcontext():
        taken = record.alternate({name: partial(both_ways, forward) for name, (_, forward) in work.items()}, repeats)
    ms = {name: work[name][0] * record.spread(seconds)["ms"] for name, seconds in taken.items()}
    ms["AST: norms, GELU, sums, patches"] = ms.pop("AST") - ms["AST: matrix products"] - ms["AST: attention"]
    return [{"precision": str(precision)[6:], "batch": batch, "component": name, "ms": value, "share": value / sum(ms.values())} for name, value in ms.items()]


def own_model(dims, target):
    """This project's model with random weights: U-Net, AST of `dims`, linear head."""
    torch.manual_seed(0)
    backbone = backbones.build("ast", **dims, n_source=CLASSES, frames=FRAMES, mels=BINS)
    unet = reprogrammers.build("unet", frames=FRAMES, bins=BINS, residual=True)
    return Reprogrammed(unet, backbone, EmbeddingHead(CLASSES, dims["embed_dim"]), norm="none").to(target).train()


def contestants(dims, target):
    """{name: model}: modules from log-mels (B, 1, T, F) to logits (B, K) with the same weights, of which U-Net and head learn."""
    from transformers import ASTConfig, ASTForAudioClassification

    own = own_model(dims, "cpu")
    reference = ASTForAudioClassification(ASTConfig(
        hidden_size=dims["embed_dim"], num_hidden_layers=dims["depth"], num_attention_heads=dims["num_heads"],
        intermediate_size=4 * dims["embed_dim"], num_labels=CLASSES, layer_norm_eps=1e-12,
    )).requires_grad_(False)  # fmt: skip
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
    """The training step of a model as a function that returns its loss; the rate is 0, so that each step is the same."""
    generator = torch.Generator().manual_seed(1)
    x, targets = (torch.randn(batch, *size, generator=generator).to(target) for size in ((1, FRAMES, BINS), (CLASSES,)))
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
    """Operations of a step: forwards those of `multiply_accumulates`; backwards as many, and in attention twice as many."""
    tokens, width = model.backbone.pos_embed.shape[1], model.backbone.embed_dim
    attended = (len(model.backbone.blocks) - 1) * 4 * tokens**2 * width
    return batch * (2 * 2 * multiply_accumulates(model, (1, FRAMES, BINS)) + attended)


def ceiling(target, precision, size, repeats=9):
    """{whose product: GFLOP/s} of square matrices."""
    a, b = (torch.randn(size, size, device=target, dtype=precision) for _ in range(2))
    work = {"PyTorch": lambda: a @ b}
    if target.type == "cpu" and precision == torch.float32:
        work["oneDNN"] = lambda: product.times_transposed(a, b)
    return {name: 2 * size**3 / seconds.min() / 1e9 for name, seconds in record.alternate(work, repeats, warmup=2).items()}


def patched(step, owner, name, value):
    """The step with one thing replaced."""

    def run():
        with mock.patch.object(owner, name, value):
            return step()

    return run


def whole_forward(self, x):
    """AudioTransformer.forward, all tokens of the last block included."""
    patches = self.patch_embed(x.transpose(2, 3)).flatten(2).transpose(1, 2)
    tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.dist_token.expand(len(x), -1, -1), patches], dim=1) + self.pos_embed
    for block in self.blocks:
        tokens = block(tokens)
    embedding = self.norm(tokens[:, :2]).mean(dim=1)
    return backbones.Output(embedding, self.source_head(embedding))


@contextmanager
def memory_kept():
    """In here the process keeps the memory that tensors free, as train.py's does on a CPU."""
    device.keep_freed_memory()
    try:
        yield
    finally:
        give_memory_back()


def give_memory_back():
    """The C library's own settings again."""
    library = ctypes.CDLL(None)
    library.mallopt(device.M_MMAP_MAX, 65536)
    library.mallopt(device.M_TRIM_THRESHOLD, 128 << 10)
    library.malloc_trim(0)


def parse():
    parser = record.parser(__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[4], help="batch sizes (4; the authors')")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
