#!/usr/bin/env python3
"""Makes tests/data/parity/two_stage.json: what torchvision's parts of two-stage detectors compute, and what its four
published Faster R-CNNs make, with weights and pictures by formula, of three pictures of different sizes: proposals,
losses in training and detections.

    make_two_stage.py OUT_FOLDER

Needs torch and torchvision (made with torch 2.14.1 and torchvision 0.29.1).
"""
import os
import sys

import torch
import torchvision
from torchvision.models import detection
from torchvision.models.detection import _utils, anchor_utils, backbone_utils, faster_rcnn, rpn
from torchvision.ops import FrozenBatchNorm2d

import formula
import zoo
from order import philox
from summary import summary, write

REGIONS = 10  # the purpose of include/transferlib/core/random.hpp
SEED, PASS = 7, 3


class Random:
    """The Random of include/transferlib/core/random.hpp."""

    def __init__(self, seed, purpose, first, second):
        self.high = (second << 32) | purpose
        mixed = philox(seed, first, self.high)
        self.key, self.counter, self.words = (mixed[1] << 32) | mixed[0], 0, []

    def bits(self):
        if not self.words:
            self.words = list(philox(self.key, self.counter, self.high))
            self.counter += 1
        return self.words.pop(0)

    def below(self, n):
        limit = (1 << 64) - 1 - ((1 << 64) - 1) % n
        while (draw := (self.bits() << 32) | self.bits()) >= limit:
            pass
        return draw % n


def sample(labels, count, fraction, random):
    """sample_balanced of include/transferlib/detect/matcher.hpp."""

    def draw(found, n):
        found = found.tolist()
        n = min(n, len(found))
        for i in range(n):
            j = i + random.below(len(found) - i)
            found[i], found[j] = found[j], found[i]
        return sorted(found[:n])

    positive = draw(torch.where(labels >= 1)[0], int(count * fraction))
    return positive, draw(torch.where(labels == 0)[0], count - len(positive))


class FixedSampler(_utils.BalancedPositiveNegativeSampler):
    """Draws as the library does, from (seed, pass, picture, stage)."""

    def __call__(self, labels):
        stage = int(self.positive_fraction != 0.5)
        positive, negative = [], []
        for picture, own in enumerate(labels):
            random = Random(SEED, REGIONS, PASS, 2 * picture + stage)
            drawn = sample(own, self.batch_size_per_image, self.positive_fraction, random)
            for masks, indices in zip((positive, negative), drawn):
                mask = torch.zeros_like(own, dtype=torch.uint8)
                mask[indices] = 1
                masks.append(mask)
        return positive, negative


# -------------------------------------------------------------------------------------------------------------- parts
def random_boxes(count, extent, side):
    corner = torch.rand(count, 2) * extent
    return torch.cat([corner, corner + torch.rand(count, 2) * side + 1], 1).mul(8).round().div(8)


def pooling():
    """Boxes inside, across and outside a map's borders, without area, and turned."""
    x = torch.linspace(-2, 2, 2 * 5 * 9 * 11).mul(3.7).sin().view(2, 5, 9, 11)
    boxes = torch.tensor([[0, 3, 4, 20, 25], [1, -9, -7, 14, 12], [0, 20, 10, 60, 50], [1, 8, 8, 8, 8],
                          [0, 16, 12, 12, 9], [1, 0, 0, 43.5, 35.25], [0, 100, 90, 140, 120], [1, 5.5, 2.25, 9.75, 30]])
    out = {"boxes": boxes.tolist(), "align": [], "pool": []}
    weights = torch.arange(8 * 5 * 3 * 2).float().sin().view(8, 5, 3, 2)
    for aligned in (False, True):
        for sampling in (0, 1, 2, 3):
            map_ = x.clone().requires_grad_()
            y = torchvision.ops.roi_align(map_, boxes, (3, 2), 0.25, sampling or -1, aligned)
            (y * weights).sum().backward()
            out["align"].append({"aligned": aligned, "sampling": sampling, "value": summary(y, 60),
                                 "gradient": summary(map_.grad, 60)})
    map_ = x.clone().requires_grad_()
    y = torchvision.ops.roi_pool(map_, boxes, (3, 2), 0.25)
    (y * weights).sum().backward()
    out["pool"] = {"value": summary(y, 60), "gradient": summary(map_.grad, 60)}

    maps = {str(i): torch.linspace(-1, 1, 2 * 4 * s * s).mul(5.1).sin().view(2, 4, s, s)
            for i, s in enumerate((64, 32, 16, 8))}
    some = [random_boxes(9, 150, 100), torch.cat([random_boxes(5, 60, 30), torch.tensor([[0.0, 0, 255, 250],
                                                                                         [3.0, 3, 4, 4]])])]
    pooler = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 3, 2)
    value = pooler(maps, some, [(256, 256), (200, 256)])
    levels = pooler.map_levels([torch.tensor([[0, 0, s, s * 1.5]]) for s in (1.0, 40, 90, 91, 92, 180, 300, 500, 9999)])
    out["scales"] = {"boxes": [b.tolist() for b in some], "value": summary(value, 60), "levels": levels.tolist()}
    return out


