#!/usr/bin/env python3
"""Makes tests/data/parity/yolo.json: what YOLO's heads and necks compute, written down once more from the papers and
from darknet's documentation, cell by cell and object by object, where the library works on whole tensors.

    make_yolo.py OUT_FILE

Needs torch and torchvision (made with torch 2.14.1 and torchvision 0.29.1); the losses of boxes are torchvision's.
"""
import math
import sys

import torch
import torch.nn.functional as F
import torchvision.ops as ops

import formula
from summary import summary, write

PICTURE_W, PICTURE_H, CLASSES, PICTURES = 96, 64, 3, 3
STRIDES = [8, 16, 32]
ANCHORS = [[(6, 8), (12, 10)], [(20, 16), (16, 30)], [(40, 36), (60, 50)]]
# Picture, class, x, y, width, height. Two small ones share a cell and its best anchor; one has its centre where four
# cells of every map meet; one lies at the border.
OBJECTS = [(0, 0, 9, 10, 7, 9), (0, 1, 10, 11, 6, 8), (0, 2, 20, 5, 56, 52), (0, 1, 54, 24, 20, 16), (2, 2, 80, 40, 15, 23),
           (2, 0, 3.3, 30.7, 19, 28.5), (2, 1, 41.2, 9.9, 11, 13)]


def overlap_loss(kind, predicted, truth):
    """One less the overlap of two boxes (centre, size)."""
    a, b = (ops.box_convert(x[None], "cxcywh", "xyxy") for x in (predicted, truth))
    if kind == "iou":
        return 1 - plain_iou(a[0], b[0])
    return {"giou": ops.generalized_box_iou_loss, "diou": ops.distance_box_iou_loss,
            "ciou": ops.complete_box_iou_loss}[kind](a, b)[0]


def plain_iou(a, b):
    wide = (torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])).clamp(min=0)
    high = (torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])).clamp(min=0)
    both = wide * high
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both + 1e-7)


def shape_iou(a, b):
    both = min(a[0], b[0]) * min(a[1], b[1])
    return both / (a[0] * a[1] + b[0] * b[1] - both)


def entropy(logit, target, gamma=0.0):
    """Binary cross entropy; with gamma torchvision's focal loss."""
    if gamma:
        return ops.sigmoid_focal_loss(logit, target, 0.25, gamma, reduction="none")
    return F.softplus(logit) - logit * target


class Objects:
    """The objects of a picture: classes, and centre and size in pixels."""

    def __init__(self, picture):
        mine = [o for o in OBJECTS if o[0] == picture]
        self.labels = [o[1] for o in mine]
        self.boxes = [(o[2] + o[4] / 2, o[3] + o[5] / 2, o[4], o[5]) for o in mine]

    def tensor(self, i):
        return torch.tensor(self.boxes[i], dtype=torch.float64)


TRUTH = [Objects(n) for n in range(PICTURES)]


class Version:
    """A YOLO's numbers; the names are those of the library's options."""

    def __init__(self, **changes):
        self.strides, self.anchors = STRIDES, ANCHORS
        self.sizes, self.sensitivity, self.classes = "exponential", [1.0], "logistic"
        self.matching, self.anchor_threshold, self.ignore_threshold = "best", 1.0, 0.5
        self.box_loss, self.objectness, self.scale = None, "one", "pictures"
        self.box_weight = self.objectness_weight = self.class_weight = self.object_weight = 1.0
        self.balance, self.smoothing, self.gamma, self.reach, self.most = [1.0], 0.0, 0.0, 0.5, 10
        self.auxiliary = False
        self.__dict__.update(changes)

    def level(self, name, l):
        values = getattr(self, name)
        return values[0] if len(values) == 1 else values[l]


