"""docs/benchmarks.md and docs/img/benchmarks.svg from the rows measured so far."""
import html
import math
import pathlib
import statistics

NAMES = {"resnet50": "ResNet-50, 224", "mobilenet_v3_small": "MobileNetV3-Small, 224", "lite0_128": "EfficientNet-Lite0, 128",
         "lite0_224": "EfficientNet-Lite0, 224", "efficientnet_b0": "EfficientNet-B0, 224", "convnext_tiny": "ConvNeXt-Tiny, 224",
         "vit_s_16": "ViT-S/16, 224", "latency": "EfficientNet-Lite0 classifier, 224, one picture"}
WAYS = {"plain": "as it comes", "channels_last": "channels last", "autocast": "autocast", "folded-bf16": "folded, bf16",
        "script": "TorchScript frozen, fp32", "script-bf16": "TorchScript frozen, bf16", "compile": "`torch.compile`, fp32",
        "compile-bf16": "`torch.compile`, bf16", "freezing-bf16": "`torch.compile` with `freezing`"}
JOBS = {"resnet50_frozen": "ResNet-50 frozen, new linear layer", "resnet50_frozen_fp32": "the same, forced fp32",
        "keras_frozen": "Keras's MobileNetV3-Small frozen, two flips", "keras_frozen_no_flips": "the same without flips",
        "keras_from_100": "Keras's MobileNetV3-Small from layer 100 on, two flips"}

def ratios(result, way):
    """Median, least and greatest of ours by theirs."""
    all_ = sorted(r[result["ours"]] / r[way] for r in result["rounds"])
    return statistics.median(all_), all_[0], all_[-1]


def cell(result, way):
    if way not in result["rounds"][0]:
        return "–"
    middle, least, most = ratios(result, way)
    speed = statistics.median(r[way] for r in result["rounds"])
    return f"{speed:,.0f}: **{middle:.2f}** ({least:.2f}–{most:.2f})"


def multiply_adds(zoo):
    """Of the networks' passes at the size of their inputs, from docs/zoo.md."""
    out = {}
    for line in zoo.read_text().splitlines():
        cells = [c.strip() for c in line.split("|")]
        if len(cells) > 8 and cells[1].startswith("`") and cells[4].isdigit():
            out[cells[1].strip("`")] = (float(cells[3]) * 1e9, int(cells[4]))
    return out


def of_peak(results, key, isa, zoo):
    """The part of the machine's matrix peak that our pass reaches, where both were measured on one."""
    r, machine = results[key + isa], results.get("peak" + isa)
    if machine is None or key == "latency" or r["network"] not in zoo or r["processor"] != machine["processor"]:
        return "–"
    count, size = zoo[r["network"]]
    speed = statistics.median(x[r["ours"]] for x in r["rounds"])
    return f"{100 * speed * count * (r['size'] / size) ** 2 / machine[r['ours']]:.0f} %"


def passes(results, isa, zoo):
    rows = [(key, results[key + isa]) for key in NAMES if key + isa in results]
    if not rows:
        return []
    ways = [w for w in WAYS if any(w in r["rounds"][0] for _, r in rows)]
    out = ["| network | ours, img/s | of the peak | " + " | ".join(WAYS[w] for w in ways) + " | error |",
           "| --- " * (len(ways) + 4) + "|"]
    for key, r in rows:
        speed = statistics.median(x[r["ours"]] for x in r["rounds"])
        worst = max(e for w, e in r["errors"].items() if w in ("plain", "channels_last", "script"))
        own = f", {r['errors']['ours']:.1g} in bf16" if "ours" in r["errors"] else ""
        out.append(f"| {NAMES[key]} | {speed:,.0f} | {of_peak(results, key, isa, zoo)} | " + " | ".join(cell(r, w) for w in ways) + f" | {worst:.0e}{own} |")
    return out + [""]