def parts():
    torch.manual_seed(2)
    out = {"pooling": pooling()}

    generator = anchor_utils.AnchorGenerator(((32, 48), (64, 100), (128, 201)), ((0.5, 1.0, 2.0),) * 3)
    maps = [torch.zeros(1, 1, *s) for s in ((12, 16), (6, 8), (4, 5))]
    images = detection.image_list.ImageList(torch.zeros(1, 3, 97, 131), [(97, 131)])
    anchors = generator(images, maps)[0]
    out["anchors"] = {"cells": [c.tolist() for c in generator.cell_anchors], "all": summary(anchors, 200)}

    boxes, references = random_boxes(20, 80, 60), random_boxes(20, 80, 60)
    out["coder"] = {"boxes": boxes.tolist(), "references": references.tolist(), "cases": []}
    for weights in ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)):
        coder = _utils.BoxCoder(weights)
        codes = torch.randn(20, 4).mul(20).round().div(2)
        out["coder"]["cases"].append({
            "weights": weights, "encoded": coder.encode_single(boxes, references).tolist(), "codes": codes.tolist(),
            "decoded": coder.decode_single(codes, references).tolist()})

    truth, many = random_boxes(7, 300, 120), random_boxes(400, 300, 120)
    many[100:107] = truth  # found exactly
    many[200], many[201] = many[300], many[300]  # ties
    truth[5] = truth[2]  # twice there
    out["matcher"] = {"truth": truth.tolist(), "boxes": many.tolist(), "cases": []}
    quality = torchvision.ops.box_iou(truth, many)
    for positive, negative, low in ((0.7, 0.3, True), (0.5, 0.5, False), (0.6, 0.4, False), (0.9, 0.2, True)):
        matches = _utils.Matcher(positive, negative, low)(quality)
        drawn = sample(matches + 1, 64, 0.25, Random(3, REGIONS, 5, 11))
        out["matcher"]["cases"].append({"positive": positive, "negative": negative, "low_quality": low,
                                        "matches": matches.tolist(), "sample": drawn})

    # Proposals, by torchvision's way for many boxes: its shortcut for few moves levels apart, which rounds.
    counts = [250, 80, 20]
    anchors = torch.cat([random_boxes(n, 250, s) for n, s in zip(counts, (30, 60, 120))])
    network = rpn.RegionProposalNetwork(None, None, 0.7, 0.3, 256, 0.5, dict(training=9, testing=110),
                                        dict(training=9, testing=80), 0.6, 0.1).eval()
    codes = torch.randn(2, 350, 4).mul(400).round().div(1000)
    objectness = torch.stack([torch.randperm(350), torch.randperm(350)]).sub(140).div(64).unsqueeze(2)  # no ties
    decoded = network.box_coder.decode(codes.reshape(-1, 4), [anchors, anchors]).view(2, -1, 4)
    trick, torchvision.ops.boxes._batched_nms_coordinate_trick = (
        torchvision.ops.boxes._batched_nms_coordinate_trick, torchvision.ops.boxes._batched_nms_vanilla)
    found = network.filter_proposals(decoded, objectness.flatten(), [(256, 256), (200, 180)], counts)
    torchvision.ops.boxes._batched_nms_coordinate_trick = trick
    out["proposals"] = {"anchors": anchors.tolist(), "codes": codes.tolist(), "objectness": objectness.tolist(),
                        "counts": counts, "boxes": [b.tolist() for b in found[0]],
                        "scores": [s.tolist() for s in found[1]]}
    return out


# ------------------------------------------------------------------------------------------------------------- models
SIDES = {"min_size": 64, "max_size": 120}
SHAPES = [(50, 70), (90, 60), (64, 64)]  # height, width
TRUTH = [[[5, 8, 30, 40], [40, 10, 66, 45]], [[10, 20, 50, 80]], []]
LABELS = [[3, 90], [17], []]


