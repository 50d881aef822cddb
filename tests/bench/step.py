"""One training step: a U-Net in front of a frozen AST-base, a linear head behind it.

Forward, input gradient through the whole AST, no gradient of its weights, AdamW over the
trained parameters; input 1024 x 128, 1,214 tokens. There are five tables:

1. **ceiling**: the speed of a product of large square matrices on this machine, by PyTorch's
   own product or by oneDNN's. The products take turns with the steps, so that other load on the
   machine affects both.
2. **step**: all have the same weights and U-Net, give the same loss, and take turns in one
   process. transformers is `ASTForAudioClassification` with its fused attention (SDPA). unfused
   stands for the authors' step: the same network with attention as plain products and softmax,
   in batches of 4, in float16 on a GPU and in float32 on a CPU; it takes part in the precision
   that `train.py` takes by default. "Memory given back" is the C library's default, and comes
   first; "kept" is `train.py`'s setting on a CPU and PyTorch's on a GPU: memory that tensors
   free stays with the process. Useful operations are those that the step requires.
   transformers and unfused do about 7 % more than are counted, because they compute the last
   block for all tokens, of which only two are pooled; recomputed activations are not counted
   either. "Of ceiling" is the median over turns of the step's share of the faster product of
   its precision in the same turn. Goals compare the fastest steps.
3. **variant**: this project's step, and its time with one thing removed or added; memory is
   kept. `cpu_kernels` is src/ast_repr/backbones/cpu_kernels.py, without which AST consists of
   plain timm blocks.
4. **evaluation**: the forward pass without gradients, as in validation and scoring.
5. **component**: each part of the step alone, forward and backward, with inputs of the same
   sizes; memory is kept. "AST: rest" is the whole AST minus its products and its attention:
   norms, GELU, sums, the patches, the last block and memory traffic between them. Loss and AdamW
   are left out.
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import record
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from ast_repr import backbones, devices, losses, processes, reprogrammers
from ast_repr.backbones import cpu_kernels
from ast_repr.backbones.audio_transformer import AudioTransformer, Patchout
from ast_repr.classifier import Reprogrammed, multiply_accumulates
from ast_repr.heads.embedding import EmbeddingHead

CLASSES, FRAMES, BINS = 20, 1024, 128
BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2}
# Goals: per cent of the ceiling, and how many times as quick as others.
CEILINGS = {("cpu", torch.float32): 60, ("cuda", torch.bfloat16): 55}
AGAINST = {
    "transformers": {"cpu": 1.15, "cuda": 1.3},
    "unfused": {"cpu": 3, "cuda": 3},
}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}  # of the loss
AUTHORS = {"cpu": torch.float32, "cuda": torch.float16}  # the precision of their step
# Size and number of the products that are the ceiling.
PRODUCTS = {"cpu": (4096, 3), "cuda": (8192, 20)}
OURS = "this project"

Work = Callable[[], object]


class Timed(NamedTuple):
    """A timed variant: a step or a product, in a precision, with a setting of memory."""

    name: str
    precision: torch.dtype
    memory: str = "kept"

    @property
    def is_product(self) -> bool:
        return self.name.startswith("product by ")


def main(args: argparse.Namespace) -> None:
    """Time the steps, their variants and their parts, and save the rows."""
    # Once this is called, the C library is no longer as it is by default.
    with mock.patch.object(processes, "keep_freed_memory"):
        device = devices.choose(args.device)
    measured = precisions(device)
    batches = [1] if args.quick else args.batch
    size, count = (128, 3) if args.quick else PRODUCTS[device.type]
    models = contestants(SMALL if args.quick else BASE, device)
    passes = {}
    for precision in measured:
        for batch in batches:
            unfused = precision == measured[-1] and batch <= 4
            work = steps(models, precision, batch, device, unfused)
            used = {timed.precision for timed in work}
            passes[precision, batch] = work | products(device, used, size, count)
    ceilings = {}
    rows = []
    for (_, batch), seconds in with_both_memories(passes, device, args.repeats).items():
        operations = useful_operations(models[OURS], batch)
        speeds = {}
        for timed, taken in seconds.items():
            done = count * 2 * size**3 if timed.is_product else operations
            speeds[timed] = done / taken / 1e9
            if timed.is_product and timed.memory == "kept":
                ceilings.setdefault(timed, float(np.median(speeds[timed])))
        rows += compare(seconds, speeds, batch, device)
    model = models[OURS]
    for precision in measured:
        rows += variants(model, precision, batches[0], device, args.repeats)
    for precision in measured:
        rows += evaluation(models, precision, batches[0], device, args.repeats)
    for precision in measured:
        rows += components(model, precision, batches[0], device, args.repeats)
    top = []
    for timed, speed in ceilings.items():
        maker = timed.name.removeprefix("product by ")
        top.append({"ceiling": text(timed.precision), "product by": maker, "GFLOP/s": speed})
    record.save("step", top + rows, on=device)


def precisions(device: torch.device) -> list[torch.dtype]:
    """List the precisions in which the device computes; `train.py` takes the last by default."""
    return [torch.float32, torch.bfloat16] if devices.has_bf16(device) else [torch.float32]


def steps(
    models: dict[str, nn.Module],
    precision: torch.dtype,
    batch: int,
    device: torch.device,
    unfused: bool,
) -> dict[Timed, Work]:
    """Make the steps that take turns, the unfused one among them or not.

    Raises:
        RuntimeError: one has another loss than this project's, so it is not the same network.
    """
    chosen = [Timed(OURS, precision), Timed("transformers", precision)]
    if unfused:
        chosen.append(Timed("unfused", AUTHORS[device.type]))
    work = {}
    for timed in chosen:
        step = step_of(models[timed.name], timed.precision, batch, device)
        loss = step().item()
        expected = step_of(models[OURS], timed.precision, batch, device)().item()
        if abs(loss - expected) > TOLERANCE[timed.precision]:
            raise RuntimeError(
                f"{timed.name} in {text(timed.precision)} is another network: "
                f"its loss is {loss}, this project's {expected}"
            )
        work[timed] = step
    return work


def with_both_memories(
    passes: dict[tuple, dict[Timed, Work]], device: torch.device, repeats: int
) -> dict[tuple, dict[Timed, np.ndarray]]:
    """Time the work of each pass, in seconds.

    On a CPU all passes run with freed memory given back first, then all with it kept.
    """
    seconds = {key: {} for key in passes}
    memories = ["given back", "kept"] if device.type == "cpu" else ["kept"]
    for memory in memories:
        if memory == "kept" and device.type == "cpu":
            processes.keep_freed_memory()
        for key, work in passes.items():
            for timed, taken in record.alternate(work, repeats).items():
                seconds[key][timed._replace(memory=memory)] = taken
    return seconds


def compare(
    seconds: dict[Timed, np.ndarray],
    speeds: dict[Timed, np.ndarray],
    batch: int,
    device: torch.device,
) -> list[dict]:
    """Make the rows of one pass: each step against the ceiling and this project's best.

    The fastest of each name has a goal.
    """
    spreads = {}
    quickest = {}
    for timed, taken in seconds.items():
        if timed.is_product:
            continue
        spreads[timed] = record.spread(taken, "s")
        best = quickest.get(timed.name, timed)
        if spreads[timed]["s"] <= spreads[best]["s"]:
            quickest[timed.name] = timed
    best_s = spreads[quickest[OURS]]["s"]
    rows = []
    for timed, spread in spreads.items():
        ceiling = 0.0
        for other, speed in speeds.items():
            if other.is_product and other[1:] == timed[1:]:
                ceiling = np.maximum(ceiling, speed)
        share = 100 * float(np.median(speeds[timed] / ceiling))
        times = spread["s"] / best_s
        row = {"precision": text(timed.precision), "batch": batch, "step": timed.name}
        row |= {"memory": timed.memory, **spread, "clips/s": batch / spread["s"]}
        row |= {"useful GFLOP/s": float(np.median(speeds[timed])), "of ceiling, %": share}
        row |= {"times this project's best": times, "goal": None, "met": None}
        if timed == quickest[timed.name]:
            if timed.name in AGAINST:
                least = AGAINST[timed.name][device.type]
                row |= record.goal(times, least=least, unit="x, both at their fastest")
            elif (device.type, timed.precision) in CEILINGS:
                least = CEILINGS[device.type, timed.precision]
                row |= record.goal(share, least=least, unit=" % of ceiling")
        rows.append(row)
    return rows


def variants(
    model: Reprogrammed, precision: torch.dtype, batch: int, device: torch.device, repeats: int
) -> list[dict]:
    """Make the rows of the variants: the full step, and the step with one thing changed."""
    step = step_of(model, precision, batch, device)
    work = {"the full step": step}
    if device.type == "cuda":
        without_fused = within(step, partial(sdpa_kernel, SDPBackend.MATH))
        work["without fused attention (plain products and softmax)"] = without_fused
    elif precision == torch.float32:  # cpu_kernels leaves bfloat16 to PyTorch
        plain = step_of(without_kernels(model), precision, batch, device)
        work["without cpu_kernels (plain timm blocks)"] = plain
    whole = partial(mock.patch.object, AudioTransformer, "forward", whole_forward)
    work["without the shortened last block (all its tokens)"] = within(step, whole)
    recompute = partial(mock.patch.object, model.backbone, "grad_checkpointing", True)
    work["with --recompute"] = within(step, recompute)
    half = Patchout(model.backbone.grid, time=0.5, freq=0.0)
    dropped = partial(mock.patch.object, model.backbone, "patchout", half)
    work["with half of the patches dropped (patchout_time=0.5)"] = within(step, dropped)
    if model.backbone.embed_dim != SMALL["embed_dim"]:  # takes too long for a try
        compiled = copy.deepcopy(model)
        compiled.backbone.compile()
        work["with --compile"] = step_of(compiled, precision, batch, device)
        dropped = partial(mock.patch.object, compiled.backbone, "patchout", half)
        work["with --compile and half of the patches"] = within(work["with --compile"], dropped)
    finetuned = copy.deepcopy(model).requires_grad_(True)
    work["with the gradients of all weights (fine-tuning)"] = step_of(
        finetuned, precision, batch, device
    )
    running = {name: variant for name, variant in work.items() if runs(name, variant)}
    seconds = record.alternate(running, repeats)
    full_s = record.spread(seconds["the full step"], "s")["s"]
    rows = []
    for name in work:
        row = {"precision": text(precision), "batch": batch, "variant": name}
        if name in seconds:
            spread = record.spread(seconds[name], "s")
            row |= spread | {"times the full step": spread["s"] / full_s}
        else:
            row |= dict.fromkeys(["s", "quartiles s", "times the full step"])
        rows.append(row)
    return rows


def evaluation(
    models: dict[str, nn.Module],
    precision: torch.dtype,
    batch: int,
    device: torch.device,
    repeats: int,
) -> list[dict]:
    """Make the rows of the forward pass without gradients, of this project and transformers."""
    x = torch.randn(batch, 1, FRAMES, BINS, device=device)
    work = {}
    for name in (OURS, "transformers"):
        work[name] = within(partial(models[name], x), partial(evaluating, device, precision))
    rows = []
    for name, seconds in record.alternate(work, repeats).items():
        spread = record.spread(seconds, "s")
        row = {"precision": text(precision), "batch": batch, "evaluation": name, **spread}
        rows.append(row | {"clips/s": batch / spread["s"]})
    return rows


@contextmanager
def evaluating(device: torch.device, precision: torch.dtype) -> Iterator[None]:
    """Compute no gradients, in a precision."""
    with torch.no_grad(), autocast(device, precision):
        yield


def without_kernels(model: Reprogrammed) -> Reprogrammed:
    """Copy the model with torch's own linear layers in AST's blocks."""
    plain = copy.deepcopy(model)
    for layer in plain.backbone.blocks.modules():
        if type(layer) is cpu_kernels.CpuLinear:
            layer.__class__ = nn.Linear
    return plain


def runs(name: str, step: Work) -> bool:
    """Return whether a step runs here (--compile needs a compiler); stderr says why not."""
    try:
        step()
    except Exception as error:  # of any kind: the other figures are still wanted
        lines = str(error).splitlines() or [""]
        print(f"{name}: {type(error).__name__}: {lines[0]}", file=sys.stderr)
        return False
    return True


def components(
    model: Reprogrammed, precision: torch.dtype, batch: int, device: torch.device, repeats: int
) -> list[dict]:
    """Make the rows of the components: each part alone, forward and backward, at its true sizes.

    The backbone's rest is computed by difference.
    """
    ast = model.backbone
    tokens = ast.pos_embed.shape[1]
    width = ast.embed_dim
    heads = ast.blocks[0].attn.num_heads
    blocks = len(ast.blocks) - 1  # the last one computes next to nothing
    attn = ast.blocks[0].attn
    mlp = ast.blocks[0].mlp
    random = partial(torch.randn, device=device, requires_grad=True)
    x = random(batch, 1, FRAMES, BINS)
    embedding = random(batch, width)
    hidden = random(batch, tokens, width, dtype=precision)
    wide = random(batch, tokens, 4 * width, dtype=precision)
    qkv = [random(batch, heads, tokens, width // heads, dtype=precision) for _ in range(3)]
    head_input = backbones.Output(embedding, None)
    both_ways = partial(forward_and_backward, precision)
    products_of_block = [
        both_ways([hidden], attn.qkv, hidden),
        both_ways([hidden], attn.proj, hidden),
        both_ways([hidden], mlp.fc1, hidden),
        both_ways([wide], mlp.fc2, wide),
    ]
    attention = both_ways(qkv, functional.scaled_dot_product_attention, *qkv)
    parts = {
        "U-Net": [both_ways(list(model.reprogrammer.parameters()), model.reprogrammer, x)],
        "AST": [both_ways([x], lambda: ast(x).embedding)],
        "AST: matrix products": products_of_block * blocks,
        "AST: attention": [attention] * blocks,
        "head": [both_ways([embedding, *model.head.parameters()], model.head, head_input)],
    }
    seconds = record.alternate(
        {name: partial(run_all, part) for name, part in parts.items()}, repeats
    )
    ms = {name: record.spread(taken)["ms"] for name, taken in seconds.items()}
    rest = ms.pop("AST") - ms["AST: matrix products"] - ms["AST: attention"]
    ms["AST: rest (by difference)"] = rest
    whole = sum(ms.values())
    rows = []
    for name, value in ms.items():
        row = {"precision": text(precision), "batch": batch, "component": name, "ms": value}
        rows.append(row | {"share, %": 100 * value / whole})
    return rows


def forward_and_backward(
    precision: torch.dtype, inputs: list[torch.Tensor], forward: Callable, *args: object
) -> Work:
    """Make a function that runs `forward` and computes the gradients of `inputs`."""
    context = partial(autocast, inputs[0].device, precision)
    with context():
        gradient = torch.ones_like(forward(*args))

    def run():
        with context():
            out = forward(*args)
        torch.autograd.grad(out, inputs, gradient)

    return run


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Return the context of a forward pass in a precision."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def run_all(parts: list[Work]) -> None:
    """Run the parts one after the other."""
    for part in parts:
        part()


def reprogrammed(dims: dict) -> Reprogrammed:
    """Build this project's model with random weights: U-Net, AST of `dims`, linear head."""
    torch.manual_seed(0)
    backbone = backbones.build("ast", **dims, n_source=CLASSES, frames=FRAMES, mels=BINS)
    cpu_kernels.enable(backbone)
    unet = reprogrammers.build("unet", frames=FRAMES, bins=BINS, residual=True)
    return Reprogrammed(unet, backbone, EmbeddingHead(CLASSES, dims["embed_dim"]), norm="none")


