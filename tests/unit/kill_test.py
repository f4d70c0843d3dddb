#!/usr/bin/env python3
"""Runs of `train` and of `detect_train` that are killed (SIGKILL) at random instants, writes of checkpoints included, and
go on by --resume until they end: model.safetensors has the bytes, and metrics.csv the numbers but for the seconds, of a
run that was never stopped. Twelve runs; `kill_test.py N` makes N, `kill_test.py N WORD` N of the set-ups whose names have
the word.

TRANSFERLIB_BIN: where the programs are. TRANSFERLIB_SEED: what the instants are drawn from.
"""
import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from png import png

BIN = pathlib.Path(os.environ.get("TRANSFERLIB_BIN", "."))
KILLS = int(sys.argv[1]) if len(sys.argv) > 1 else 12
WORD = sys.argv[2] if len(sys.argv) > 2 else ""
draw = random.Random(int(os.environ.get("TRANSFERLIB_SEED", "1")))

COMMON = ["--data", "data", "--no-preflight", "--random", "--backbone", "squeezenet1_1", "--size", "32", "--threads", "1", "--batch", "4"]
SET_UPS = {
    "everything at once": ["--epochs", "3", "--flip", "lr,ud", "--optimizer", "adamw", "--schedule", "one-cycle", "--ema", "0.9",
                           "--mix", "both", "--clip-norm", "1", "--accumulate", "2", "--stage-decay", "0.7", "--workers", "3",
                           "--checkpoint-every", "1", "--lr", "0.001"],
    "gradual unfreezing, the best epoch kept": ["--epochs", "4", "--freeze", "all", "--unfreeze", "gradual", "--keep-best",
                                                "--schedule", "plateau:0", "--early-stopping", "3", "--balanced",
                                                "--checkpoint-every", "2", "--lr", "0.001"],
    "two phases in bf16": ["--epochs", "2", "--fine-tune", "--autocast", "bf16", "--l2-sp", "0.01", "--ema", "0.9",
                           "--checkpoint-every", "0.05s"],
    "fp16 with a scaler, pictures left out": ["--epochs", "3", "--autocast", "fp16", "--info-batch", "0.5", "--optimizer", "sgd", "--label-smoothing", "0.1",
                           "--checkpoint-every", "1"],
    "a detector on mosaics": ["--epochs", "3", "--augment", "mosaic", "--ema", "0.9", "--schedule", "cosine", "--checkpoint-every", "1"],
    "a head on frozen features": ["--epochs", "30", "--freeze", "all", "--head", "mlp:8", "--checkpoint-every", "1"],
}
DETECTOR = ["--data", "voc", "--cfg", "tiny.cfg", "--random", "--head", "yolo_v5", "--anchors", "2", "--size", "64", "--threads", "1",
            "--batch", "4", "--workers", "1"]
CFG = """[net]
width=64
height=64
channels=3
""" + "".join(f"""[convolutional]
batch_normalize=1
filters={filters}
size=3
stride=2
pad=1
activation=leaky
""" for filters in (8, 16, 24)) + """[convolutional]
filters=24
size=1
activation=linear
[yolo]
mask=0,1,2
anchors=10,14, 20,20, 30,24
classes=3
num=3
"""


def boxes(noise):
    """Pictures that are an object each, as Pascal VOC has them."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        pathlib.Path("voc", folder).mkdir(parents=True)
    names = []
    for label, colour in (("red", (200, 40, 40)), ("green", (40, 200, 40)), ("blue", (40, 40, 200))):
        for i in range(6):
            names.append(f"{label}{i}")
            png(pathlib.Path("voc/JPEGImages") / f"{names[-1]}.png", colour, noise)
            corners = "".join(f"<{k}>{v}</{k}>" for k, v in (("xmin", 2 + i), ("ymin", 3), ("xmax", 20 + i), ("ymax", 28)))
            pathlib.Path("voc/Annotations", f"{names[-1]}.xml").write_text(
                f"<annotation><filename>{names[-1]}.png</filename><size><width>32</width><height>32</height><depth>3</depth>"
                f"</size><object><name>{label}</name><difficult>0</difficult><bndbox>{corners}</bndbox></object></annotation>")
    for name, part in (("train", names[::3] + names[1::3]), ("val", names[2::3])):
        pathlib.Path("voc/ImageSets/Main", f"{name}.txt").write_text("\n".join(part) + "\n")
    pathlib.Path("tiny.cfg").write_text(CFG)


def outcome(folder):
    lines = (folder / "metrics.csv").read_text().splitlines()
    seconds = lines[0].split(",").index("seconds")
    metrics = [[v for i, v in enumerate(line.split(",")) if i != seconds] for line in lines]
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(), metrics


def arguments_of(name):
    return [*(DETECTOR if name.startswith("a detector") else COMMON), *SET_UPS[name]]


def start(name, arguments):
    program = BIN / ("detect_train" if name.startswith("a detector") else "train")
    return subprocess.Popen([str(program), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process, what):
    _, errors = process.communicate(timeout=300)
    if process.returncode != 0:
        sys.exit(f"{what}: exit {process.returncode}: {errors.decode()[-800:]}")


def main():
    noise = random.Random(5)
    for name, colour in (("red", (200, 40, 40)), ("green", (40, 200, 40)), ("blue", (40, 40, 200))):
        folder = pathlib.Path("data") / name
        folder.mkdir(parents=True)
        for i in range(9):
            png(folder / f"{i}.png", colour, noise)
    boxes(noise)
    expected, duration = {}, {}
    names = [n for n in SET_UPS if WORD in n][:max(1, min(KILLS, len(SET_UPS)))]
    for name in names:
        begun = time.monotonic()
        finish(start(name, [*arguments_of(name), "--out", "whole"]), name)
        duration[name] = time.monotonic() - begun
        expected[name] = outcome(pathlib.Path("whole"))
        subprocess.run(["rm", "-r", "whole"], check=True)
    failed = killed = 0
    for n in range(KILLS):
        name = names[n % len(names)]
        out = pathlib.Path(f"run{n}")
        process = start(name, [*arguments_of(name), "--out", str(out)])
        while True:
            try:
                process.wait(draw.uniform(0.0, 1.1 * duration[name]))
                finish(process, name)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                killed += 1
                # Killed before it had said what it was asked, it begins anew.
                resume = ["--resume", str(out)] if (out / "config.json").exists() else [*arguments_of(name), "--out", str(out)]
                process = start(name, resume)
                # Twice in a row is enough.
                if draw.random() < 0.7:
                    finish(process, name)
                    break
        if outcome(out) != expected[name]:
            failed += 1
            print(f"not the same after it was killed: {name}, run {n}")
        subprocess.run(["rm", "-r", str(out)], check=True)
    print(f"{KILLS - failed} of {KILLS} runs, killed {killed} times, ended as if they never had been")
    sys.exit(failed != 0 or killed == 0)


for program in ("train", "detect_train"):
    if not (BIN / program).exists():
        sys.exit(f"there is no program {BIN / program}; set TRANSFERLIB_BIN")
with tempfile.TemporaryDirectory() as here:
    os.chdir(here)
    os.environ["TRANSFERLIB_CACHE"] = os.path.join(here, "cache")
    main()
