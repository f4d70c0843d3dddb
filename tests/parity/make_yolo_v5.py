#!/usr/bin/env python3
"""Makes tests/data/parity/yolo_v5n.json: what YOLO v5n (release 6, 3 classes) computes of two pictures with weights by the
formula, written here from its description of layers and plain functions of PyTorch.

    make_yolo_v5.py OUT_FOLDER

Needs torch (made with torch 2.14.1).
"""
import os
import sys

import torch
import torch.nn.functional as F

import formula
from summary import summary, write

ANCHORS, CLASSES = 3, 3
# From, kind, channels at width 1, number of bottlenecks at depth 1; of a convolution kernel and stride.
LAYERS = [
    (-1, "conv", 64, 6, 2), (-1, "conv", 128, 3, 2), (-1, "c3", 128, 3), (-1, "conv", 256, 3, 2), (-1, "c3", 256, 6),
    (-1, "conv", 512, 3, 2), (-1, "c3", 512, 9), (-1, "conv", 1024, 3, 2), (-1, "c3", 1024, 3), (-1, "sppf", 1024),
    (-1, "conv", 512, 1, 1), (-1, "larger"), ((-1, 6), "join"), (-1, "c3 plain", 512, 3), (-1, "conv", 256, 1, 1),
    (-1, "larger"), ((-1, 4), "join"), (-1, "c3 plain", 256, 3), (-1, "conv", 256, 3, 2), ((-1, 14), "join"),
    (-1, "c3 plain", 512, 3), (-1, "conv", 512, 3, 2), ((-1, 10), "join"), (-1, "c3 plain", 1024, 3),
]
DETECT = (17, 20, 23)


class Net:
    def __init__(self):
        self.state = {}

    def tensor(self, name, *shape):
        if name not in self.state:
            self.state[name] = formula.values(name, shape)
        return self.state[name]

    def conv(self, name, x, out, kernel=1, stride=1):
        pad = 2 if kernel == 6 else kernel // 2
        y = F.conv2d(x, self.tensor(name + ".conv.weight", out, x.shape[1], kernel, kernel), None, stride, pad)
        scale, shift, mean, variance = (self.tensor(f"{name}.bn.{k}", out)
                                        for k in ("weight", "bias", "running_mean", "running_var"))
        self.state.setdefault(name + ".bn.num_batches_tracked", torch.zeros((), dtype=torch.int64))
        each = (1, out, 1, 1)
        y = (y - mean.view(each)) / (variance.view(each) + 1e-3).sqrt() * scale.view(each) + shift.view(each)
        return y * torch.sigmoid(y)

    def c3(self, name, x, out, depth, shortcut):
        y = self.conv(name + ".cv1", x, out // 2)
        for i in range(depth):
            z = self.conv(f"{name}.m.{i}.cv2", self.conv(f"{name}.m.{i}.cv1", y, out // 2), out // 2, 3)
            y = y + z if shortcut else z
        return self.conv(name + ".cv3", torch.cat([y, self.conv(name + ".cv2", x, out // 2)], 1), out)

    def sppf(self, name, x, out):
        maps = [self.conv(name + ".cv1", x, x.shape[1] // 2)]
        for _ in range(3):
            maps.append(F.max_pool2d(maps[-1], 5, 1, 2))
        return self.conv(name + ".cv2", torch.cat(maps, 1), out)

    def run(self, x):
        values = []
        for n, (source, kind, *numbers) in enumerate(LAYERS):
            out = numbers[0] // 4 if numbers else 0
            depth = max(1, round(numbers[1] * 0.33)) if kind.startswith("c3") else 0
            if kind == "conv":
                x = self.conv(str(n), x, out, *numbers[1:])
            elif kind.startswith("c3"):
                x = self.c3(str(n), x, out, depth, kind == "c3")
            elif kind == "sppf":
                x = self.sppf(str(n), x, out)
            elif kind == "larger":
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            else:
                x = torch.cat([x, values[source[1]]], 1)
            values.append(x)
        self.tensor("24.anchors", 3, ANCHORS, 2)
        out = []
        for i, n in enumerate(DETECT):
            w = self.tensor(f"24.m.{i}.weight", ANCHORS * (5 + CLASSES), values[n].shape[1], 1, 1)
            out.append(F.conv2d(values[n], w, self.tensor(f"24.m.{i}.bias", w.shape[0])))
        return out


def main(folder):
    torch.set_num_threads(1)
    net = Net()
    with torch.no_grad():
        maps = net.run(formula.pictures(2, 64).float() / 255.0)
    write(os.path.join(folder, "yolo_v5n.json"),
          {"maps": [summary(m) for m in maps], "names": {n: list(t.shape) for n, t in net.state.items()}})


if __name__ == "__main__":
    main(sys.argv[1])