def contestants(dims: dict, device: torch.device) -> dict[str, nn.Module]:
    """Build models from log-mels (B, 1, T, F) to logits (B, K), all with the same weights.

    U-Net and head are trained.
    """
    ours = reprogrammed(dims)
    reference = transformers_ast(ours)
    models = {OURS: ours}
    for name, kernel in (("transformers", "sdpa"), ("unfused", "eager")):
        model = copy.deepcopy(reference)
        model.set_attn_implementation(kernel)
        model.classifier.requires_grad_(True)
        models[name] = Fronted(copy.deepcopy(ours.reprogrammer), model.eval())
    return {name: model.to(device).train() for name, model in models.items()}


def transformers_ast(ours: Reprogrammed) -> nn.Module:
    """Build transformers' AST with random weights, frozen, and load these into `ours`.

    `ours` has as many source classes as classes.
    """
    from transformers import ASTConfig, ASTForAudioClassification

    dims = ours.backbone.dims
    config = ASTConfig(
        hidden_size=dims["embed_dim"],
        num_hidden_layers=dims["depth"],
        num_attention_heads=dims["num_heads"],
        intermediate_size=4 * dims["embed_dim"],
        frequency_stride=dims["stride"],
        time_stride=dims["stride"],
        num_labels=dims["n_source"],
        layer_norm_eps=1e-12,
    )
    reference = ASTForAudioClassification(config).requires_grad_(False)
    for name, parameter in reference.named_parameters():
        if "token" in name or "position" in name:
            nn.init.trunc_normal_(parameter, std=0.02)
    with tempfile.TemporaryDirectory() as folder:
        save_file(reference.state_dict(), Path(folder) / "ast.safetensors")
        backbones.weights.load(ours.backbone, Path(folder) / "ast.safetensors")
    norm, linear = ours.backbone.source_head
    ours.head.norm.load_state_dict(norm.state_dict())
    ours.head.linear.load_state_dict(linear.state_dict())
    return reference


