#!/usr/bin/env python3
"""Runs of `train` that are killed (SIGKILL) at random instants, writes of checkpoints included, and go on by --resume
until they end: model.safetensors has the bytes, and metrics.csv the numbers but for the seconds, of a run that was never
stopped. Ten runs; `kill_test.py N` makes N.

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

TRAIN = pathlib.Path(os.environ.get("TRANSFERLIB_BIN", ".")) / "train"
KILLS = int(sys.argv[1]) if len(sys.argv) > 1 else 10
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
    "fp16 with a scaler": ["--epochs", "3", "--autocast", "fp16", "--optimizer", "sgd", "--label-smoothing", "0.1",
                           "--checkpoint-every", "1"],
    "a head on frozen features": ["--epochs", "30", "--freeze", "all", "--head", "mlp:8", "--checkpoint-every", "1"],
}


def outcome(folder):
    lines = (folder / "metrics.csv").read_text().splitlines()
    seconds = lines[0].split(",").index("seconds")
    metrics = [[v for i, v in enumerate(line.split(",")) if i != seconds] for line in lines]
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(), metrics


def start(arguments):
    return subprocess.Popen([str(TRAIN), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


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
    expected, duration = {}, {}
    names = list(SET_UPS)[:max(1, min(KILLS, len(SET_UPS)))]
    for name in names:
        begun = time.monotonic()
        finish(start([*COMMON, *SET_UPS[name], "--out", "whole"]), name)
        duration[name] = time.monotonic() - begun
        expected[name] = outcome(pathlib.Path("whole"))
        subprocess.run(["rm", "-r", "whole"], check=True)
    failed = killed = 0
    for n in range(KILLS):
        name = names[n % len(names)]
        out = pathlib.Path(f"run{n}")
        process = start([*COMMON, *SET_UPS[name], "--out", str(out)])
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
                resume = ["--resume", str(out)] if (out / "config.json").exists() else [*COMMON, *SET_UPS[name], "--out", str(out)]
                process = start(resume)
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


if not TRAIN.exists():
    sys.exit(f"there is no program {TRAIN}; set TRANSFERLIB_BIN")
with tempfile.TemporaryDirectory() as here:
    os.chdir(here)
    os.environ["TRANSFERLIB_CACHE"] = os.path.join(here, "cache")
    main()