def jobs(results):
    rows = [(key, results[key]) for key in JOBS if key in results]
    if not rows:
        return []
    out = ["| training | peer | peer's img/s, train and test | peer | ours, first run | ours, second run | first | second |",
           "| --- " * 8 + "|"]
    for key, r in rows:
        for name in r["jobs"][0]["peers"]:
            peer = [j["peers"][name] for j in r["jobs"]]
            middle = statistics.median
            cells = [f"{middle(p['train'] for p in peer):,.0f}, {middle(p['test'] for p in peer):,.0f}",
                     f"{middle(p['whole'] for p in peer):,.0f} s", f"{middle(j['first'] for j in r['jobs']):,.0f} s",
                     f"{middle(j['second'] for j in r['jobs']):,.1f} s"]
            for which in ("first", "second"):
                all_ = sorted(j["peers"][name]["whole"] / j[which] for j in r["jobs"])
                cells.append(f"**{middle(all_):,.1f}**" + (f" ({all_[0]:,.1f}–{all_[-1]:,.1f})" if len(all_) > 1 else ""))
            out.append(f"| {JOBS[key]} | {name} | " + " | ".join(cells) + " |")
    return out + [""]


def bounds(results):
    """Our passes beside what the machine's arithmetic and memory allow, call by call."""
    out = []
    for isa in ("", "@avx2"):
        if f"bounds{isa}" not in results:
            continue
        r = results[f"bounds{isa}"]
        if not out:
            out = ["## What bounds our passes", "",
                   "Each of the engine's calls beside the longer of two times: its multiply-adds at the speed of PyTorch's product of"
                   " matrices, and the bytes that it reads and writes at the speed of a copy in memory. Their sum is what the machine"
                   " allows if nothing stays in the cache from one call to the next; where maps do, memory is faster than that, and a"
                   " pass may be too.", ""]
        speed = r["peak"]["fp32" if isa else "bf16"]
        out += [f"{'With AVX2 alone, in fp32' if isa else 'In bf16'} ({r['processor']}; {speed / 1e9:,.0f} thousand million multiply-adds a second,"
                f" {r['peak']['copy'] / 1e9:.1f} GB/s):", "",
                "| network | a piece takes | arithmetic alone | memory alone | the longer one, call by call | of ours | share of calls bound by memory | farthest from it |",
                "| --- " * 8 + "|"]
        ms = lambda s: f"{1e3 * s:,.1f} ms"
        for key, p in r["passes"].items():
            far = "; ".join(f"{c['what'].split(' with ')[0].split(',')[0]} {ms(c['seconds'])} by {ms(max(c['arithmetic'], c['memory']))}" for c in p["slowest"])
            out.append(f"| {NAMES[key]} | {ms(p['seconds'])} | {ms(p['arithmetic'])} | {ms(p['memory'])} | {ms(p['bound'])} |"
                       f" {100 * p['bound'] / p['seconds']:.0f} % | {100 * p['by_memory'] / p['seconds']:.0f} % | {far} |")
        out.append("")
    return out


def detectors(results):
    """Training and latency beside PyTorch's, and darknet's own latency where it was measured."""
    rows = [results[key] for key in ("yolo", "yolo_fp32", "two_stage") if key in results]
    if not rows:
        return []
    out = ["| detector | training, PyTorch's img/s | ours | ours by PyTorch's | one picture, PyTorch | darknet | ours | ours by PyTorch's | by darknet's |",
           "| --- " * 9 + "|"]
    for r in rows:
        middle, cells = statistics.median, []
        for name, unit in (("images_per_second", ""), ("latency_ms", " ms")):
            ours, theirs = ([t[name][i] for t in r["turns"]] for i in (0, 1))
            all_ = sorted(a / b for a, b in zip(ours, theirs))
            known = r.get("darknet_ms") if unit else None
            cells += [f"{middle(theirs):.1f}{unit}", *([f"{known:.1f} ms" if known else "–"] if unit else []), f"{middle(ours):.1f}{unit}",
                      f"**{middle(all_):.2f}** ({all_[0]:.2f}–{all_[-1]:.2f})",
                      *([f"**{middle(ours) / known:.2f}**" if known else "–"] if unit else [])]
        out.append(f"| {r['name']}, {r['precision']} | " + " | ".join(cells) + " |")
    return out + [""]


