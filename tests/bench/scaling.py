"""Several processes for one run: training steps per second.

U-Net, frozen AST and linear head on random log-mels: forward, backward and AdamW, in the precision
that training takes here. Batch and total number of CPU threads stay the same for any number of
processes, so the CPU shows nothing but the cost of sharing; a GPU is one process. Each number of
processes is timed once, one after the other.
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import networks
import record
import torch
from accelerate import PartialState

from ast_repr import devices, distributed, methods
from ast_repr.data.dataset import Batch
from ast_repr.run_folder import RunFolder
from ast_repr.training import optim
from ast_repr.training.trainer import Plan, Trainer


def main(args: argparse.Namespace) -> None:
    """Time each number of processes, and save the rows."""
    gpus = torch.cuda.device_count()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in args.processes:
            if gpus and size > gpus:
                continue
            path = Path(folder) / str(size)
            groups = devices.device_groups("auto", size, 1, 1)
            distributed.run(partial(work, args, path), [], groups)
            measured = json.loads(path.read_text())
            rows.append({"processes": size, "batch": args.batch, **measured})
    for row in rows:
        row["against the first"] = row["steps/s"] / rows[0]["steps/s"]
    record.save("scaling", rows, on=rows[0]["device"])


def work(
    args: argparse.Namespace, path: Path, group: PartialState, device: torch.device, tasks: list
) -> None:
    """Time some steps; the main process writes the result to `path`."""
    torch.manual_seed(0)
    model, _ = networks.paper(
        embed_dim=args.embed_dim,
        depth=args.depth,
        num_heads=args.embed_dim // 64,
        stride=args.stride,
    )
    model.to(device)
    model.bf16 = devices.has_bf16(device)
    plan = Plan(1, args.batch, None, None, None, {"name": "constant"}, {}, 0)
    trainer = Trainer(
        methods.build("supervised", model=model),
        optim.build("adamw", model, 1e-3),
        plan,
        RunFolder(path),
        device,
        group=group,
    )
    cells = torch.rand(args.batch, len(networks.CLASSES))
    batch = Batch(torch.randn(args.batch, 1, 1024, 128), cells, cells >= 0).to(device)
    trainer.train_step(batch, 0, 0)  # a warm-up
    group.wait_for_everyone()
    record.synchronise()
    started = time.perf_counter()
    for step in range(args.steps):
        trainer.train_step(batch, 0, step)
    record.synchronise()
    seconds = (time.perf_counter() - started) / args.steps
    if group.is_main_process:
        measured = {
            "device": device.type,
            "threads each": torch.get_num_threads(),
            "steps/s": 1 / seconds,
        }
        path.write_text(json.dumps(measured))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = record.parser(__doc__, device=False)
    parser.add_argument(
        "--processes",
        type=int,
        nargs="+",
        default=[1, 2, 4],
        help="how many; more than there are GPUs are left out",
    )
    parser.add_argument(
        "--batch", type=int, default=16, help="rows of a step, of all processes together"
    )
    parser.add_argument("--steps", type=int, default=10, help="timed steps, after one that is not")
    parser.add_argument(
        "--embed-dim",
        type=int,
        default=768,
        help="of the AST, a multiple of 64; the defaults are AST-base",
    )
    parser.add_argument("--depth", type=int, default=12, help="of the AST")
    parser.add_argument("--stride", type=int, default=10, help="of its patches")
    args = parser.parse_args()
    if args.quick:
        args.embed_dim = 64
        args.depth = 1
        args.stride = 16
        args.batch = 4
        args.steps = 3
        args.processes = [1, 2]
    return args


if __name__ == "__main__":
    main(parse())
