#!/usr/bin/env python3
"""A detector of darknet's trained for an epoch, and one picture found in at a time, by PyTorch as one would write it: the
peer of detection.cpp.

    detection.py --cfg FILE [--weights FILE] [--pictures N] [--size N] [--batch N] [--threads N]
                 [--precision fp32|bf16] [--program FILE] [--rounds N]

Needs torch, torchvision and numpy. Timed are: uint8 pictures in memory, normalised, channels last, the network, v5's
loss (ratio of sides, three cells, CIoU), its gradients and fused AdamW; and, of one picture, the network as it is, the
boxes and their suppression, both in float32. The cfg's dropout is left out of the training, whose --precision is told;
with --program, a built benchmark_detection, both run in turn and the ratios are told.
"""
import argparse
import math
import pathlib
import re
import statistics
import subprocess
import sys
import time

import numpy
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--cfg", type=pathlib.Path, required=True)
parser.add_argument("--weights", type=pathlib.Path)
parser.add_argument("--pictures", type=int, default=160)
parser.add_argument("--size", type=int, default=320)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
parser.add_argument("--program", type=pathlib.Path)
parser.add_argument("--rounds", type=int, default=3)
args = parser.parse_args()
CLASSES = 3


class Darknet(nn.Module):
    """The layers of yolo-fastest's cfg; its last convolutions are made anew for other classes."""

    def __init__(self, cfg):
        super().__init__()
        blocks = []
        for line in cfg.read_text().splitlines():
            line = line.split("#")[0].strip()
            if line.startswith("["):
                blocks.append({"type": line[1:-1]})
            elif line:
                name, value = line.split("=", 1)
                blocks[-1][name.strip()] = value.strip()
        self.blocks, self.layers, self.anchors = blocks[1:], nn.ModuleList(), []
        channels = []
        for i, b in enumerate(self.blocks):
            before = channels[-1] if channels else 3
            layer, out = nn.Identity(), before
            if b["type"] == "convolutional":
                head = i + 1 < len(self.blocks) and self.blocks[i + 1]["type"] == "yolo"
                out = len(self.blocks[i + 1]["mask"].split(",")) * (5 + CLASSES) if head else int(b["filters"])
                size, norm = int(b["size"]), "batch_normalize" in b
                layer = nn.Sequential(nn.Conv2d(before, out, size, int(b["stride"]), size // 2 if int(b["pad"]) else 0,
                                                groups=int(b.get("groups", 1)), bias=not norm))
                if norm:
                    layer.append(nn.BatchNorm2d(out))
                if b["activation"] == "leaky":
                    layer.append(nn.LeakyReLU(0.1, inplace=True))
            elif b["type"] == "route":
                out = sum(channels[j] for j in self.sources(i))
            elif b["type"] == "upsample":
                layer = nn.Upsample(scale_factor=int(b["stride"]))
            elif b["type"] == "maxpool":
                layer = nn.MaxPool2d(int(b["size"]), int(b["stride"]), int(b["size"]) // 2)
            elif b["type"] == "yolo":
                pairs = torch.tensor([float(x) for x in b["anchors"].split(",")]).view(-1, 2)
                self.anchors.append(pairs[[int(m) for m in b["mask"].split(",")]])
            self.layers.append(layer)
            channels.append(out)

    def sources(self, i):
        return [int(x) if int(x) >= 0 else i + int(x) for x in re.split(r"[ ,]+", self.blocks[i]["layers"])]

    def read(self, path):
        raw, at = numpy.fromfile(path, numpy.float32, offset=20), 0
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, nn.Sequential):
                continue
            conv, norm = layer[0], layer[1] if len(layer) > 1 and isinstance(layer[1], nn.BatchNorm2d) else None
            targets = [norm.bias, norm.weight, norm.running_mean, norm.running_var] if norm else [conv.bias]
            if self.blocks[i]["activation"] == "linear" and norm is None:  # of other classes
                at += int(self.blocks[i]["filters"]) * (conv.in_channels + 1)
                continue
            for target in targets + [conv.weight]:
                target.data.copy_(torch.from_numpy(raw[at:at + target.numel()].copy()).view_as(target))
                at += target.numel()

    def forward(self, x):
        values, out = [], []
        for i, (b, layer) in enumerate(zip(self.blocks, self.layers)):
            if b["type"] == "route":
                parts = [values[j] for j in self.sources(i)]
                x = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
            elif b["type"] == "shortcut":
                x = x + values[i + int(b["from"])]
            elif b["type"] == "yolo":
                out.append(x)
            else:
                x = layer(x)
            values.append(x)
        return out


def decode(p, cell, anchor, stride):
    return torch.cat([(p[..., :2].sigmoid() * 2 - 0.5 + cell) * stride, (p[..., 2:4].sigmoid() * 2) ** 2 * anchor], -1)


