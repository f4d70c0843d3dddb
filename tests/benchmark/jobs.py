"""Whole trainings as rows of measure.py: a subset's time, its fixed costs apart, reckoned up for CIFAR-10's 50,000 and
10,000 pictures and five epochs.
"""
import pathlib
import statistics
import subprocess
import tempfile

here = pathlib.Path(__file__).resolve().parent
TRAIN, TEST, EPOCHS = 50_000, 10_000, 5
# Of four views of each picture, those that the epochs draw are computed: as many as these on average.
VIEWS = 4 * (1 - 0.75**EPOCHS)
GIB = 1 << 30


def lines_of(args, command):
    """What a program prints."""
    from measure import environment

    return subprocess.run([str(c) for c in command], env=environment(args.threads, args.isa), check=True,
                          stdout=subprocess.PIPE, text=True).stdout.strip().splitlines()


def run_words(args, command):
    """The words "name=value" of the last line that a program prints."""
    return dict(word.split("=", 1) for word in lines_of(args, command)[-1].split())


def run(args, command):
    return {name: float(value) for name, value in run_words(args, command).items()}


def ours(args, **options):
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    if args.data:
        flags += ["--data", args.data]
    return run(args, [args.programs / "benchmark_jobs", "--threads", args.threads, *flags])


def theirs(args, *words):
    return run(args, [args.python, here / "train_peers.py", *words])


def whole(speeds):
    """Seconds of the five epochs, each with its test."""
    return EPOCHS * (TRAIN / speeds["train"] + TEST / speeds["test"])


