"""Stage `extract`: each clip's feature, computed in parallel, into the store. Goes on where it was interrupted."""

import json
import signal
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ast_repr import audio, command, features, files, manifest, store

LISTED = 10  # unreadable clips named in an error


def main(args):
    clips, _ = manifest.read(args.data)
    confs = command.confs(args, lacking=features.lacking(args.data, clips)).values()
    for feature in {json.dumps(conf["feature"], sort_keys=True): conf["feature"] for conf in confs}.values():
        extract(Path(args.data), clips, feature, args.nj, args.allow_missing)


def extract(data, clips, settings, nj, allowed):
    """Fill the store of one feature; clips whose audio cannot be decoded are left out if there are no more than `allowed`."""
    folder, feature = data / "features" / settings["name"], features.build(**settings)
    left_out = store.left_out(folder)
    refuse_too_many(left_out, allowed)
    shards = [clips[start : start + store.SHARD_CLIPS] for start in range(0, len(clips), store.SHARD_CLIPS)]
    kept = [[clip.clip for clip in shard if clip.clip not in left_out] for shard in shards]
    todo = [i for i, names in enumerate(kept) if not store.holds(folder, i, names, feature.spec())]
    if not todo:
        print(f"{folder} is up to date: {len(clips) - len(left_out)} clips")
        return
    jobs = [(data, clip, settings) for i in todo for clip in shards[i]]
    with get_context("spawn").Pool(nj, start_worker) as pool:
        results = iter(tqdm(pool.imap(compute, jobs, chunksize=4), f"extract {settings['name']}", len(jobs), unit="clip"))
        for i in todo:
            found = {}
            for clip in shards[i]:
                value = next(results)
                if isinstance(value, str):
                    left_out[clip.clip] = value
                else:
                    found[clip.clip] = value
            if len(left_out) <= allowed and found:
                store.write_shard(folder, i, np.stack(list(found.values())), list(found), feature.spec())
    refuse_too_many(left_out, allowed)
    files.write_json(folder / store.LEFT_OUT, left_out)
    for stale in sorted(folder.glob("shard-*.h5"))[len(shards) :]:
        stale.unlink()  # of a larger manifest
    print(f"{folder}: {len(clips) - len(left_out)} clips")


def start_worker():
    """One thread for each process, and Ctrl-C is the parent's to handle."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def compute(job):
    """One clip's feature (C, T, F) float16, or the reason why there is none."""
    data, clip, settings = job
    feature = features.build(**settings)
    try:
        if hasattr(feature, "read"):  # it comes with the corpus
            return feature.read(data / clip.audio).half().numpy()
        waveform = audio.decode(data / clip.audio, clip.start_s, audio.CLIP_SECONDS)
    except (audio.AudioError, features.VGGishError) as error:
        return str(error)
    return feature(torch.from_numpy(audio.fit(waveform))[None])[0].half().numpy()


def refuse_too_many(left_out, allowed):
    if len(left_out) > allowed:
        for reason in list(left_out.values())[:LISTED]:
            print(f"  {reason}")
        more = f" (the first {LISTED} are listed above)" if len(left_out) > LISTED else ""
        raise audio.AudioError(
            f"{len(left_out)} clips cannot be decoded{more}; mend them, or go on without them by --allow-missing {len(left_out)}"
        )


def parse():
    parser = command.parser(__doc__)
    parser.add_argument("--data", required=True, help="folder with the manifest; the store is made in it")
    command.add_conf_options(parser)
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--allow-missing", type=int, default=0, help="clips without usable audio that may be left out")
    return parser


if __name__ == "__main__":
    command.run(main, parse())