def picture(results, path):
    """Bars of the ratios' medians with their ranges, on a logarithmic axis; light and dark by the viewer's preference."""
    bars = []
    for key in NAMES:
        for isa, which in (("", "compile-bf16"), ("", "script-bf16"), ("@avx2", "script")):
            r = results.get(key + isa)
            if r and which in r["rounds"][0] and (which != "script-bf16" or key == "latency"):
                bars.append((f"{NAMES[key]} by {WAYS[which].replace('`', '')}{', AVX2' if isa else ''}", ratios(r, which)))
    if not bars:
        return
    low = min(0.5, min(b[1][1] for b in bars)) / 1.05
    high = max(2.0, max(b[1][2] for b in bars)) * 1.05
    left, width, line = 400, 760, 24
    at = lambda v: left + (width - left - 60) * math.log(v / low) / math.log(high / low)
    height = line * len(bars) + 60
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
           "<style>svg{background:#fff;color:#222}@media(prefers-color-scheme:dark){svg{background:#161616;color:#ddd}}"
           "text{fill:currentColor}.b{fill:#0072b2}.w{stroke:currentColor}.o{stroke:currentColor;stroke-dasharray:3 3}</style>",
           "<title>How many times as fast as the peer: median and range</title>"]
    for tick in (0.25, 0.5, 1, 2, 4, 8):
        if low <= tick <= high:
            out.append(f'<line class="o" x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="20" y2="{height - 30}" opacity="{1 if tick == 1 else .3}"/>'
                       f'<text x="{at(tick):.1f}" y="{height - 12}" text-anchor="middle">{tick:g}×</text>')
    for i, (name, (middle, least, most)) in enumerate(bars):
        y = 24 + line * i
        out.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{html.escape(name)}</text>'
                   f'<rect class="b" x="{min(at(1), at(middle)):.1f}" y="{y + 2}" width="{abs(at(middle) - at(1)):.1f}" height="14"/>'
                   f'<line class="w" x1="{at(least):.1f}" x2="{at(most):.1f}" y1="{y + 9}" y2="{y + 9}"/>'
                   f'<text x="{at(most) + 6:.1f}" y="{y + 13}">{middle:.2f}</text>')
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([*out, "</svg>"]) + "\n")


