#!/usr/bin/env python3
"""Measures ours against Python's ways, row by row, and writes docs/benchmarks.md from all rows measured so far, which
docs/benchmarks.json keeps: tests/benchmark/run calls it.

    measure.py --programs FOLDER --python PYTHON [--what ROW,…] [--isa avx2] [--threads N] [--rounds N] [--seconds S]
               [--data FOLDER] [--cfg FILE --weights FILE [--darknet PROGRAM]] [--ways WAY,…] [--document FOLDER]

Both sides run in turn, on the same input and threads. A row's ratio is the median over the rounds, its range their
least and greatest.
"""
import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from document import write_document

here = pathlib.Path(__file__).resolve().parent
BF16 = ["plain", "channels_last", "autocast", "folded-bf16", "script-bf16", "compile-bf16", "freezing-bf16"]
FP32 = ["plain", "channels_last", "script", "compile"]
# Which of the peers a row's bar is about.
PASSES = {
    "resnet50": ("resnet50", 224), "mobilenet_v3_small": ("mobilenet_v3_small", 224), "lite0_128": ("efficientnet_lite0", 128),
    "lite0_224": ("efficientnet_lite0", 224), "efficientnet_b0": ("efficientnet_b0", 224),
    "convnext_tiny": ("convnext_tiny", 224), "vit_s_16": ("vit_s_16", 224), "latency": ("efficientnet_lite0", 224)}


def environment(threads, isa):
    """Of the measured programs. Less than this machine's instructions make it most desktops."""
    out = {**os.environ, "OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
    if isa == "avx2":
        out |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    return out


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text()
    name = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "?")
    return {"processor": name, "cores": len(os.sched_getaffinity(0)), "date": datetime.date.today().isoformat(),
            "load": round(os.getloadavg()[0], 1)}


class Worker:
    """A program that answers "WAY CALLS" with seconds."""

    def __init__(self, command, env):
        self.process = subprocess.Popen([str(c) for c in command], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first = self.line()

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[0]} ended with {self.process.wait()}: {' '.join(self.process.args)}")
        return line.strip()

    def seconds(self, way, calls):
        self.process.stdin.write(f"{way} {calls}\n")
        self.process.stdin.flush()
        return float(self.line())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure_pass(args, row):
    network, size = PASSES[row]
    latency = row == "latency"
    env = environment(args.threads, args.isa)
    with tempfile.TemporaryDirectory() as folder:
        ours = Worker([args.programs / "benchmark_passes", "--network", network, "--size", size, "--threads", args.threads,
                       "--batch", args.batch, "--latency", int(latency), "--folder", folder], env)
        ways = args.ways or (FP32 if args.isa else ["plain", "script", "script-bf16"] if latency else BF16)
        theirs = Worker([args.python, here / "peers.py", network, folder, args.threads, int(latency), *ways], env)
        told = json.loads(theirs.first)
    own = "fp32" if args.isa else "bf16"
    errors = told["errors"]
    for way, error in errors.items():
        if not error < (0.2 if "bf16" in way or way in ("autocast", "ours") else 2e-4):
            raise SystemExit(f"{row}: {way} computes something else: relative error {error:.2g}")
    runs = [(ours, own)] + [(theirs, way) for way in ways if way in errors]
    calls = {}
    for worker, way in runs:  # warm, and how many calls fill the time
        worker.seconds(way, 1)
        calls[way] = max(1, round(args.seconds / max(1e-6, worker.seconds(way, 2) / 2)))
    pictures = 1 if latency else args.batch
    rounds = []
    for _ in range(args.rounds):
        rounds.append({way: calls[way] * pictures / worker.seconds(way, calls[way]) for worker, way in runs})
    ours.close()
    theirs.close()
    return {"kind": "pass", "network": network, "size": size, "batch": pictures, "precision": own, "errors": errors,
            "rounds": rounds, "ours": own, "torch": told["torch"]}


def measure_program(args, row):
    """Two programs of the same name that print images_per_second: features, fine_tune."""
    env = environment(args.threads, args.isa)
    options = ["--pictures", args.pictures, "--threads", args.threads, *(["--data", args.data] if args.data else [])]

    def run(command, precision):
        text = subprocess.run([str(c) for c in [*command, *options, "--precision", precision]], env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
        return dict(word.split("=", 1) for word in text.split())

    program, peer = [args.programs / f"benchmark_{row}"], [args.python, here / f"{row}.py"]
    errors = {}
    precision = run([*program], "bf16" if not args.isa else "fp32")["precision"]
    if row == "features":
        a, b = (float(run(side, "fp32")["mean"]) for side in (program, peer))
        errors["channels_last"] = abs(a / b - 1)
        if not errors["channels_last"] < 1e-4:
            raise SystemExit(f"the features' means differ: {a} and {b}; are weights in TRANSFERLIB_WEIGHTS?")
    rounds = [{way: float(run(side, precision)["images_per_second"]) for way, side in (("channels_last", peer), ("ours", program))}
              for _ in range(args.rounds)]
    return {"kind": row, "network": "efficientnet_lite0", "precision": precision, "rounds": rounds, "errors": errors, "ours": "ours"}


def show(row, result):
    own = result["ours"]
    for way in result["rounds"][0]:
        speeds = [r[way] for r in result["rounds"]]
        ratios = sorted(r[own] / r[way] for r in result["rounds"])
        print(f"{row:20} {way:15} {statistics.median(speeds):9.1f} img/s  ratio {statistics.median(ratios):6.3f} "
              f"({ratios[0]:.3f} to {ratios[-1]:.3f})  error {result['errors'].get(way, float('nan')):.2g}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--what", default="all")
    parser.add_argument("--isa", choices=["avx2"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--cfg", type=pathlib.Path)
    parser.add_argument("--weights", type=pathlib.Path)
    parser.add_argument("--darknet", type=pathlib.Path)
    parser.add_argument("--ways", type=lambda s: s.split(","))
    parser.add_argument("--document", type=pathlib.Path)
    args = parser.parse_args()
    import detectors
    import jobs

    known = {**{row: measure_pass for row in PASSES}, "features": measure_program, "fine_tune": measure_program, **jobs.ROWS,
             **detectors.ROWS}
    left_out = {"fine_tune_accuracy", "million"} | (set() if args.cfg else {"yolo", "yolo_fp32"})
    rows = [r for r in known if r not in left_out] if args.what == "all" else args.what.split(",")
    for row in rows:
        if row not in known:
            raise SystemExit(f"there is no row {row}; there are {', '.join(known)}, and all")
    for row in rows:
        if args.isa and row not in PASSES and row not in ("peak", "bounds"):
            continue  # the passes' table has this column
        result = known[row](args, row)
        result |= {"threads": args.threads, "isa": args.isa or "native", **machine()}
        if "rounds" in result:
            show(row, result)
        else:
            print(json.dumps(result), flush=True)
        if args.document:
            store = args.document / "benchmarks.json"
            results = json.loads(store.read_text()) if store.exists() else {}
            results[row + (f"@{args.isa}" if args.isa else "")] = result
            store.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
            write_document(args.document, results)


if __name__ == "__main__":
    main()