class Fronted(nn.Module):
    """A U-Net in front of transformers' AST."""

    def __init__(self, reprogrammer: nn.Module, model: nn.Module):
        super().__init__()
        self.reprogrammer = reprogrammer
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(self.reprogrammer(x)[:, 0]).logits


def step_of(
    model: nn.Module, precision: torch.dtype, batch: int, device: torch.device
) -> Callable[[], torch.Tensor]:
    """Make a training step that returns its loss; at learning rate 0 all steps are the same."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 1, FRAMES, BINS, generator=generator).to(device)
    values = torch.randn(batch, CLASSES, generator=generator).to(device)
    targets = values.sigmoid()
    mask = values > 1
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            logits = model(x)
        loss = losses.masked_bce(logits.float(), targets, mask)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def useful_operations(model: Reprogrammed, batch: int) -> int:
    """Count a step's operations: the forward ones, as many backward, in attention twice as many."""
    tokens = model.backbone.pos_embed.shape[1]
    attended = (len(model.backbone.blocks) - 1) * 4 * tokens**2 * model.backbone.embed_dim
    shape = (1, model.backbone.frames, model.backbone.mels)
    return batch * (2 * 2 * multiply_accumulates(model, shape) + attended)


def products(
    device: torch.device, precisions: set[torch.dtype], size: int, count: int
) -> dict[Timed, Work]:
    """Make functions that multiply square matrices `count` times.

    They are so many that on a GPU the launch of a kernel does not matter.
    """
    work = {}
    for precision in precisions:
        a = torch.randn(size, size, device=device, dtype=precision)
        b = torch.randn(size, size, device=device, dtype=precision)
        work[Timed("product by PyTorch", precision)] = partial(multiply, torch.matmul, a, b, count)
        if device.type == "cpu" and precision == torch.float32:
            by_onednn = partial(multiply, cpu_kernels.onednn_linear, a, b, count)
            work[Timed("product by oneDNN", precision)] = by_onednn
    return work


