#!/usr/bin/env python3
"""Makes tests/data/parity/darknet.json and zoo/{darknet19,darknet53,cspdarknet53,cspdarknet53_mish}.json: what an
interpreter of darknet's .cfg computes, written here from darknet's own loops and plain functions of PyTorch.

    make_darknet.py OUT_FOLDER

darknet.json has every layer of tests/data/darknet/layers.cfg; darknet_detectors.json what small networks of YOLO v1, v2
and v3 find, decoded place by place as darknet's get_region_detections and its like do; the networks of the zoo are kept
as zoo.py says. Needs
torch (made with torch 2.14.1).
"""
import os
import re
import sys

import numpy as np
import torch
import torch.nn.functional as F

import formula
import zoo
from summary import summary, write

HERE = os.path.dirname(os.path.abspath(__file__))
SIZES = [64, 75]
ACTIVATIONS = {
    "linear": lambda x: x,
    "leaky": lambda x: torch.where(x > 0, x, 0.1 * x),
    "relu": lambda x: x.clamp(min=0),
    "relu6": lambda x: x.clamp(0, 6),
    "mish": lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    "swish": lambda x: x / (1 + torch.exp(-x)),
    "logistic": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh": torch.tanh,
}


def sections(text):
    out = []
    for line in text.splitlines():
        line = re.sub(r"\s|[#;].*", "", line)
        if line.startswith("["):
            out.append((line[1:-1], {}))
        elif line:
            key, value = line.split("=", 1)
            out[-1][1].setdefault(key, value)
    return out


