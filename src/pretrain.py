"""Train the shipped backbone from code alone: a small AST that classifies 175 General MIDI sounds.

It renders crops of single sounds (`corpora/sounds.py`), trains with cross-entropy on 2.56 s, then
extends the position embedding to 10.24 s along time, as AST itself does with ImageNet's.
Interrupted, it resumes from the last epoch.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from ast_repr import atomic, backbones, checkpoint, cli, features, identity, processes
from ast_repr.corpora import sounds
from ast_repr.training import augment

FRAMES = 256  # 2.56 s: 16 x 8 patches
STORED_FRAMES = 320
DIMS = {
    "embed_dim": 192,
    "depth": 6,
    "num_heads": 3,
    "patch": 16,
    "stride": 16,
    "mels": 128,
    "n_source": len(sounds.CLASSES),
}
HELD_OUT = 3_500  # crops, 20 per class, from a separate random stream
CHUNK = 16  # crops per task of a rendering process


def main(args):
    torch.set_num_threads(args.nj)
    train_x, train_y = crops(args.data / "train.npy", seed=1, count=args.crops, nj=args.nj)
    valid_x, valid_y = crops(args.data / "valid.npy", seed=2, count=HELD_OUT, nj=args.nj)
    sample = train_x[:: max(1, len(train_x) // 2_000)].astype(np.float32)
    model = backbones.build(
        "ast", frames=FRAMES, mean=float(sample.mean()), std=float(sample.std()), **DIMS
    )
    history = fit(model, (train_x, train_y), (valid_x, valid_y), args)

    full = backbones.build("ast", frames=1024, mean=model.mean, std=model.std, **DIMS)
    state = model.state_dict()
    state["pos_embed"] = backbones.weights.fit_positions(state["pos_embed"], full.grid)
    full.load_state_dict(state)
    backbones.weights.save(full, args.out, sounds.CLASSES)
    print(
        f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, "
        f"top-1 accuracy {history[-1]['accuracy']:.1%} on held-out crops"
    )


def crops(path, seed, count, nj):
    """Render log-mels of `count` crops, (count, 320, 128) float16, and return them with classes.

    They are kept in `path`, and their sha256 beside it, in a file that `sha256sum -c` reads.

    Raises:
        ValueError: the existing file is damaged, or holds another number of crops.
        RuntimeError: a process was killed.
    """
    seal = path.with_suffix(".sha256")
    if not path.is_file():
        shape = (count, STORED_FRAMES, DIMS["mels"])
        jobs = [(seed, index) for index in range(count)]
        with (
            atomic.replacing(path) as partial,
            processes.pool(nj, torch.set_num_threads, (1,)) as pool,
        ):
            out = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
            rendered = pool.map(_crop, jobs, chunksize=CHUNK)
            bar = tqdm(rendered, f"render {path.stem}", count, unit="crop", disable=None)
            for row, log_mel in enumerate(bar):
                out[row] = log_mel
            out.flush()
            atomic.write_text(seal, f"{identity.of_file(partial)}  {path.name}\n")
    if not seal.is_file() or not atomic.read_text(seal).startswith(identity.of_file(path)):
        raise ValueError(f"{path}: damaged, {seal.name} says otherwise; delete it to render again")
    stored = np.load(path, mmap_mode="r")
    if len(stored) != count:
        raise ValueError(
            f"{path}: holds {len(stored)} crops, expected {count}; "
            f"delete it or pass --crops {len(stored)}"
        )
    return stored, torch.arange(count) % DIMS["n_source"]


def _crop(job):
    waveform, _ = sounds.draw(*job)
    feature = features.build("logmel", frames=STORED_FRAMES)
    return feature(torch.from_numpy(waveform)[None])[0, 0].half().numpy()


def fit(model, train, valid, args):
    """Train with AdamW on a one-cycle schedule; return the history, one dict per epoch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    backbones.cpu_kernels.enable(model)
    steps = len(train[1]) // args.batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=steps * args.epochs, pct_start=0.2
    )
    last = args.data / "last.pt"
    history = []
    if last.is_file():
        state = checkpoint.load(last)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        history = state["history"]
    for epoch in range(len(history), args.epochs):
        order = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(epoch))
        model.train()
        bar = tqdm(range(steps), f"epoch {epoch + 1}/{args.epochs}", unit="step", disable=None)
        for step in bar:
            rows = order[step * args.batch : (step + 1) * args.batch].sort().values
            x = augmented(torch.from_numpy(train[0][rows.numpy()]), epoch * steps + step)
            with torch.autocast(device.type, torch.bfloat16):
                logits = model(normalise(model, x.to(device))).source_logits
            loss = functional.cross_entropy(
                logits.float(), train[1][rows].to(device), label_smoothing=0.1
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        history.append(
            {"epoch": epoch + 1, "loss": loss.item(), "accuracy": accuracy(model, valid, device)}
        )
        print(json.dumps(history[-1]))
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
        }
        checkpoint.save(last, state | {"history": history})
    return history


def augmented(x, seed):
    """(B, 320, 128) -> (B, 1, 256, 128): one start per batch, a random level and masks per crop."""
    generator = torch.Generator().manual_seed(seed)
    start = int(torch.randint(STORED_FRAMES - FRAMES + 1, (), generator=generator))
    level = torch.randn(len(x), 1, 1, 1, generator=generator)
    x = x[:, None, start : start + FRAMES].float() + level
    return augment.spec_augment(x, generator, time=48, freq=24, fill=x.mean().item())


def normalise(model, x):
    return (x - model.mean) / (2 * model.std)


@torch.no_grad()
def accuracy(model, valid, device, batch=250):
    """Compute the top-1 accuracy on the middle 2.56 s of held-out crops."""
    model.eval()
    crops, classes = valid
    first = (STORED_FRAMES - FRAMES) // 2
    correct = 0
    for start in range(0, len(classes), batch):
        part = slice(start, start + batch)
        x = torch.from_numpy(crops[part, None, first : first + FRAMES]).float().to(device)
        predicted = model(normalise(model, x)).source_logits.argmax(1).cpu()
        correct += int((predicted == classes[part]).sum())
    return correct / len(classes)


def parse():
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder for rendered crops and the last epoch"
    )
    parser.add_argument("--crops", type=cli.between(int, len(sounds.CLASSES)), default=48_000)
    parser.add_argument("--epochs", type=cli.between(int, 1), default=9)
    parser.add_argument("--batch", type=cli.between(int, 1), default=128)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument(
        "--nj",
        type=cli.between(int, 1),
        default=4,
        help="processes for rendering, threads for training",
    )
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