def multiply(product: Callable, a: torch.Tensor, b: torch.Tensor, count: int) -> None:
    """Multiply two matrices `count` times."""
    for _ in range(count):
        product(a, b)


def within(step: Work, context: Callable[[], AbstractContextManager]) -> Work:
    """Make a function that runs the step inside of a context."""

    def run():
        with context():
            return step()

    return run


def text(precision: torch.dtype) -> str:
    """Format a precision, such as "float32"."""
    return str(precision).removeprefix("torch.")


def whole_forward(self: AudioTransformer, x: torch.Tensor) -> backbones.Output:
    """AudioTransformer.forward, all tokens of the last block included."""
    patches = self.patch_embed(x.transpose(2, 3)).flatten(2).transpose(1, 2)
    cls = self.cls_token.expand(len(x), -1, -1)
    dist = self.dist_token.expand(len(x), -1, -1)
    tokens = torch.cat([cls, dist, patches], dim=1) + self.pos_embed
    for block in self.blocks:
        tokens = block(tokens)
    embedding = self.norm(tokens[:, :2]).mean(dim=1)
    return backbones.Output(embedding, self.source_head(embedding))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = record.parser(__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[4], help="sizes (4, the authors')")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.quick:
        args.repeats = 1
    return args


if __name__ == "__main__":
    main(parse())