def first_and_second(args, views, pictures, small, **options):
    """Seconds of our first run and of our second, which finds what the frozen part gives.

    The frozen part is measured on a subset. What comes behind it is measured on all pictures where their features are
    as wide for small ones (`small`); otherwise on the subset.
    """
    with tempfile.TemporaryDirectory() as folder:
        some = ours(args, size=224, pictures=pictures, test=pictures // 5, cache=folder, **options)
        again = ours(args, size=224, pictures=pictures, test=pictures // 5, cache=folder, **options)
    frozen = some["features"] / (pictures * views + pictures // 5) * (TRAIN * views + TEST)
    # The report of the last piece of features and the first step count as training: a step among many.
    fixed = again["total"] - again["train"] - again["validate"] - again["end"]
    if small:
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(2):
                second = ours(args, size=32, pictures=TRAIN, test=TEST, cache=folder, **options)["total"]
    else:
        second = fixed + again["train"] / pictures * TRAIN + again["validate"] / (pictures // 5) * TEST + again["end"]
    return {"first": second + frozen, "second": second, "frozen": frozen, "fixed": fixed,
            "features_per_second": (pictures * views + pictures // 5) / some["features"], "accuracy": some["accuracy"]}


def median(rounds, name):
    return statistics.median(r[name] for r in rounds)


def job(args, peers, views, small, **options):
    """peers: name to the words of train_peers.py."""
    rounds = []
    pictures = options.pop("pictures")
    for number in range(args.rounds):
        own = first_and_second(args, views, pictures, small, **options)
        told = {}
        for name, words in peers.items():
            speeds = theirs(args, *words, args.threads)
            told[name] = {**speeds, "whole": whole(speeds)}
        rounds.append({**own, "peers": told})
    return {"kind": "job", "subset": pictures, "small": small, "jobs": rounds}


def resnet50_frozen(args, row):
    bf16 = row.endswith("frozen")
    return job(args, {"as written": ["resnet50", "train"], "BN in eval": ["resnet50", "eval"]}, 1, True, network="resnet50",
               batch=64, precision="auto" if bf16 else "fp32", pictures=400)


def keras_peers(first, flips):
    """Keras's `fit` on the backend that it has by default, and on the other one that reads the same weights."""
    return {f"Keras fit on {name}": ["keras", first, int(flips), name.lower()] for name in ("TensorFlow", "torch")}


def keras_frozen(args, row):
    flips = row == "keras_frozen"
    return job(args, keras_peers(0, flips), VIEWS if flips else 1, True, network="keras_mobilenet_v3_small",
               batch=50, rate=1e-4, flips=2 if flips else 0, pictures=4000 if flips else 20_000)


def keras_from_100(args, row):
    return job(args, keras_peers(100, True), VIEWS, False, network="keras_mobilenet_v3_small", batch=50, rate=1e-4,
               flips=2, **{"from": 100}, autocast="bf16", pictures=1000)


def accuracy(args, row):
    """Of the frozen Lite0 with its trained weights, at 128 pixels."""
    if not args.data:
        raise SystemExit("accuracy needs --data, CIFAR-10's folder")
    out = {}
    for precision in ("fp32", "bf16"):
        told = ours(args, network="efficientnet_lite0", weights=1, size=128, pictures=TRAIN, test=TEST, epochs=10, batch=100,
                    precision=precision)
        out[precision] = {"accuracy": told["accuracy"], "loss": told["loss"]}
    return {"kind": "accuracy", "pictures": TRAIN, "test": TEST, **out}


def fine_tune_accuracy(args, row):
    """What two epochs of the whole network reach on all pictures, once each: some hours of one machine."""
    if not args.data:
        raise SystemExit("fine_tune_accuracy needs --data, CIFAR-10's folder")
    options = ["--pictures", TRAIN, "--test", TEST, "--epochs", 2, "--threads", args.threads, "--data", args.data]
    out = {}
    for side, command in (("theirs", [args.python, here / "fine_tune.py"]), ("ours", [args.programs / "benchmark_fine_tune"])):
        told = run_words(args, [*command, *options])
        out[side] = {name: float(told[name]) for name in ("accuracy", "seconds")}
    return {"kind": "accuracy", **out}


def memory(args, row):
    """Of a first run whose activations are more than the cache's limit, and of one with three times the pictures."""
    limit, out = 64 << 20, []
    for pictures in (3000, 9000):
        told = ours(args, network="keras_mobilenet_v3_small", size=64, flips=1, pictures=pictures, test=100, epochs=2,
                    limit=limit, **{"from": 100})
        out.append({"pictures": pictures, **told})
    return {"kind": "memory", "limit": limit, "runs": out}


def make_pictures(folder, count, kinds=1000):
    """Class folders of `count` JPEG pictures of 224 x 224, of which `kinds` differ: the others are links to them."""
    import os

    import numpy
    from PIL import Image

    draw = numpy.random.default_rng(0)
    first = folder / "kinds"
    first.mkdir()
    for kind in range(kinds):
        coarse = draw.integers(0, 256, (14, 14, 3), dtype=numpy.uint8)
        picture = Image.fromarray(coarse).resize((224, 224), Image.Resampling.BICUBIC)
        noise = draw.integers(-12, 13, (224, 224, 3))
        pixels = numpy.clip(numpy.asarray(picture).astype(int) + noise, 0, 255).astype(numpy.uint8)
        Image.fromarray(pixels).save(first / f"{kind}.jpg", quality=90)
    for i in range(count):
        where = folder / "pictures" / str(i % 10) / f"{i // 10000}"
        if i % 10000 < 10:
            where.mkdir(parents=True)
        os.link(first / f"{i % kinds}.jpg", where / f"{i}.jpg")
    return folder / "pictures"


def million(args, row):
    """A first run over ever more pictures on disk, one epoch, and its second."""
    out = []
    for pictures in (62_500, 250_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            images = make_pictures(folder, pictures)
            how = dict(images=images, network="keras_mobilenet_v3_small", size=224, test=1000, epochs=1, cache=folder / "cache",
                       limit=8 << 30)
            first, second = ours(args, **how), ours(args, **how)
        out.append({"pictures": pictures, "runs": [first, second]})
    return {"kind": "million", "limit": 8 << 30, "jobs": out}


def bounds(args, row):
    """Each call of our passes beside what arithmetic and memory allow."""
    from measure import PASSES

    top, out = theirs(args, "peak", args.threads), {}
    speed = top["fp32" if args.isa else "bf16"]
    for key, (network, size) in PASSES.items():
        if key == "latency":
            continue
        calls = []
        for line in lines_of(args, [args.programs / "benchmark_passes", "--network", network, "--size", size, "--threads",
                                    args.threads, "--calls", 1]):
            seconds, multiply_adds, size_, what = line.split(" ", 3)
            if float(seconds) < 2e-6:
                continue  # computes nothing
            calls.append((float(seconds), int(multiply_adds) / speed, int(size_) / top["copy"], what))
        lost = sorted(calls, key=lambda c: max(c[1:3]) - c[0])
        out[key] = {"seconds": sum(c[0] for c in calls), "arithmetic": sum(c[1] for c in calls), "memory": sum(c[2] for c in calls),
                    "bound": sum(max(c[1:3]) for c in calls), "by_memory": sum(c[0] for c in calls if c[2] > c[1]),
                    "slowest": [{"seconds": c[0], "arithmetic": c[1], "memory": c[2], "what": c[3]} for c in lost[:3]]}
    return {"kind": "bounds", "peak": top, "passes": out}


def peak(args, row):
    """What the passes' speed is held against."""
    return {"kind": "peak", **theirs(args, "peak", args.threads)}


ROWS = {"peak": peak, "resnet50_frozen": resnet50_frozen, "resnet50_frozen_fp32": resnet50_frozen, "keras_frozen": keras_frozen,
        "keras_frozen_no_flips": keras_frozen, "keras_from_100": keras_from_100, "fine_tune_accuracy": fine_tune_accuracy, "accuracy": accuracy, "memory": memory,
        "million": million, "bounds": bounds}