def version_maps(v, prefix):
    """Raw maps by formula, as leaves of autograd."""
    out = []
    for l, s in enumerate(v.strides):
        shape = (PICTURES, len(v.anchors[l]) * (5 + CLASSES), PICTURE_H // s, PICTURE_W // s)
        u = torch.from_numpy(formula.uniform(f"{prefix}.{l}", math.prod(shape))).reshape(shape)
        out.append(((u - 0.5) * 4).requires_grad_())
    return out


class Slot:
    """One prediction: the numbers of an anchor in a cell."""

    def __init__(self, v, maps, n, l, a, row, column):
        first = a * (5 + CLASSES)
        t = maps[l][n, first:first + 5 + CLASSES, row, column]
        self.xy, self.wh, self.sure, self.logits = t[:2], t[2:4], t[4], t[5:]
        self.cell, self.anchor, self.stride = (column, row), v.anchors[l][a], v.strides[l]
        s = v.level("sensitivity", l)
        x = (torch.sigmoid(t[0]) * s - (s - 1) / 2 + column) * self.stride
        y = (torch.sigmoid(t[1]) * s - (s - 1) / 2 + row) * self.stride
        if v.sizes == "exponential":
            w, h = self.anchor[0] * torch.exp(t[2]), self.anchor[1] * torch.exp(t[3])
        else:
            w, h = (self.anchor[k] * (2 * torch.sigmoid(t[2 + k])) ** 2 for k in (0, 1))
        self.box = torch.stack([x, y, w, h])


def slots(v, maps):
    """Every prediction by its key (picture, level, anchor, row, column)."""
    return {(n, l, a, r, c): Slot(v, maps, n, l, a, r, c) for l, m in enumerate(maps) for n in range(m.shape[0])
            for a in range(len(v.anchors[l])) for r in range(m.shape[2]) for c in range(m.shape[3])}


def match_best(v):
    """{key: [objects, in order]} by the best shape of all anchors."""
    out = {}
    for n, truth in enumerate(TRUTH):
        for i, (x, y, w, h) in enumerate(truth.boxes):
            overlaps = {(l, a): shape_iou((w, h), v.anchors[l][a]) for l in range(len(v.strides))
                        for a in range(len(v.anchors[l]))}
            best = max(overlaps, key=overlaps.get)
            for (l, a), o in overlaps.items():
                if (l, a) == best or (v.anchor_threshold < 1 and o > v.anchor_threshold):
                    key = (n, l, a, int(y // v.strides[l]), int(x // v.strides[l]))
                    out.setdefault(key, []).append(i)
    return out


def match_ratio(v, reach):
    """[(key, object)], the five places of v5 one after the other: in the cell, left, above, right, below."""
    out = []
    for l, s in enumerate(v.strides):
        columns, rows = PICTURE_W // s, PICTURE_H // s
        for n, truth in enumerate(TRUTH):
            for i, (x, y, w, h) in enumerate(truth.boxes):
                for a, (aw, ah) in enumerate(v.anchors[l]):
                    if max(w / aw, aw / w, h / ah, ah / h) >= 4:
                        continue
                    gx, gy = x / s, y / s
                    moves = [(0, 0)]
                    if gx % 1 < reach and gx > 1:
                        moves.append((-reach, 0))
                    if gy % 1 < reach and gy > 1:
                        moves.append((0, -reach))
                    if (columns - gx) % 1 < reach and columns - gx > 1:
                        moves.append((reach, 0))
                    if (rows - gy) % 1 < reach and rows - gy > 1:
                        moves.append((0, reach))
                    for dx, dy in moves:
                        column, row = int(gx + dx), int(gy + dy)
                        out.append(((n, l, a, min(row, rows - 1), min(column, columns - 1)), i))
    return out


def dynamic_k(costs, ious, most):
    """SimOTA's second half: costs[i][p] of object i and prediction p. {p: i}."""
    wanted = {}
    for i, row in enumerate(costs):
        best = sorted(ious[i], reverse=True)[:most]
        k = max(1, int(sum(best)))
        for p in sorted(range(len(row)), key=row.__getitem__)[:k]:
            wanted.setdefault(p, []).append(i)
    return {p: i[0] if len(i) == 1 else min(range(len(costs)), key=lambda g: costs[g][p]) for p, i in wanted.items()}


def ota_cost(probabilities, label, iou):
    wanted = F.one_hot(torch.tensor(label), CLASSES).double()
    return (F.binary_cross_entropy(probabilities, wanted, reduction="sum") - 3 * torch.log(torch.tensor(iou + 1e-8))).item()


def corners(box):
    return ops.box_convert(box[None], "cxcywh", "xyxy")[0]


def match_simota(v, every, reach, most):
    allowed = match_ratio(v, reach)
    out = []
    for n, truth in enumerate(TRUTH):
        keys = sorted({key for key, _ in allowed if key[0] == n}, key=lambda k: (k[1], k))
        if not keys:
            continue
        ious, costs = [], []
        for i, label in enumerate(truth.labels):
            row = [ops.box_iou(corners(truth.tensor(i))[None], corners(every[k].box.detach())[None]).item() for k in keys]
            ious.append(row)
            costs.append([ota_cost(torch.sqrt(torch.sigmoid(every[k].logits) * torch.sigmoid(every[k].sure)).detach(),
                                   label, iou) for k, iou in zip(keys, row)])
        out += [(keys[p], i) for p, i in dynamic_k(costs, ious, most).items()]
    return out


def darknet_box_error(v, slot, level, truth):
    """Cross entropy of the centre and half the squared error of the logarithms, more for small objects."""
    s = v.level("sensitivity", level)
    x, y, w, h = truth
    place = [((p / slot.stride - c) + (s - 1) / 2) / s for p, c in zip((x, y), slot.cell)]
    error = sum(entropy(slot.xy[k], min(max(place[k], 0.0), 1.0)) for k in (0, 1))
    for k, side in enumerate((w, h)):
        if v.sizes == "exponential":
            error = error + (slot.wh[k] - math.log(side / slot.anchor[k])) ** 2 / 2
        else:
            error = error + (torch.sigmoid(slot.wh[k]) - math.sqrt(side / slot.anchor[k]) / 2) ** 2 / 2
    return error * (2 - w * h / (PICTURE_W * PICTURE_H))


def losses(v, maps, every, matches):
    """matches: [(key, object that counts, all objects)]. The three sums."""
    total = {"box": 0.0, "objectness": 0.0, "class": 0.0}
    for l in range(len(v.strides)):
        here = [m for m in matches if m[0][1] == l]
        sure_target, box, classes = {}, 0.0, 0.0
        for key, i, everyone in here:
            slot, truth = every[key], TRUTH[key[0]]
            off = overlap_loss(v.box_loss or "iou", slot.box, truth.tensor(i))
            box = box + (off if v.box_loss else darknet_box_error(v, slot, l, truth.boxes[i]))
            target = 1.0 if v.objectness == "one" else max(0.0, 1 - off.item())
            sure_target[key] = max(target, sure_target.get(key, 0.0))
            if v.classes == "softmax":
                classes = classes - torch.log_softmax(slot.logits, 0)[truth.labels[i]]
            else:
                wanted = torch.zeros(CLASSES, dtype=torch.float64)
                wanted[[truth.labels[j] for j in everyone]] = 1
                classes = classes + entropy(slot.logits, wanted * (1 - v.smoothing) + v.smoothing / 2, v.gamma).sum()
        sure = 0.0
        for key, slot in every.items():
            if key[1] != l:
                continue
            if key in sure_target:
                sure = sure + v.object_weight * entropy(slot.sure, torch.tensor(sure_target[key]).double(), v.gamma)
                continue
            if v.matching == "best":
                box_now = corners(slot.box.detach())
                truth = TRUTH[key[0]]
                if any(ops.box_iou(box_now[None], corners(truth.tensor(i))[None]).item() > v.ignore_threshold
                       for i in range(len(truth.labels))):
                    continue
            sure = sure + entropy(slot.sure, torch.zeros_like(slot.sure), v.gamma)
        sure = sure * v.level("balance", l)
        if v.scale == "pictures":
            parts = box / PICTURES, sure / PICTURES, classes / PICTURES
        else:
            count = sum(key[1] == l for key in every)
            maps_factor = 3 / len(v.strides)
            parts = (box / max(1, len(here)) * maps_factor,
                     sure / count * (PICTURE_W * PICTURE_H / 640 ** 2) * maps_factor,
                     classes / (max(1, len(here)) * CLASSES) * (CLASSES / 80) * maps_factor)
        for name, part in zip(total, parts):
            total[name] = total[name] + part
    return total


def pairs(v, every, reach, most):
    if v.matching == "best":
        return [(key, i[-1], i) for key, i in match_best(v).items()]
    found = match_ratio(v, reach) if v.matching == "ratio" else match_simota(v, every, reach, most)
    return [(key, i, [i]) for key, i in found]


def run(v):
    maps = version_maps(v, "lead")
    every = slots(v, maps)
    total = losses(v, maps, every, pairs(v, every, v.reach, v.most))
    leaves = list(maps)
    if v.auxiliary:
        second = version_maps(v, "auxiliary")
        leaves += second
        other = losses(v, second, slots(v, second), pairs(v, every, 1.0, v.most))
        total = {k: total[k] + 0.25 * other[k] for k in total}
    weights = {"box": v.box_weight, "objectness": v.objectness_weight, "class": v.class_weight}
    total = {k: t * weights[k] for k, t in total.items()}
    sum(total.values()).backward()
    return {"terms": {k: t.item() for k, t in total.items()}, "gradients": [summary(m.grad) for m in leaves],
            "found": predictions([(s.box, torch.sigmoid(s.sure) * (torch.softmax(s.logits, 0) if v.classes == "softmax"
                                                                     else torch.sigmoid(s.logits)))
                                  for k, s in every.items() if k[0] == 0])}


def predictions(scored):
    """Of a picture's boxes and classes the 20 surest, without suppression: [class, score, x1, y1, x2, y2]."""
    rows = [[c, p[c].item(), *corners(box).tolist()] for box, p in scored for c in range(CLASSES)]
    return sorted(rows, key=lambda r: -r[1])[:20]


VERSIONS = {
    "v2": Version(strides=[32], anchors=[[(8, 9), (20, 25), (50, 48)]], classes="softmax", ignore_threshold=0.6,
                  objectness="overlap", object_weight=5.0),
    "v3": Version(ignore_threshold=0.5),
    "v4": Version(sensitivity=[1.2, 1.1, 1.05], anchor_threshold=0.213, box_loss="ciou", box_weight=0.07, smoothing=0.1,
                  ignore_threshold=0.5),
    "v5": Version(sizes="squared", sensitivity=[2.0], matching="ratio", box_loss="ciou", objectness="overlap",
                  scale="means", box_weight=0.05, class_weight=0.5, balance=[4.0, 1.0, 0.4]),
    "v5_focal": Version(sizes="squared", sensitivity=[2.0], matching="ratio", box_loss="giou", objectness="overlap",
                        scale="means", box_weight=0.05, class_weight=0.5, balance=[4.0, 1.0, 0.4], gamma=1.5),
    "v7": Version(sizes="squared", sensitivity=[2.0], matching="simota", box_loss="ciou", objectness="overlap",
                  scale="means", box_weight=0.05, objectness_weight=0.7, class_weight=0.3, balance=[4.0, 1.0, 0.4]),
    "v7_auxiliary": Version(sizes="squared", sensitivity=[2.0], matching="simota", box_loss="ciou",
                            objectness="overlap", scale="means", box_weight=0.05, objectness_weight=0.7,
                            class_weight=0.3, balance=[4.0, 1.0, 0.4], auxiliary=True, most=20),
}


def run_yolox():
    maps = []
    for l, s in enumerate(STRIDES):
        shape = (PICTURES, 5 + CLASSES, PICTURE_H // s, PICTURE_W // s)
        maps.append(((torch.from_numpy(formula.uniform(f"yolox.{l}", math.prod(shape))).reshape(shape) - 0.5) * 4)
                    .requires_grad_())
    every = {}
    for l, s in enumerate(STRIDES):
        for n in range(PICTURES):
            for r in range(PICTURE_H // s):
                for c in range(PICTURE_W // s):
                    t = maps[l][n, :, r, c]
                    every[n, l, r, c] = (torch.stack([(t[0] + c) * s, (t[1] + r) * s, t[2].exp() * s, t[3].exp() * s]),
                                         t[4], t[5:])
    matched = {}
    for n, truth in enumerate(TRUTH):
        def near(key, i):
            s = STRIDES[key[1]]
            return max(abs((key[3] + 0.5) * s - truth.boxes[i][0]), abs((key[2] + 0.5) * s - truth.boxes[i][1])) < 1.5 * s
        keys = [k for k in every if k[0] == n and any(near(k, i) for i in range(len(truth.labels)))]
        ious, costs = [], []
        for i, label in enumerate(truth.labels):
            ious.append([ops.box_iou(corners(truth.tensor(i))[None], corners(every[k][0].detach())[None]).item()
                         for k in keys])
            costs.append([ota_cost(torch.sqrt(torch.sigmoid(every[k][2]) * torch.sigmoid(every[k][1])).detach(), label,
                                   iou) + (0 if near(k, i) else 1e6) for k, iou in zip(keys, ious[-1])])
        for p, i in dynamic_k(costs, ious, 10).items():
            matched[keys[p]] = (i, ious[i][p])
    box = classes = sure = 0.0
    for key, (b, s, logits) in every.items():
        sure = sure + entropy(s, 1.0 if key in matched else 0.0)
        if key in matched:
            i, iou = matched[key]
            truth = TRUTH[key[0]]
            box = box + 1 - plain_iou(corners(b), corners(truth.tensor(i))) ** 2
            classes = classes + entropy(logits, F.one_hot(torch.tensor(truth.labels[i]), CLASSES) * iou).sum()
    found = len(matched)
    total = {"box": 5 * box / found, "objectness": sure / found, "class": classes / found}
    sum(total.values()).backward()
    return {"terms": {k: t.item() for k, t in total.items()}, "gradients": [summary(m.grad) for m in maps],
            "matched": found,
            "found": predictions([(b, torch.sigmoid(s) * torch.sigmoid(c)) for k, (b, s, c) in every.items()
                                  if k[0] == 0])}


def run_v1(side=4, boxes=2):
    """A grid of 4 x 4 cells; the values lie as darknet's `[detection]` has them."""
    cells = side * side
    values = torch.from_numpy(formula.uniform("v1", PICTURES * cells * (CLASSES + 5 * boxes))).reshape(PICTURES, -1)
    values.requires_grad_()
    box = sure = classes = 0.0
    scored = []
    for n, truth in enumerate(TRUTH):
        taken = {}
        for i, (x, y, _, _) in enumerate(truth.boxes):
            taken.setdefault((int(y / PICTURE_H * side), int(x / PICTURE_W * side)), i)
        for r in range(side):
            for c in range(side):
                at = r * side + c
                p = values[n, at * CLASSES:(at + 1) * CLASSES]
                conf = values[n, cells * CLASSES + at * boxes:][:boxes]
                raw = values[n, cells * (CLASSES + boxes) + at * boxes * 4:][:boxes * 4].reshape(boxes, 4)
                full = torch.stack([(raw[:, 0] + c) / side, (raw[:, 1] + r) / side, raw[:, 2] ** 2, raw[:, 3] ** 2], 1)
                if n == 0:
                    size = torch.tensor([PICTURE_W, PICTURE_H] * 2)
                    scored += [(full[b] * size, conf[b] * p) for b in range(boxes)]
                if (r, c) not in taken:
                    sure = sure + 0.5 * (conf ** 2).sum()
                    continue
                i = taken[r, c]
                wanted = [v / s for v, s in zip(truth.boxes[i], (PICTURE_W, PICTURE_H) * 2)]
                w = torch.tensor(wanted, dtype=torch.float64)
                ious = [plain_iou(corners(full[b].detach()), corners(w)).item() for b in range(boxes)]
                if max(ious) > 0:
                    best = ious.index(max(ious))
                else:
                    off = [((full[b].detach() - w) ** 2).sum().item() for b in range(boxes)]
                    best = off.index(min(off))
                goal = torch.tensor([wanted[0] * side - c, wanted[1] * side - r, wanted[2] ** 0.5, wanted[3] ** 0.5])
                box = box + 5 * ((raw[best] - goal) ** 2).sum()
                sure = sure + (conf[best] - ious[best]) ** 2
                sure = sure + 0.5 * sum(conf[b] ** 2 for b in range(boxes) if b != best)
                classes = classes + ((p - F.one_hot(torch.tensor(truth.labels[i]), CLASSES)) ** 2).sum()
    total = {"box": box / PICTURES, "objectness": sure / PICTURES, "class": classes / PICTURES}
    sum(total.values()).backward()
    return {"terms": {k: t.item() for k, t in total.items()}, "gradients": [summary(values.grad)],
            "found": predictions(scored)}


# ------------------------------------------------------------------------------------------------------------- networks


class Net:
    """Blocks as functions of the names of their weights, which are the formula's."""

    def __init__(self, activation, epsilon=1e-3):
        self.activation, self.epsilon, self.count = activation, epsilon, 0

    def act(self, x):
        return {"silu": F.silu, "leaky": lambda y: F.leaky_relu(y, 0.1), "mish": F.mish}[self.activation](x)

    def weight(self, name, *shape):
        out = formula.values(name, shape)
        self.count += out.numel() if "running" not in name else 0
        return out

    def norm(self, name, x):
        c = x.shape[1]
        mean, var = self.weight(name + ".running_mean", c), self.weight(name + ".running_var", c)
        w, b = self.weight(name + ".weight", c), self.weight(name + ".bias", c)
        return F.batch_norm(x, mean, var, w, b, False, 0.0, self.epsilon)

    def conv(self, name, x, out, k=1, s=1, groups=1):
        w = self.weight(name + ".conv.weight", out, x.shape[1] // groups, k, k)
        return self.act(self.norm(name + ".bn", F.conv2d(x, w, None, s, k // 2, 1, groups)))

    def any_conv(self, name, x, out, k, s=1, separable=False):
        if not separable or k == 1:
            return self.conv(name, x, out, k, s)
        x = self.conv(name + ".dconv", x, x.shape[1], k, s, x.shape[1])
        return self.conv(name + ".pconv", x, out)

    def c3(self, name, x, out, depth, shortcut, separable=False):
        y = self.conv(name + ".cv1", x, out // 2)
        for i in range(depth):
            z = self.any_conv(f"{name}.m.{i}.cv2", self.conv(f"{name}.m.{i}.cv1", y, out // 2), out // 2, 3, 1, separable)
            y = y + z if shortcut else z
        return self.conv(name + ".cv3", torch.cat([y, self.conv(name + ".cv2", x, out // 2)], 1), out)

    def sppf(self, name, x, out):
        y = self.conv(name + ".cv1", x, x.shape[1] // 2)
        return self.conv(name + ".cv2", torch.cat([y] + [F.max_pool2d(y, k, 1, k // 2) for k in (5, 9, 13)], 1), out)

    def sppcsp(self, name, x, out):
        y = self.conv(name + ".cv4", self.conv(name + ".cv3", self.conv(name + ".cv1", x, out), out, 3), out)
        y = torch.cat([y] + [F.max_pool2d(y, k, 1, k // 2) for k in (5, 9, 13)], 1)
        y = self.conv(name + ".cv6", self.conv(name + ".cv5", y, out), out, 3)
        return self.conv(name + ".cv7", torch.cat([y, self.conv(name + ".cv2", x, out)], 1), out)

    def elan(self, name, x, out, hidden, inner, depth=4, every=1):
        a, y = self.conv(name + ".cv1", x, hidden), self.conv(name + ".cv2", x, hidden)
        kept = [a, y]
        for i in range(depth):
            y = self.conv(f"{name}.m{i}", y, inner, 3)
            if i % every == every - 1:
                kept.append(y)
        return self.conv(name + ".cv3", torch.cat(kept[::-1], 1), out)

    def rep(self, name, x, out):
        def branch(which, k):
            w = self.weight(f"{name}.{which}.0.weight", out, x.shape[1], k, k)
            return self.norm(f"{name}.{which}.1", F.conv2d(x, w, None, 1, k // 2))
        y = branch("rbr_dense", 3) + branch("rbr_1x1", 1)
        return self.act(y + self.norm(name + ".rbr_identity", x) if x.shape[1] == out else y)

    def down_pair(self, name, x, out):
        y = self.conv(name + ".cv3", self.conv(name + ".cv2", x, out), out, 3, 2)
        return torch.cat([y, self.conv(name + ".cv1", F.max_pool2d(x, 2), out)], 1)

    def conv_set(self, name, x, half, count):
        for i in range(count):
            x = self.conv(f"{name}.{i}", x, half if i % 2 == 0 else 2 * half, 1 if i % 2 == 0 else 3)
        return x


def pool_all(x):
    return torch.cat([F.max_pool2d(x, k, 1, k // 2) for k in (13, 9, 5)] + [x], 1)


def twice(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def v3_neck(net, p, out, spp):
    y = net.conv_set("top.2.0" if spp else "top.2", p[2], out[2] // 2, 3 if spp else 5)
    if spp:
        y = net.conv_set("top.2.1", pool_all(y), out[2] // 2, 3)
    maps = [net.conv("last.2", y, out[2], 3)]
    for l in (1, 0):
        y = torch.cat([twice(net.conv(f"reduce.{l}", y, out[l] // 2)), p[l]], 1)
        y = net.conv_set(f"top.{l}", y, out[l] // 2, 5)
        maps.append(net.conv(f"last.{l}", y, out[l], 3))
    return maps[::-1]


def v4_neck(net, p, out):
    t5 = net.conv_set("top.2.1", pool_all(net.conv_set("top.2.0", p[2], out[2] // 2, 3)), out[2] // 2, 3)
    t4 = torch.cat([net.conv("lateral.1", p[1], out[1] // 2), twice(net.conv("reduce.1", t5, out[1] // 2))], 1)
    t4 = net.conv_set("top.1", t4, out[1] // 2, 5)
    t3 = torch.cat([net.conv("lateral.0", p[0], out[0] // 2), twice(net.conv("reduce.0", t4, out[0] // 2))], 1)
    b3 = net.conv_set("top.0", t3, out[0] // 2, 5)
    b4 = net.conv_set("bottom.1", torch.cat([net.conv("down.1", b3, out[1] // 2, 3, 2), t4], 1), out[1] // 2, 5)
    b5 = net.conv_set("bottom.2", torch.cat([net.conv("down.2", b4, out[2] // 2, 3, 2), t5], 1), out[2] // 2, 5)
    return [net.conv(f"last.{l}", b, out[l], 3) for l, b in enumerate((b3, b4, b5))]


def v5_neck(net, p, out, depth, separable):
    h10 = net.conv("top.2.1", net.sppf("top.2.0", p[2], out[2]), out[1])
    h13 = net.c3("top.1.0", torch.cat([twice(h10), p[1]], 1), out[1], depth, False, separable)
    h14 = net.conv("top.1.1", h13, out[0])
    h17 = net.c3("top.0.0", torch.cat([twice(h14), p[0]], 1), out[0], depth, False, separable)
    h18 = net.any_conv("down.1", h17, out[0], 3, 2, separable)
    h20 = net.c3("bottom.1", torch.cat([h18, h14], 1), out[1], depth, False, separable)
    h21 = net.any_conv("down.2", h20, out[1], 3, 2, separable)
    return [h17, h20, net.c3("bottom.2", torch.cat([h21, h10], 1), out[2], depth, False, separable)]


def v5n_backbone(net, x):
    maps = []
    x = net.act(net.norm("0.bn", F.conv2d(x, net.weight("0.conv.weight", 16, 3, 6, 6), None, 2, 2)))
    for number, out, depth in ((1, 32, 1), (3, 64, 2), (5, 128, 3), (7, 256, 1)):
        x = net.c3(str(number + 1), net.conv(str(number), x, out, 3, 2), out, depth, True)
        maps.append(x)
    return [*maps[:3], net.sppf("9", x, 256)]


def v7_neck(net, p, out, parallel):
    half = [c // 2 for c in out]

    def elan(name, x, c):
        if parallel == 1:
            return net.elan(name, x, c, c, c // 2)
        return sum(net.elan(f"{name}.{i}", x, c, c, c // 2) for i in range(parallel))
    h51 = net.sppcsp("top.2", p[2], half[2])
    h63 = elan("top.1", torch.cat([net.conv("lateral.1", p[1], half[1]), twice(net.conv("reduce.1", h51, half[1]))], 1),
               half[1])
    h75 = elan("top.0", torch.cat([net.conv("lateral.0", p[0], half[0]), twice(net.conv("reduce.0", h63, half[0]))], 1),
               half[0])
    h88 = elan("bottom.1", torch.cat([net.down_pair("down.1", h75, half[0]), h63], 1), half[1])
    h101 = elan("bottom.2", torch.cat([net.down_pair("down.2", h88, half[1]), h51], 1), half[2])
    return [net.rep(f"last.{l}", x, out[l]) for l, x in enumerate((h75, h88, h101))]


def v2_neck(net, p, out, fine):
    deep = net.conv("deep.1", net.conv("deep.0", p[2], out, 3), out, 3)
    y = net.conv("fine", p[1], fine)
    n, c, h, w = y.shape
    y = torch.stack([y[:, k // 4, (k % 4) // 2::2, k % 2::2] for k in range(4 * c)], 1)
    return [net.conv("joined", torch.cat([y, deep], 1), out, 3)]


def yolox_head(net, p, width, separable):
    def plain(name, x, out):
        return F.conv2d(x, net.weight(name + ".weight", out, x.shape[1], 1, 1), net.weight(name + ".bias", out))
    maps = []
    for l, x in enumerate(p):
        x = net.conv(f"stems.{l}", x, width)
        c = r = x
        for i in (0, 1):
            c = net.any_conv(f"cls_convs.{l}.{i}", c, width, 3, 1, separable)
            r = net.any_conv(f"reg_convs.{l}.{i}", r, width, 3, 1, separable)
        maps.append(torch.cat([plain(f"reg_preds.{l}", r, 4), plain(f"obj_preds.{l}", r, 1),
                               plain(f"cls_preds.{l}", c, CLASSES)], 1))
    return maps


def networks():
    pyramid = []
    for l, channels in enumerate((8, 12, 16)):
        shape = (2, channels, 24 >> l, 32 >> l)
        u = formula.uniform(f"pyramid.{l}", math.prod(shape))
        pyramid.append(torch.from_numpy(((u - 0.5) * 4).astype("float32")).reshape(shape))
    picture = formula.uniform("picture", 3 * 96 * 64)
    picture = torch.from_numpy(((picture - 0.5) * 4).astype("float32")).reshape(1, 3, 96, 64)
    out = (16, 24, 32)
    runs = {
        "v2": ("leaky", lambda net: v2_neck(net, pyramid, 24, 8)),
        "v3": ("leaky", lambda net: v3_neck(net, pyramid, out, False)),
        "v3_spp": ("leaky", lambda net: v3_neck(net, pyramid, out, True)),
        "v4": ("leaky", lambda net: v4_neck(net, pyramid, out)),
        "v4_mish": ("mish", lambda net: v4_neck(net, pyramid, out)),
        "v5": ("silu", lambda net: v5_neck(net, pyramid, out, 2, False)),
        "v5_separable": ("silu", lambda net: v5_neck(net, pyramid, out, 1, True)),
        "v5n_backbone": ("silu", lambda net: v5n_backbone(net, picture)),
        "v7": ("silu", lambda net: v7_neck(net, pyramid, out, 1)),
        "v7_extended": ("silu", lambda net: v7_neck(net, pyramid, out, 2)),
        "yolox": ("silu", lambda net: yolox_head(net, pyramid, 16, False)),
        "yolox_nano": ("silu", lambda net: yolox_head(net, pyramid, 16, True)),
        "c3": ("silu", lambda net: [net.c3("c3", pyramid[0], 12, 2, True)]),
        "elan": ("silu", lambda net: [net.elan("elan", pyramid[1], 16, 8, 8, 4, 2)]),
        "rep": ("silu", lambda net: [net.rep("rep", pyramid[0], 8)]),
    }
    done = {}
    for name, (activation, work) in runs.items():
        net = Net(activation)
        with torch.no_grad():
            maps = work(net)
        done[name] = {"parameters": net.count, "maps": [summary(m) for m in maps]}
    return done


def main(path):
    torch.set_num_threads(1)
    write(path, {"losses": {**{name: run(v) for name, v in VERSIONS.items()}, "yolox": run_yolox(), "v1": run_v1()},
                 "networks": networks()})


main(sys.argv[1])