def v5_loss(maps, boxes, anchors):
    """boxes (M, 6): picture, class, centre, size in pixels."""
    total = 0
    for x, anchor in zip(maps, anchors):
        n, _, h, w = x.shape
        stride = args.size / w
        p = x.view(n, len(anchor), 5 + CLASSES, h, w).permute(0, 1, 3, 4, 2)
        ratio = boxes[:, None, 4:6] / anchor[None]
        which, a = (torch.maximum(ratio, 1 / ratio).amax(2) < 4).nonzero(as_tuple=True)
        t = boxes[which]
        centre = t[:, 2:4] / stride
        back = torch.tensor([w, h]) - centre
        near, far = (centre % 1 < 0.5) & (centre > 1), (back % 1 < 0.5) & (back > 1)
        cells, rows = [centre], [torch.arange(len(t))]
        for mask, offset in ((near[:, 0], (-.5, 0)), (near[:, 1], (0, -.5)), (far[:, 0], (.5, 0)), (far[:, 1], (0, .5))):
            rows.append(mask.nonzero()[:, 0])
            cells.append(centre[rows[-1]] + torch.tensor(offset))
        row = torch.cat(rows)
        cell = torch.cat(cells).long()
        cx, cy = cell[:, 0].clamp(0, w - 1), cell[:, 1].clamp(0, h - 1)
        t, a = t[row], a[row]
        picture = t[:, 0].long()
        found = p[picture, a, cy, cx]
        b = decode(found, torch.stack([cx, cy], 1), anchor[a], stride)
        corners = torchvision.ops.box_convert(b, "cxcywh", "xyxy")
        truth = torchvision.ops.box_convert(t[:, 2:6], "cxcywh", "xyxy")
        off = torchvision.ops.complete_box_iou_loss(corners, truth)
        wanted = torch.zeros_like(p[..., 4])
        wanted[picture, a, cy, cx] = (1 - off).detach().clamp(0)
        classes = F.one_hot(t[:, 1].long(), CLASSES).float()
        total = total + 0.05 * off.mean() + 0.5 * CLASSES / 80 * F.binary_cross_entropy_with_logits(found[:, 5:], classes)
        total = total + (args.size / 640) ** 2 * F.binary_cross_entropy_with_logits(p[..., 4], wanted)
    return total * 3 / len(maps)


def find(model, picture, anchors):
    x = (picture.float() / 255).contiguous(memory_format=torch.channels_last)
    boxes, scores = [], []
    for x, anchor in zip(model(x), anchors):
        _, _, h, w = x.shape
        p = x.view(len(anchor), 5 + CLASSES, h, w).permute(2, 3, 0, 1)
        cell = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), -1)[:, :, None]
        boxes.append(decode(p, cell, anchor, args.size / w).reshape(-1, 4))
        scores.append((p[..., 4:5].sigmoid() * p[..., 5:].sigmoid()).reshape(-1, CLASSES))
    boxes, scores = torch.cat(boxes), torch.cat(scores)
    row, label = (scores > 0.25).nonzero(as_tuple=True)
    box = torchvision.ops.box_convert(boxes[row], "cxcywh", "xyxy")
    return torchvision.ops.batched_nms(box, scores[row, label], label, 0.45)


def theirs():
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model = Darknet(args.cfg)
    if args.weights:
        model.read(args.weights)
    for layer, b in zip(model.layers, model.blocks[1:]):
        if b["type"] == "yolo":
            nn.init.constant_(layer[0].bias, -math.log(99))
    model = model.to(memory_format=torch.channels_last).train()
    count, boxes_each = args.pictures, 12
    pictures = torch.randint(0, 256, (count, 3, args.size, args.size), dtype=torch.uint8)
    sides = (torch.rand(count, boxes_each, 2) * 0.2 + 0.05) * args.size
    places = torch.rand(count, boxes_each, 2) * (args.size - sides) + sides / 2
    boxes = torch.cat([torch.zeros(count, boxes_each, 1), torch.randint(CLASSES, (count, boxes_each, 1)).float(), places,
                       sides], 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for _ in range(2):
        start = time.perf_counter()
        order = torch.randperm(count)
        for begin in range(0, count, args.batch):
            which = order[begin:begin + args.batch]
            x = (pictures[which].float() / 255).contiguous(memory_format=torch.channels_last)
            t = boxes[which].clone()
            t[:, :, 0] = torch.arange(len(which))[:, None]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16"):
                maps = model(x)
            loss = v5_loss([m.float() for m in maps], t.flatten(0, 1), model.anchors)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        seconds = time.perf_counter() - start
    model.eval()
    times = []
    with torch.inference_mode():
        for _ in range(60):
            start = time.perf_counter()
            find(model, pictures[:1], model.anchors)
            times.append(1e3 * (time.perf_counter() - start))
    print(f"images_per_second={count / seconds:.2f} milliseconds={statistics.median(times):.2f} pictures={count} "
          f"batch={args.batch} size={args.size} threads={args.threads}", flush=True)


def numbers(command):
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
    return {k: float(v) for k, v in (word.split("=") for word in line.split())}


if args.program is None:
    theirs()
else:
    options = ["--cfg", args.cfg, *(["--weights", args.weights] if args.weights else [])]
    for name in ("pictures", "size", "batch", "threads", "precision"):
        options += [f"--{name}", str(getattr(args, name))]
    rounds = []
    for _ in range(args.rounds):
        b = numbers([sys.executable, __file__, *options])
        a = numbers([args.program, *options])
        rounds.append((a["images_per_second"] / b["images_per_second"], a["milliseconds"] / b["milliseconds"]))
        print(f"training {a['images_per_second']:.1f} and PyTorch {b['images_per_second']:.1f} pictures/s, ratio "
              f"{rounds[-1][0]:.2f}; one picture {a['milliseconds']:.2f} and {b['milliseconds']:.2f} ms, ratio "
              f"{rounds[-1][1]:.2f}", flush=True)
    print(f"medians: training x {statistics.median(r[0] for r in rounds):.2f}, latency x "
          f"{statistics.median(r[1] for r in rounds):.2f}")