class Network:
    """A .cfg, with weights by the formula under our names."""

    def __init__(self, text, gain=()):
        (_, net), *self.layers = sections(text)
        self.input = [int(net["channels"]), int(net["height"]), int(net["width"])]
        self.gain = gain
        self.state, self.rows, self.numbers = {}, [], 0
        with torch.no_grad():
            self.run(torch.zeros(1, *self.input))  # makes the weights, whose shapes depend on the maps
        self.made = True

    def tensor(self, name, *shape):
        if name not in self.state:
            assert not hasattr(self, "made")
            self.state[name] = zoo.value(name, torch.empty(shape), self.gain)
            if not name.endswith(("running_mean", "running_var")):
                self.numbers += self.state[name].numel()
        assert tuple(self.state[name].shape) == shape
        return self.state[name]

    def row(self, name):
        if name not in self.rows:
            self.rows.append(name)

    def finished(self, n, o, x, default):
        """Batch norm and activation."""
        if int(o.get("batch_normalize", 0)):
            self.row(f"{n}.bn")
            c = x.shape[1]
            scale, shift = self.tensor(f"{n}.bn.weight", c), self.tensor(f"{n}.bn.bias", c)
            mean, variance = self.tensor(f"{n}.bn.running_mean", c), self.tensor(f"{n}.bn.running_var", c)
            self.state.setdefault(f"{n}.bn.num_batches_tracked", torch.zeros((), dtype=torch.int64))
            each = (1, c, 1, 1)
            x = (x - mean.view(each)) / torch.sqrt(variance.view(each) + 1e-5) * scale.view(each) + shift.view(each)
        activation = o.get("activation", default)
        if activation != "linear":
            self.row(f"{n}.act")
        return ACTIVATIONS[activation](x)

    def run(self, x):
        """The values of all layers."""
        values = []
        for n, (kind, o) in enumerate(self.layers):
            kind = {"conv": "convolutional", "max": "maxpool"}.get(kind, kind)
            number = lambda key, default: int(o.get(key, default))
            at = lambda text: [int(v) if int(v) >= 0 else n + int(v) for v in text.split(",")]
            if kind != "convolutional":
                self.row(f"{n}.{kind}")
            if kind == "convolutional":
                self.row(f"{n}.conv")
                size, groups = number("size", 1), number("groups", 1)
                dilation = 1 if size == 1 else number("dilation", 1)
                pad = size // 2 if number("pad", 0) else number("padding", 0)
                w = self.tensor(f"{n}.conv.weight", number("filters", 1), x.shape[1] // groups, size, size)
                b = None if number("batch_normalize", 0) else self.tensor(f"{n}.conv.bias", w.shape[0])
                x = F.conv2d(x, w, b, number("stride", 1), pad * dilation, dilation, groups)
                x = self.finished(n, o, x, "logistic")
            elif kind == "maxpool":
                stride = number("stride", 1)
                size = number("size", stride)
                pad = number("padding", size - 1)
                before = pad // 2
                x = F.pad(x, (before, pad - before) * 2, value=-float("inf"))
                x = x.unfold(2, size, stride).unfold(3, size, stride).amax((-2, -1))
            elif kind == "avgpool":
                x = x.mean((2, 3), keepdim=True)
            elif kind == "shortcut":
                for f in at(o["from"]):
                    other = values[f]
                    step = other.shape[2] // x.shape[2]
                    common = min(x.shape[1], other.shape[1])
                    x = x.clone()
                    x[:, :common] += other[:, :common, ::step, ::step]
                x = self.finished(n, o, x, "linear")
            elif kind == "route":
                groups, which = number("groups", 1), number("group_id", 0)
                x = torch.cat([values[f].chunk(groups, 1)[which] for f in at(o["layers"])], 1)
            elif kind == "upsample":
                stride = number("stride", 2)
                x = x.repeat_interleave(stride, 2).repeat_interleave(stride, 3) * float(o.get("scale", 1))
            elif kind in ("reorg", "reorg3d"):
                x = reorg(x.numpy(), number("stride", 1), kind == "reorg")
            elif kind in ("dropout", "cost"):
                pass
            elif kind == "batchnorm":
                x = self.finished(n, {"batch_normalize": 1}, x, "linear")
            elif kind == "softmax":
                flat = x.reshape(x.shape[0], number("groups", 1), -1) / float(o.get("temperature", 1))
                x = (flat.exp() / flat.exp().sum(-1, keepdim=True)).reshape(x.shape)
            elif kind == "connected":
                flat = x.reshape(x.shape[0], -1)
                w = self.tensor(f"{n}.connected.weight", number("output", 1), flat.shape[1])
                y = flat @ w.T
                if not number("batch_normalize", 0):
                    y = y + self.tensor(f"{n}.connected.bias", w.shape[0])
                x = self.finished(n, o, y[:, :, None, None], "logistic")
            elif kind == "local":
                x = self.finished(n, o, self.local(n, o, x, number), "logistic")
            elif kind in ("yolo", "region", "detection"):
                x = predicted(kind, o, x, number)
            else:
                raise ValueError(kind)
            values.append(x)
        return values

    def local(self, n, o, x, number):
        """A kernel for each place, place by place."""
        size, pad, filters, stride = number("size", 1), number("pad", 0), number("filters", 1), number("stride", 1)
        padded = F.pad(x, (pad,) * 4)
        rows, columns = ((side - size) // stride + 1 for side in padded.shape[2:])
        w = self.tensor(f"{n}.local.weight", rows * columns, filters, x.shape[1] * size * size)
        y = self.tensor(f"{n}.local.bias", filters, rows, columns).expand(x.shape[0], -1, -1, -1).clone()
        for r in range(rows):
            for c in range(columns):
                window = padded[:, :, r * stride :, c * stride :][:, :, :size, :size].reshape(x.shape[0], -1)
                y[:, :, r, c] += window @ w[r * columns + c].T
        return y


def reorg(x, stride, odd):
    """darknet's reorg_cpu, index by index. `reorg` gives it the sides of its input for those of the output."""
    batch, c, h, w = x.shape
    out_c, out_h, out_w = (c, h, w) if odd else (c * stride**2, h // stride, w // stride)
    in_c = out_c // stride**2
    flat, out = x.reshape(-1), np.empty(x.size, x.dtype)
    for b in range(batch):
        for k in range(out_c):
            for j in range(out_h):
                for i in range(out_w):
                    to = i + out_w * (j + out_h * (k + out_c * b))
                    c2, offset = k % in_c, k // in_c
                    w2, h2 = i * stride + offset % stride, j * stride + offset // stride
                    out[to] = flat[w2 + out_w * stride * (h2 + out_h * stride * (c2 + in_c * b))]
    return torch.from_numpy(out.reshape(batch, c * stride**2, h // stride, w // stride))


def predicted(kind, o, x, number):
    logistic, classes = ACTIVATIONS["logistic"], number("classes", 20)
    x = x.clone()
    if kind == "detection":
        places = number("side", 7) ** 2
        flat = x.view(x.shape[0], -1)
        for p in range(places if number("softmax", 0) else 0):
            own = slice(p * classes, (p + 1) * classes)
            flat[:, own] = flat[:, own].softmax(1)
        return x
    boxes = len(o["mask"].split(",")) if kind == "yolo" else number("num", 1)
    for b in range(boxes):
        at = b * (5 + classes)
        x[:, at : at + 2] = logistic(x[:, at : at + 2])
        x[:, at + 4] = logistic(x[:, at + 4])
        own = slice(at + 5, at + 5 + classes)
        if kind == "yolo":
            scale = float(o.get("scale_x_y", 1))
            x[:, at : at + 2] = x[:, at : at + 2] * scale - 0.5 * (scale - 1)
            x[:, own] = logistic(x[:, own])
        elif number("softmax", 0):
            x[:, own] = x[:, own].softmax(1)
    return x


def convolution(filters, size, stride=1, activation="leaky", norm=1):
    return (f"[convolutional]\nbatch_normalize={norm}\nfilters={filters}\nsize={size}\nstride={stride}\npad=1\n"
            f"activation={activation}\n")


NET = "[net]\nwidth=256\nheight=256\nchannels=3\n"
CLASSIFIER = convolution(1000, 1, activation="linear", norm=0)


def darknet19():
    """The .cfg, the last layers of the stages, the layer of the logits."""
    text = NET
    for part in "32 M 64 M 128 64 128 M 256 128 256 M 512 256 512 256 512 M 1024 512 1024 512 1024".split():
        wide = part in ("32", "64", "128", "256", "512", "1024")
        previous = text.rsplit("filters=", 1)[-1].split("\n")[0]
        small = wide and previous.isdigit() and int(part) < int(previous)
        text += convolution(int(part), 1 if small else 3) if wide else "[maxpool]\nsize=2\nstride=2\n"
    return text + CLASSIFIER + "[avgpool]\n[softmax]\n", [6, 10, 16, 22], 24


def darknet53():
    text, ends, n = NET + convolution(32, 3), [], 1
    for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        text += convolution(filters, 3, 2)
        text += (convolution(filters // 2, 1) + convolution(filters, 3) + "[shortcut]\nfrom=-3\n") * blocks
        n += 1 + 3 * blocks
        ends.append(n - 1)
    return text + "[avgpool]\n" + CLASSIFIER + "[softmax]\n", ends[1:], n + 1


def cspdarknet53(activation):
    conv = lambda *a: convolution(*a, activation=activation)
    text, ends, n = NET + conv(32, 3), [], 1
    for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        first = filters == 64
        half = filters if first else filters // 2
        text += conv(filters, 3, 2) + conv(half, 1) + "[route]\nlayers=-2\n" + conv(half, 1)
        text += (conv(half // 2 if first else half, 1) + conv(half, 3) + "[shortcut]\nfrom=-3\n") * blocks
        text += conv(half, 1) + f"[route]\nlayers=-1,{n + 1}\n" + conv(filters, 1)
        n += 7 + 3 * blocks
        ends.append(n - 1)
    return text + "[avgpool]\n" + CLASSIFIER + "[softmax]\n", ends[1:], n + 1


def keep(folder, name, made, gain, ci=False):
    text, ends, logits = made
    network = Network(text, gain)

    def forward(x):
        values = network.run(x)
        return [values[e] for e in ends], values[ends[-1]].mean((2, 3)), values[logits].flatten(1)

    parameters = [n for n in network.state if not n.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    trained = {}
    for layer in (10, len(network.layers) // 2, ends[-1]):  # darknet's numbers
        row = next(i for i, r in enumerate(network.rows) if r.startswith(f"{layer}."))
        trained[row] = [p for p in parameters if int(p.split(".")[0]) >= layer]
    zoo.keep(folder, name, "an interpreter of the .cfg, PyTorch " + torch.__version__.split("+")[0],
             network.state.items(), network.rows, lambda size: forward, SIZES, [0.0] * 3, [1.0] * 3, gain,
             network.numbers, ci=ci, trainable=trained)


STEM = ("[net]\nwidth=48\nheight=48\nchannels=3\n" + convolution(8, 3, 2) + convolution(12, 3, 2) + convolution(16, 3, 2))
GAIN = {"conv": 0.7, "connected": 0.9}  # of the layer before the detections, so that confidences differ


def region(softmax):
    """v2's: the finer map beside the coarser one by [reorg]."""
    return (STEM + "[maxpool]\nsize=2\nstride=2\n" + convolution(24, 3) + "[route]\nlayers=-3\n" + convolution(4, 1) +
            "[reorg]\nstride=2\n[route]\nlayers=-1,-4\n" + convolution(16, 1, activation="linear", norm=0) +
            f"[region]\nanchors=1.7,1.9, 2.4,2.1\nclasses=3\ncoords=4\nnum=2\nsoftmax={softmax}\nthresh=.6\n")


def detection(between, places, softmax, roots):
    """v1's."""
    return (STEM + between + f"[connected]\noutput={places**2 * 13}\nactivation=linear\n" +
            f"[detection]\nclasses=3\ncoords=4\nrescore=1\nside={places}\nnum=2\nsoftmax={softmax}\nsqrt={roots}\n"
            "coord_scale=5\nnoobject_scale=.5\n")


def found(text):
    """Confidence, class and corners (in pixels of the input) of all boxes, those that overlap a surer one of their class
    by more than .45 left out."""
    network = Network(text, [(f"{len(sections(text)) - 3}.{k}.weight", g) for k, g in GAIN.items()])
    net, kind, o = sections(text)[0][1], *sections(text)[-1]
    size, classes, boxes = int(net["width"]), int(o["classes"]), int(o["num"])
    with torch.no_grad():
        values = network.run(formula.pictures(1, size).float() / 255.0)
    x = values[-1][0].double().numpy()  # probabilities where darknet has them
    out = []

    def take(cx, cy, w, h, confidence, probabilities):
        for c, p in enumerate(probabilities):
            score = min(max(confidence * p, 0.0), 1.0)
            if score > 0.005:
                out.append([score, c, (cx - w / 2) * size, (cy - h / 2) * size, (cx + w / 2) * size, (cy + h / 2) * size])

    if kind == "detection":
        side, flat = int(o["side"]), x.reshape(-1)
        for i in range(side * side):
            for n in range(boxes):
                scale = flat[side * side * classes + i * boxes + n]
                tx, ty, tw, th = flat[side * side * (classes + boxes) + (i * boxes + n) * 4 :][:4]
                power = 2 if int(o["sqrt"]) else 1
                take((tx + i % side) / side, (ty + i // side) / side, tw**power, th**power, scale,
                     flat[i * classes :][:classes])
    else:
        anchors = [float(a) for a in o["anchors"].split(",")]
        rows, columns = x.shape[1:]
        for row in range(rows):
            for column in range(columns):
                for n in range(boxes):
                    v = x[n * (5 + classes) : (n + 1) * (5 + classes), row, column]
                    # Without softmax darknet takes the logistic of the classes; `predicted` leaves that to us.
                    p = v[5:] if int(o["softmax"]) else 1 / (1 + np.exp(-v[5:]))
                    take((column + v[0]) / columns, (row + v[1]) / rows, np.exp(v[2]) * anchors[2 * n] / columns,
                         np.exp(v[3]) * anchors[2 * n + 1] / rows, v[4], p)
    out.sort(key=lambda b: -b[0])
    kept = []
    for b in out:
        def overlap(a):
            w, h = min(a[4], b[4]) - max(a[2], b[2]), min(a[5], b[5]) - max(a[3], b[3])
            both = max(w, 0) * max(h, 0)
            return both / ((a[4] - a[2]) * (a[5] - a[3]) + (b[4] - b[2]) * (b[5] - b[3]) - both)
        if not any(a[1] == b[1] and overlap(a) > 0.45 for a in kept):
            kept.append(b)
    assert len(kept) > 5 and (len(kept) < len(out) or kind == "detection"), (len(kept), len(out))
    scores = [b[0] for b in kept]
    assert len(scores) == len(set(scores)), "equal confidences have no order"
    return {"cfg": text, "size": size, "kind": kind, "found": kept}


def detectors(folder):
    local = "[local]\nsize=3\nstride=2\npad=1\nfilters=8\nactivation=leaky\n[dropout]\nprobability=.5\n"
    hidden = "[connected]\noutput=20\nactivation=leaky\n[dropout]\nprobability=.5\n"
    write(os.path.join(folder, "darknet_detectors.json"),
          [found(t) for t in (region(1), region(0), detection(local, 3, 0, 1), detection(hidden, 2, 1, 0),
                              detection("[batchnorm]\n", 4, 0, 1))])


def main(folder):
    torch.set_num_threads(1)
    path = os.path.join(HERE, "..", "data", "darknet", "layers.cfg")
    with open(path, encoding="utf-8") as file:
        network = Network(file.read())
    with torch.no_grad():
        values = network.run(formula.pictures(2, 36).float() / 255.0)
    write(os.path.join(folder, "darknet.json"),
          {"names": zoo.names_hash(network.state.items()), "rows": network.rows,
           "layers": [summary(v, 8) for v in values]})
    detectors(folder)
    keep(folder, "darknet19", darknet19(), [], ci=True)
    keep(folder, "darknet53", darknet53(), [("bn.weight", 0.5)])
    keep(folder, "cspdarknet53", cspdarknet53("leaky"), [("bn.weight", 0.6)])
    keep(folder, "cspdarknet53_mish", cspdarknet53("mish"), [("bn.weight", 0.65)])


if __name__ == "__main__":
    main(sys.argv[1])
