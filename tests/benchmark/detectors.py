"""Detectors as rows of measure.py: an epoch of training, and one picture found in at a time."""
import pathlib
import re
import statistics
import subprocess
import tempfile

here = pathlib.Path(__file__).resolve().parent


def turns(args, program, peer, options):
    """Of each round, ours and PyTorch's pictures a second in training, and milliseconds of one picture."""
    from jobs import run_words

    out = []
    for _ in range(args.rounds):
        b, a = (run_words(args, [*side, *options]) for side in (peer, [args.programs / program]))
        out.append({name: [float(x.get(name, x.get("milliseconds"))) for x in (a, b)]
                    for name in ("images_per_second", "latency_ms")})
    return out


def darknet(args):
    """The median milliseconds that darknet's own program takes for a picture."""
    import torch
    import torchvision

    from measure import environment

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        torchvision.io.write_jpeg(torch.randint(0, 256, (3, 480, 640), dtype=torch.uint8), str(folder / "noise.jpg"))
        (folder / "names").write_text("".join(f"{i}\n" for i in range(80)))
        (folder / "data").write_text(f"classes=80\nnames={folder}/names\n")
        told = subprocess.run([args.darknet.resolve(), "detector", "test", folder / "data", args.cfg.resolve(),
                               args.weights.resolve(), "-dont_show"], input=f"{folder}/noise.jpg\n" * 30, text=True, cwd=folder,
                              env=environment(args.threads, args.isa), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return statistics.median(float(x) for x in re.findall(r"Predicted in ([0-9.]+) milli", told))


def yolo(precision):
    def measure(args, row):
        if args.cfg is None:
            raise SystemExit(f"{row}: give --cfg and --weights, darknet's files of yolo-fastest-1.1, say")
        options = ["--cfg", args.cfg, *(["--weights", args.weights] if args.weights else []), "--threads", args.threads,
                   "--precision", precision]
        out = {"kind": "detector", "name": args.cfg.stem, "precision": precision,
               "turns": turns(args, "benchmark_detection", [args.python, here / "detection.py"], options)}
        if args.darknet and args.weights:
            out["darknet_ms"] = darknet(args)
        return out

    return measure


def two_stage(args, row):
    options = ["--threads", args.threads, "--pictures", 32]
    return {"kind": "detector", "name": "Faster R-CNN on EfficientNet-Lite0", "precision": "bf16",
            "turns": turns(args, "benchmark_two_stage", [args.python, here / "two_stage.py"], options)}


ROWS = {"yolo": yolo("bf16"), "yolo_fp32": yolo("fp32"), "two_stage": two_stage}
