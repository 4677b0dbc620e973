"""Training on a set larger than the memory it may take: peak memory and speed, held and streamed.

    python benchmarks/streaming.py --images 800000 --data-memory 64MiB --updates 20
    python benchmarks/streaming.py --pictures --images 40000 --data-memory 1MiB --updates 20

Noise of 28x28 grey pixels in a folder of IDX files, or in class folders of PNG files, made in a
temporary folder; the paper's network, 128 images an update, four attack steps, one process each,
one after the other. First a set of 1,000 images: what the process takes without the set. Peak
memory is the operating system's account of the process (ru_maxrss).
"""

import argparse
import hashlib
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sparring import presets, train
from sparring.attacks import PGD, Linf
from sparring.records.text import bytes_from, bytes_text
from sparring.training import Fresh, Validation

SIDE, CLASSES, TEST = 28, 10, 1000
AT_ONCE = 10_000


def write_idx(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for part, images in (("train", count), ("t10k", TEST)):
        with (folder / f"{part}-images-idx3-ubyte").open("wb") as file:
            file.write(struct.pack(">BBBB3I", 0, 0, 8, 3, images, SIDE, SIDE))
            for start in range(0, images, AT_ONCE):
                piece = min(AT_ONCE, images - start)
                file.write(random.integers(0, 256, (piece, SIDE, SIDE), np.uint8).tobytes())
        labels = (np.arange(images) % CLASSES).astype(np.uint8)
        header = struct.pack(">BBBBI", 0, 0, 8, 1, images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


def write_pictures(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for part, images in (("train", count), ("test", TEST)):
        for label in range(CLASSES):
            (folder / part / str(label)).mkdir(parents=True)
        for number in range(images):
            path = folder / part / str(number % CLASSES) / f"{number}.png"
            levels = random.integers(0, 256, (SIDE, SIDE), np.uint8)
            Image.fromarray(levels).save(path, compress_level=0)


def child(data: str, data_memory: int, updates: int) -> None:
    """One run; prints its time and memory."""
    config = replace(
        presets.fast(),
        data=data,
        data_memory=data_memory,
        updates=updates,
        source=Fresh(),
        attack=PGD(threat=Linf(eps=0.3), steps=4),
        early_steps=(),
        batch_size=128,
        threads=1,
        validation=Validation(every=0, alarm_every=0),
    )
    with tempfile.TemporaryDirectory() as out:
        done = train(config, Path(out) / "run")
    weights = hashlib.sha256()
    for value in done.network.state_dict().values():
        weights.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "seconds": done.seconds, "weights": weights.hexdigest()[:12]}))


def run(data: Path, data_memory: int, updates: int) -> dict[str, float | str]:
    begun = time.perf_counter()
    words = [sys.executable, __file__, "--child", str(data)]
    words += ["--data-memory", str(data_memory), "--updates", str(updates)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]) | {"whole": time.perf_counter() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=800_000)
    parser.add_argument("--data-memory", type=bytes_from, default=64 << 20)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--child")
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, asked.data_memory, asked.updates)
        return
    write = write_pictures if asked.pictures else write_idx
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        for place, count in ((small, 1000), (large, asked.images)):
            place.mkdir()
            write(place, count)
        size = (asked.images + TEST) * SIDE * SIDE
        print(f"{asked.images:,} images, {bytes_text(size)} of pixels; {torch.__version__=}")
        base = run(small, 4 << 30, asked.updates)
        for name, memory in (("held in memory", 2 * size), ("streamed", asked.data_memory)):
            found = run(large, memory, asked.updates)
            more = int(float(found["peak"]) - float(base["peak"]))
            print(
                f"{name}, data_memory {bytes_text(memory)}: peak {bytes_text(int(found['peak']))}, "
                f"{more / 2**20:.0f} MiB more than with 1,000 images; {asked.updates} updates in "
                f"{found['seconds']:.1f} s, the whole process {found['whole']:.1f} s; "
                f"weights {found['weights']}"
            )


if __name__ == "__main__":
    main()