def gain(name):
    """So that the pyramid's maps have a deviation of about 1, classes differ, and boxes stay near their anchors."""
    if "mobilenet" in name:
        out = [(f"block.{i}.1.weight", 0.5) for i in (1, 2, 3)] + [(f"inner_blocks.{i}.0.weight", 0.2) for i in (0, 1)]
    else:
        out = [("bn3.weight", 0.3)] + [(f"inner_blocks.{i}.0.weight", 0.05) for i in range(4)]
    return out + [("cls_logits.weight", 0.7), ("rpn.head.bbox_pred.weight", 0.15), ("cls_score.weight", 2.0),
                  ("box_predictor.bbox_pred.weight", 1.0)]


def models():
    def resnet():
        backbone = torchvision.models.resnet50(norm_layer=FrozenBatchNorm2d)
        model = detection.FasterRCNN(backbone_utils._resnet_fpn_extractor(backbone, 3), 91, **SIDES)
        _utils.overwrite_eps(model, 0.0)
        return model

    def second():
        model = detection.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, **SIDES)
        for name, parameter in model.backbone.body.named_parameters():
            parameter.requires_grad_(name.startswith(("layer2", "layer3", "layer4")))
        return model

    def mobile(**options):
        backbone = torchvision.models.mobilenet_v3_large(norm_layer=FrozenBatchNorm2d)
        sizes = ((32, 64, 128, 256, 512),) * 3
        return detection.FasterRCNN(
            backbone_utils._mobilenet_extractor(backbone, True, 3), 91,
            rpn_anchor_generator=anchor_utils.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3), rpn_score_thresh=0.05,
            **SIDES, **options)

    return {"fasterrcnn_resnet50_fpn": resnet, "fasterrcnn_resnet50_fpn_v2": second,
            "fasterrcnn_mobilenet_v3_large_fpn": mobile,
            "fasterrcnn_mobilenet_v3_large_320_fpn":
                lambda: mobile(rpn_pre_nms_top_n_test=150, rpn_post_nms_top_n_test=150)}


def picture(number, height, width):
    return formula.pictures(number + 1, 96)[number, :, :height, :width].float() / 255


def train_mode(model):
    """Training as the library has it: what is frozen is in evaluation."""
    model.train()
    if hasattr(model.backbone.body, "bn1"):
        model.backbone.body.bn1.eval()
        model.backbone.body.layer1.eval()


def results(model, trains):
    pictures = [picture(i, *shape) for i, shape in enumerate(SHAPES)]
    seen = {}

    def keep(module, given, result):
        seen["proposals"], seen["losses"] = [b.detach() for b in result[0]], result[1]

    model.rpn.register_forward_hook(keep)
    model.eval()
    with torch.no_grad():
        found = model(pictures)
        proposals = seen["proposals"]
    out = {
        "proposals": [{"count": len(p), "boxes": p[:30].tolist(), "all": summary(p)} for p in proposals],
        "detections": [{"count": len(f["boxes"]), "boxes": f["boxes"][:20].tolist(), "scores": f["scores"][:20].tolist(),
                        "labels": (f["labels"][:20] - 1).tolist()} for f in found],
    }
    print([len(p) for p in proposals], [len(f["boxes"]) for f in found], [f["scores"].max().item() for f in found])
    if not trains:
        return out
    train_mode(model)
    for module in (model.rpn, model.roi_heads):
        module.fg_bg_sampler.__class__ = FixedSampler
    targets = [{"boxes": torch.tensor(b).float().reshape(-1, 4), "labels": torch.tensor(l).long()}
               for b, l in zip(TRUTH, LABELS)]
    losses = model(pictures, targets)
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    wanted = [n for n in gradients if n.endswith(("fc6.weight", "box_head.5.weight", "cls_logits.weight",
                                                  "inner_blocks.0.0.weight", "layer3.0.conv1.weight",
                                                  "body.13.block.0.0.weight"))]
    print({k: v.item() for k, v in losses.items()})
    return {**out, "losses": {k: v.item() for k, v in losses.items()},
            "gradients": {n: summary(gradients[n]) for n in wanted}, "trained": len(gradients)}


def main(folder):
    torch.set_num_threads(1)
    out = {"parts": parts(), "seed": SEED, "pass": PASS, "sides": SIDES, "shapes": SHAPES, "truth": TRUTH,
           "labels": LABELS, "models": {}}
    for name, make in models().items():
        model = make()
        zoo.fill(model, gain(name))
        out["models"][name] = {"gain": gain(name), "tensors": len(model.state_dict()), **results(model, "320" not in name)}
    write(os.path.join(folder, "two_stage.json"), out)


if __name__ == "__main__":
    main(sys.argv[1])