def write_document(folder, results):
    folder = pathlib.Path(folder)
    machines = sorted({f"{r['processor']}, {r['cores']} cores, {r['threads']} threads" for r in results.values()})
    torch = sorted({r["torch"] for r in results.values() if "torch" in r})
    dates = sorted({r["date"] for r in results.values()})
    lines = ["# Benchmarks", "",
             f"Made by `tests/benchmark/run` ({', '.join(machines)}; {dates[0]}{'' if dates[0] == dates[-1] else ' to ' + dates[-1]};"
             f" PyTorch {', '.join(torch)} in Python, ours on LibTorch 2.13). Both sides ran in turn on the same input and threads;"
             " a ratio is the median over the rounds, in brackets the least and the greatest. Above 1 ours is faster."
             " `benchmarks.json` holds every round.", "",
             "![ratios](img/benchmarks.svg)", ""]
    load, threads = max(r.get("load", 0) for r in results.values()), max(r["threads"] for r in results.values())
    if load > threads + 1:
        lines += [f"The machine was not quiet: other programs ran at a lower priority (load up to {load:.0f}). Both sides of a"
                  " ratio suffer alike; speeds by themselves are below those of a quiet machine, "
                  "where ResNet-50's pass, say, is about twice as fast.", ""]
    zoo = multiply_adds(pathlib.Path(__file__).resolve().parents[2] / "docs" / "zoo.md")
    native, avx2 = passes({k: v for k, v in results.items() if k != "latency"}, "", zoo), passes(results, "@avx2", zoo)
    if native:
        lines += ["## The frozen part's pass: pooled features", "",
                  "Normalised float32 pictures in memory, batches of 32, weights drawn at random, batch norms settled on noise."
                  " Ours in bf16. The peers' columns: their img/s, and **ours by theirs**. `torch.compile` in its default mode with"
                  " batch norms folded; its `freezing` is an option of its own. The error is the greatest relative one of a float32"
                  " peer's features against ours in float32.", "", *native]
        if "peak" in results:
            p = results["peak"]
            lines += [f"The peak is that of PyTorch's product of matrices of 2,048 x 2,048: {p['bf16'] / 1e9:,.0f} thousand million"
                      f" multiply-adds a second in bf16, {p['fp32'] / 1e9:,.0f} in fp32; memory is copied at {p['copy'] / 1e9:.1f} GB/s,"
                      " reading and writing counted.", ""]
    if "latency" in results:
        lines += ["## One picture through a trained classifier", "",
                  "From uint8 pixels of the network's size to ten probabilities; the columns tell pictures a second.", "",
                  *passes({"latency": results["latency"]}, "", zoo)]
    if avx2:
        lines += ["## On a processor with AVX2 alone", "",
                  "The same with `ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2`, all in float32.", "", *avx2]
    job_rows = jobs(results)
    if job_rows:
        lines += ["## Whole trainings", "",
                  "CIFAR-10's 50,000 and 10,000 pictures at 224, five epochs with a test each. Reckoned up from a subset: the"
                  " peers' times are their pictures a second times the pictures; ours are the frozen part's pictures a second on"
                  " the subset, and what comes behind it on all pictures (where the network is frozen whole, with features of"
                  " smaller pictures, as wide), fixed costs in both. The peers are"
                  " given pictures that are resized already.", "", *job_rows]
    detector_rows = detectors(results)
    if detector_rows:
        lines += ["## Detectors", "",
                  "An epoch in which the whole network learns, and one picture found in at a time. Of training, above 1 ours is"
                  " faster; of one picture's time, below 1. A `.cfg` at 320 pixels, v5's loss on both sides, one picture in float32"
                  " with the boxes' suppression (darknet: its own program's time); the two-stage detector at 384 pixels, 256 regions"
                  " a picture, torchvision's `FasterRCNN` beside it.", "", *detector_rows]
    if "accuracy" in results:
        r = results["accuracy"]
        lines += ["## Accuracy", "",
                  f"EfficientNet-Lite0's trained weights, frozen, 128 pixels, {r['pictures']:,} pictures of CIFAR-10 to learn from,"
                  f" {r['test']:,} to measure with, ten epochs of a linear head: {100 * r['fp32']['accuracy']:.2f} % with features"
                  f" in float32, {100 * r['bf16']['accuracy']:.2f} % in bf16.", ""]
    if "memory" in results:
        r = results["memory"]
        told = "; ".join(f"{m['pictures']:,.0f} pictures {m['peak'] / 2**20:,.0f} MiB" for m in r["runs"])
        lines += ["## Memory of a first run", "",
                  f"Keras's MobileNetV3-Small from layer 100 on, flips, a cache of {r['limit'] >> 20} MiB, less than the"
                  f" activations: the process takes, at its peak, {told}; {r['runs'][0]['weights'] / 2**20:.0f} MiB of it are weights.", ""]
    if "million" in results:
        r = results["million"]
        lines += ["## Up to a million pictures on disk", "",
                  "JPEG files of 224 x 224 in class folders (a thousand of them differ, the others are links), Keras's"
                  f" MobileNetV3-Small frozen whole, one epoch, a cache of {r['limit'] >> 30} GiB on disk. \"Of its own\" is the"
                  " process's greatest memory without the pages of mapped files, which are the system's to take back.", "",
                  "| pictures | first run | of it the frozen part | img/s of that | of its own | second run |",
                  "| --- " * 6 + "|"]
        for j in r["jobs"]:
            first, second = j["runs"]
            lines.append(f"| {j['pictures']:,} | {first['total']:,.0f} s | {first['features']:,.0f} s |"
                         f" {(j['pictures'] + first['test']) / first['features']:,.0f} | {first['own'] / 2**20:,.0f} MiB |"
                         f" {second['total']:,.0f} s |")
        lines.append("")
    others = [(k, results[k]) for k in ("features", "fine_tune") if k in results]
    if others:
        lines += ["## Against a loop as one would write it", ""]
        for key, r in others:
            middle, least, most = ratios(r, "channels_last")
            what = "features at 128 pixels, resizing included" if key == "features" else "an epoch in which the whole network learns, at 96 pixels"
            lines.append(f"- EfficientNet-Lite0, {what}, {r['precision']}, channels last on both sides: {statistics.median(x['ours'] for x in r['rounds']):,.0f}"
                         f" img/s by {statistics.median(x['channels_last'] for x in r['rounds']):,.0f}: **{middle:.2f}** ({least:.2f}–{most:.2f})")
        if "fine_tune_accuracy" in results:
            r = results["fine_tune_accuracy"]
            lines.append(f"- Two such epochs on all of CIFAR-10 reach {100 * r['ours']['accuracy']:.2f} % on its test pictures,"
                         f" PyTorch's {100 * r['theirs']['accuracy']:.2f} %.")
        lines.append("")
    lines += bounds(results)
    picture(results, folder / "img" / "benchmarks.svg")
    (folder / "benchmarks.md").write_text("\n".join(lines) + "\n")
