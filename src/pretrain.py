"""Pre-train the small AST that is shipped, on rendered music and by distillation from musicnn.

It renders clips that contain some of General MIDI's 175 sounds (`corpora/sounds.py`), cuts excerpts
of recorded songs, if it gets any (`corpora/songs.py`), computes what musicnn makes of each, and
trains on both (`training/distillation.py`). Interrupted at any time, the same command resumes:
finished shards of clips are kept, and training continues from the last checkpoint.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

from pathlib import Path

import torch

from ast_repr import backbones, cli, devices, identity, pretrained
from ast_repr.corpora import songs, soundfont, sounds
from ast_repr.training import distillation, pretraining_clips

DIMS = {
    "embed_dim": 256,
    "depth": 6,
    "num_heads": 4,
    "patch": [16, 48],  # 8 x 21 patches; the frames beyond them are padding
    "stride": [16, 48],
    "frames": 1024,
    "mels": 128,
    "n_source": len(sounds.CLASSES),
    "pooled_blocks": [2, 4],
}
SHARD_CLIPS = 512
VALID_SHARDS = 2
SONGS = "_songs"  # at the end of the names of folders with excerpts
HELD_OUT = 16  # of so many songs, one validates
TEACHER = "musicnn_msd"
DEBIAN = Path("/usr/share/sounds")
SOUNDFONTS = [DEBIAN / "sf2/FluidR3_GM.sf2", DEBIAN / "sf3/MuseScore_General_Lite.sf3"]
PACKAGES = "fluid-soundfont-gm musescore-general-soundfont-small"
# Seconds of one core per clip, on an Intel Xeon of 2023; training in bfloat16, twice that without.
RENDER_S = 0.4
TRAIN_S = 0.025


def main(args):
    torch.set_num_threads(args.nj)
    soundfonts = (soundfont.default_soundfont(), *args.soundfonts)
    for path in soundfonts:
        if not path.is_file():
            raise ValueError(
                f"{path}: no such soundfont; install Debian's packages {PACKAGES}, or name others "
                "after --soundfonts (none: pretty_midi's alone)"
            )
    teacher = args.teacher
    if teacher is None:
        entry = pretrained.find(TEACHER)
        entry.fetch()
        teacher = entry.path

    sets = clip_sets(args, soundfonts, teacher)
    print_cost(args, sets)
    clips = {}
    for folder, (settings, shards) in sets.items():
        pretraining_clips.render(folder, settings, shards, args.nj)
        part = pretraining_clips.Clips(folder, settings, shards)
        split = folder.name.removesuffix(SONGS)
        clips[split] = clips[split] + part if split in clips else part

    bf16 = devices.has_bf16(torch.device("cpu"))
    torch.manual_seed(0)
    backbone = build(args.init, clips["train"])
    backbones.cpu_kernels.enable(backbone)
    student = distillation.Student(backbone, clips["train"])
    init = None if args.init is None else identity.of_file(args.init)
    plan = distillation.Plan(args.epochs, args.batch, args.lr, init=init)
    statistics = distillation.log_mel_statistics(clips["valid"], args.batch)
    reference = distillation.probe(clips["valid"], statistics)
    print(f"probe_map of log-mel statistics, without a network: {reference}", flush=True)
    training = distillation.Pretraining(
        student,
        clips["train"],
        clips["valid"],
        plan,
        args.data,
        checkpoint_s=60 * args.checkpoint_minutes,
        bf16=bf16,
    )
    backbone = training.run()
    backbones.weights.save(backbone, args.out, sounds.CLASSES, torch.float16)
    last = training.history[-1]
    print(
        f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, on held-out clips "
        f"sounds_map {last['sounds_map']}, probe_map {last['probe_map']}"
    )


def clip_sets(args, soundfonts, teacher):
    """Return {folder: (Settings, number of shards)}; every sixteenth song is held out."""
    shards = {"train": -(-args.clips // SHARD_CLIPS), "valid": VALID_SHARDS}
    sets = {}
    for seed, (split, count) in enumerate(shards.items()):
        settings = pretraining_clips.Settings(soundfonts, teacher, seed, SHARD_CLIPS)
        sets[args.data / split] = (settings, count)
    if args.songs is None:
        return sets
    files = songs.find(args.songs)
    if len(files) == 1:
        raise ValueError(f"{args.songs}: one song; expected at least two, since one validates")
    held_out = files[::HELD_OUT]
    parts = {"train": [path for path in files if path not in held_out], "valid": held_out}
    for seed, (split, count) in enumerate(shards.items()):
        settings = pretraining_clips.Settings((), teacher, seed, SHARD_CLIPS, tuple(parts[split]))
        sets[args.data / f"{split}{SONGS}"] = (settings, count)
    return sets


def build(path, clips):
    """Build the network, with the weights of a file or random ones."""
    if path is None:
        sample = clips.batch(range(0, len(clips), 64)).log_mel
        return backbones.build("ast", mean=sample.mean().item(), std=sample.std().item(), **DIMS)
    header = backbones.weights.read_header(path)
    if header["dims"] != DIMS:
        raise ValueError(f"{path}: dimensions {header['dims']}, expected {DIMS}")
    backbone = backbones.build("ast", mean=header["mean"], std=header["std"], **DIMS)
    return backbones.weights.load(backbone, path)


def print_cost(args, sets):
    """Print the time and disk space that remain."""
    todo = sum(
        len(pretraining_clips.missing(folder, shards)) for folder, (_, shards) in sets.items()
    )
    clips = todo * SHARD_CLIPS
    hours = clips * RENDER_S / args.nj / 3600
    print(
        f"{clips:,} clips to make: about {hours:.1f} h with {args.nj} processes, "
        f"{clips * pretraining_clips.CLIP_BYTES / 1e9:.1f} GB in {args.data}"
    )
    clips = args.clips * (1 if args.songs is None else 2)
    hours = args.epochs * clips * TRAIN_S / args.nj / 3600
    print(f"{args.epochs} epochs of training: about {hours:.1f} h", flush=True)


def parse():
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder for the rendered clips, the last checkpoint and history.jsonl",
    )
    parser.add_argument(
        "--soundfonts",
        type=Path,
        nargs="*",
        default=SOUNDFONTS,
        metavar="FILE",
        help="besides pretty_midi's (default: FluidR3 and MuseScore General, from Debian's "
        f"packages {PACKAGES})",
    )
    parser.add_argument(
        "--songs",
        type=Path,
        metavar="FOLDER",
        help="recorded music, any formats, from which as many excerpts are cut as clips are "
        "rendered (default: none)",
    )
    parser.add_argument(
        "--init",
        type=Path,
        metavar="FILE",
        help="weights to start from, of an earlier training (default: random ones)",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="FILE",
        help=f"weights of musicnn (default: {TEACHER}, from the package index)",
    )
    parser.add_argument(
        "--clips",
        type=cli.between(int, 1),
        default=24_576,
        help=f"training clips, a multiple of {SHARD_CLIPS} (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=cli.between(int, 1), default=30)
    parser.add_argument("--batch", type=cli.between(int, 1), default=64)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument(
        "--nj",
        type=cli.between(int, 1),
        default=2,
        help="processes for rendering, threads for training",
    )
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
