#!/usr/bin/env python3
"""Makes tests/data/parity/detect.json and average_precision.json: what torchvision, ensemble_boxes and pycocotools make
of boxes that are kept beside their answers, with references of soft NMS, DIoU-NMS and VOC's average precision written
here from their papers.

    make_detect.py OUT_FOLDER [BCCD_FOLDER]

Needs torch, torchvision, numpy, pycocotools and ensemble_boxes (for which a numba that does nothing is enough); made
with torchvision 0.29.1, pycocotools 2.0.11, ensemble_boxes 1.0.9. BCCD_FOLDER holds Annotations and ImageSets; without
it the numbers of BCCD that the old file has are kept.
"""
import contextlib
import copy
import io
import json
import math
import os
import sys
import xml.etree.ElementTree

import numpy as np
import torch
import torchvision.ops as ops
from ensemble_boxes import weighted_boxes_fusion
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


# ------------------------------------------------------------------------------------------------- average precision
def coco_numbers(truth, detections):
    """The twelve numbers, of all classes and of each."""
    with contextlib.redirect_stdout(io.StringIO()):
        there = COCO()
        there.dataset = copy.deepcopy(truth)
        there.createIndex()
        if detections:
            found = there.loadRes(copy.deepcopy(detections))
        else:  # loadRes looks at the first detection
            found = COCO()
            found.dataset = {**copy.deepcopy(truth), "annotations": []}
            found.createIndex()
        out = []
        categories = sorted(c["id"] for c in truth["categories"])
        for chosen in [categories] + [[c] for c in categories]:
            evaluation = COCOeval(there, found, "bbox")
            evaluation.params.catIds = chosen
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            out.append([float(x) for x in evaluation.stats])
    return {"numbers": out[0], "classes": out[1:]}


def voc_iou(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both) if both > 0 else 0.0


def voc_numbers(truth, detections, difficult, eleven, threshold=0.5):
    """The development kit's VOCevaldet, a class after the other; `difficult` are annotations' ids."""
    out = []
    for category in sorted(c["id"] for c in truth["categories"]):
        there = [a for a in truth["annotations"] if a["category_id"] == category]
        found = [d for d in detections if d["category_id"] == category]
        # Of equal scores: the lower image, then the first.
        found.sort(key=lambda d: (-d["score"], d["image_id"]))
        wanted = sum(a["id"] not in difficult for a in there)
        taken, tp, fp = set(), [], []
        for d in found:
            candidates = [a for a in there if a["image_id"] == d["image_id"]]
            overlaps = [voc_iou(d["bbox"], a["bbox"]) for a in candidates]
            best = int(np.argmax(overlaps)) if candidates else -1
            right = wrong = 0
            if candidates and overlaps[best] >= threshold:
                annotation = candidates[best]["id"]
                if annotation not in difficult:
                    right, wrong = int(annotation not in taken), int(annotation in taken)
                    taken.add(annotation)
            else:
                wrong = 1
            tp.append(right)
            fp.append(wrong)
        if wanted == 0:
            out.append(-1.0)
            continue
        tp, fp = np.cumsum(tp), np.cumsum(fp)
        recall = tp / wanted
        precision = tp / np.maximum(tp + fp, np.finfo(float).eps)
        if eleven:
            ap = sum(max(precision[recall >= t / 10], default=0.0) for t in range(11)) / 11
        else:
            recall = np.concatenate([[0], recall, [1]])
            precision = np.concatenate([[0], precision, [0]])
            for i in range(len(precision) - 1, 0, -1):
                precision[i - 1] = max(precision[i - 1], precision[i])
            steps = np.where(recall[1:] != recall[:-1])[0] + 1
            ap = ((recall[steps] - recall[steps - 1]) * precision[steps]).sum()
        out.append(float(ap))
    present = [x for x in out if x >= 0]
    return {"mean": sum(present) / len(present) if present else -1.0, "classes": out}


def generated(random, images, categories, most_boxes, extra, crowds=0.1, same_scores=True):
    """Boxes of all sizes, detections jittered around most of them and others anywhere; two decimals."""
    ids = [int(i) for i in random.permutation(images * 7)[:images]]
    truth = {"images": [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in ids],
             "categories": [{"id": 3 * c + 2, "name": f"class {c}"} for c in range(categories)], "annotations": []}
    detections = []

    def anywhere():
        side = np.exp(random.uniform(math.log(6), math.log(300), 2))
        return [random.uniform(0, 640 - side[0]), random.uniform(0, 480 - side[1]), *side]

    def score():
        return round(float(random.uniform(0, 1)), 1 if same_scores else 4)

    def detect(image, category, box):
        detections.append({"image_id": image, "category_id": category, "bbox": [round(float(x), 2) for x in box],
                           "score": score()})

    for number, image in enumerate(ids):
        if number % 5 == 4:  # no object, now and then a detection
            if number % 2:
                detect(image, 2, anywhere())
            continue
        for _ in range(random.integers(1, most_boxes + 1)):
            category = int(random.integers(0, max(categories - 1, 1))) * 3 + 2  # the last class has no truth
            box = anywhere()
            crowd = int(random.uniform() < crowds)
            annotation = {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": category,
                          "bbox": [round(float(x), 2) for x in box], "iscrowd": crowd}
            annotation["area"] = round(box[2] * box[3] * float(random.uniform(0.6, 1.0)), 2)
            truth["annotations"].append(annotation)
            for _ in range(random.integers(0, 4) + 2 * crowd):
                shift = random.normal(0, 0.12, 4)
                detect(image, category, [box[0] + shift[0] * box[2], box[1] + shift[1] * box[3],
                                         box[2] * math.exp(shift[2]), box[3] * math.exp(shift[3])])
        for _ in range(random.integers(0, extra + 1)):
            detect(image, int(random.integers(0, categories)) * 3 + 2, anywhere())
    order = random.permutation(len(detections))
    return truth, [detections[i] for i in order]


def bccd(folder):
    """Its test pictures, with detections jittered by a formula that tests/unit/average_precision_test.cpp has too."""
    names = open(os.path.join(folder, "ImageSets", "Main", "test.txt")).read().split()
    labels = ["RBC", "WBC", "Platelets"]
    truth = {"images": [{"id": i} for i in range(len(names))],
             "categories": [{"id": i, "name": n} for i, n in enumerate(labels)], "annotations": []}
    detections = []
    for image, name in enumerate(names):
        root = xml.etree.ElementTree.parse(os.path.join(folder, "Annotations", name + ".xml")).getroot()
        for item in root.iter("object"):
            corners = [int(item.find("bndbox").find(k).text) for k in ("xmin", "ymin", "xmax", "ymax")]
            box = [corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]]
            number = len(truth["annotations"])
            category = labels.index(item.find("name").text)
            truth["annotations"].append({"id": number + 1, "image_id": image, "category_id": category, "bbox": box,
                                         "area": box[2] * box[3], "iscrowd": int(number % 37 == 0)})
            for k in range(number % 3):
                draw = [(number * 7919 + k * 104729 + i * 1299709) % 1000 for i in range(5)]
                moved = [box[0] + (draw[0] - 500) / 4000 * box[2], box[1] + (draw[1] - 500) / 4000 * box[3],
                         box[2] * (1 + (draw[2] - 500) / 4000), box[3] * (1 + (draw[3] - 500) / 4000)]
                detections.append({"image_id": image, "category_id": category, "bbox": moved, "score": draw[4] / 1000})
    return truth, detections


def average_precision(folder, bccd_folder):
    random = np.random.default_rng(8)
    cases = []

    def case(name, *boxes):
        truth, detections = copy.deepcopy(boxes)
        difficult = [a["id"] for a in truth["annotations"] if a["id"] % 6 == 1]
        cases.append({"name": name, "truth": truth, "detections": detections, **coco_numbers(truth, detections),
                      "difficult": difficult, "voc": voc_numbers(truth, detections, difficult, False),
                      "voc_eleven": voc_numbers(truth, detections, difficult, True)})

    case("ties and crowds", *generated(random, 25, 4, 7, 4))
    case("no ties", *generated(random, 15, 3, 5, 2, same_scores=False))
    case("crowds everywhere", *generated(random, 8, 2, 6, 3, crowds=0.7))
    truth, detections = generated(random, 2, 1, 6, 0, crowds=0.2)
    image = truth["annotations"][0]["image_id"]
    more = [{**d, "image_id": image, "score": round(0.999 - i / 1000, 3),
             "bbox": [round(5 * i + 0.5, 2), round(3 * i + 0.25, 2), 40, 30]} for i, d in enumerate(detections[:1] * 120)]
    case("over a hundred in a picture", truth, detections + more)
    truth, detections = generated(random, 6, 2, 5, 2)
    case("nothing detected", truth, [])
    case("nothing there", {**truth, "annotations": []}, detections)
    exact = [{"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
             for a in truth["annotations"]]
    case("all found exactly", truth, exact)
    for a in truth["annotations"]:
        a["id"] -= 1
    case("counted from 0", truth, detections + exact)
    flat = copy.deepcopy(truth)
    for i, a in enumerate(flat["annotations"]):
        a["id"] += 1
        if i % 2:
            a["bbox"][2] = 0
    case("boxes without width", flat, detections + [{**d, "bbox": [*d["bbox"][:3], 0]} for d in exact])

    path = os.path.join(folder, "average_precision.json")
    if bccd_folder:
        real = coco_numbers(*bccd(bccd_folder))
    else:
        with open(path) as f:
            real = json.load(f)["bccd"]
    write(path, {"cases": cases, "bccd": real})


# ------------------------------------------------------------------------------------------------------------- boxes
def boxes_of(random, count, side=(8, 120), extent=400):
    sides = torch.tensor(random.uniform(*side, (count, 2)))
    corner = torch.tensor(random.uniform(0, 1, (count, 2))) * extent
    return torch.cat([corner, corner + sides], 1).float().mul(8).round().div(8)  # exact in few digits


def soft_nms(boxes, scores, gaussian, threshold=0.3, sigma=0.5, least=0.001):
    """Bodla et al., 2017, figure 2."""
    boxes, scores, left = boxes.double(), scores.double().clone(), list(range(len(boxes)))
    kept, kept_scores = [], []
    while left:
        best = max(left, key=lambda i: (scores[i].item(), -i))
        if scores[best] < least:
            break
        left.remove(best)
        kept.append(best)
        kept_scores.append(scores[best].item())
        for i in left:
            iou = ops.box_iou(boxes[best : best + 1], boxes[i : i + 1]).item()
            if gaussian:
                scores[i] *= math.exp(-iou * iou / sigma)
            elif iou >= threshold:
                scores[i] *= 1 - iou
    return {"indices": kept, "scores": kept_scores}


def diou_nms(boxes, scores, labels, threshold, beta):
    """Greedy, by class, on IoU - (d² / c²)^beta (Zheng et al., 2020, and darknet's beta_nms)."""
    boxes = boxes.double()
    order = sorted(range(len(boxes)), key=lambda i: -scores[i].item())
    iou = ops.box_iou(boxes, boxes)
    penalty = iou - ops.distance_box_iou(boxes, boxes, eps=0)
    value = iou - penalty.pow(beta)
    kept = []
    for i in order:
        if all(labels[i] != labels[j] or value[i, j] <= threshold for j in kept):
            kept.append(i)
    return kept


def detect(folder):
    random = np.random.default_rng(9)
    out = {}
    a, b = boxes_of(random, 7), boxes_of(random, 5)
    b[0] = a[0]  # equal
    b[1] = torch.tensor([a[1, 0] - 1, a[1, 1] - 1, a[1, 2] + 1, a[1, 3] + 1])  # around it
    b[2] = a[2] + 500  # far from all
    paired = torch.cat([b, b[:2] + 3])
    kinds = {"iou": ops.box_iou, "giou": ops.generalized_box_iou, "diou": ops.distance_box_iou,
             "ciou": ops.complete_box_iou}
    losses = {"giou": ops.generalized_box_iou_loss, "diou": ops.distance_box_iou_loss, "ciou": ops.complete_box_iou_loss}
    weights = torch.arange(1.0, 8.0)
    out["overlaps"] = {"a": a.tolist(), "b": b.tolist(), "paired": paired.tolist(),
                       "matrix": {k: f(a, b).tolist() for k, f in kinds.items()}, "loss": {}, "gradient": {}}
    for kind, loss in losses.items():
        x = a.clone().requires_grad_()
        value = loss(x, paired)
        (value * weights).sum().backward()
        out["overlaps"]["loss"][kind] = value.tolist()
        out["overlaps"]["gradient"][kind] = x.grad.tolist()
    out["convert"] = {f: ops.box_convert(a, "xyxy", f).tolist() for f in ("xywh", "cxcywh")}
    out["area"] = ops.box_area(a).tolist()
    out["clip"] = ops.clip_boxes_to_image(a - 30, (250, 300)).tolist()

    out["nms"] = []
    for count, side, extent, digits in [(60, (20, 120), 200, 3), (300, (5, 150), 300, 1), (1100, (8, 90), 500, 2)]:
        boxes = boxes_of(random, count, side, extent)
        boxes[count // 2 : count // 2 + 5] = boxes[:5]  # doubled
        boxes[3, 2] = boxes[3, 0]  # without width
        scores = torch.tensor(random.uniform(0, 1, count).round(digits)).float()
        labels = torch.tensor(random.integers(0, 4, count))
        case = {"boxes": boxes.tolist(), "scores": [round(s, digits) for s in scores.tolist()],
                "labels": labels.tolist(), "greedy": {}, "by_class": {}}
        for threshold in (0.0, 0.05, 0.3, 0.45, 0.5, 0.7, 0.9, 1.0):
            case["greedy"][str(threshold)] = ops.nms(boxes, scores, threshold).tolist()
            # torchvision shifts classes apart where there are few boxes, which rounds; its other way does not. It sorts
            # what it keeps so that equal scores come in any order.
            kept = ops.boxes._batched_nms_vanilla(boxes, scores, labels, threshold).sort()[0]
            case["by_class"][str(threshold)] = kept[scores[kept].sort(descending=True, stable=True)[1]].tolist()
        if count <= 300:
            case["diou"] = diou_nms(boxes, scores, labels, 0.4, 0.6)
            case["linear"] = soft_nms(boxes, scores, False)
            case["gaussian"] = soft_nms(boxes, scores, True)
            for name, models, kind in [("fused", 1, "avg"), ("fused_of_3", 3, "avg"), ("fused_highest", 1, "max")]:
                # No ties, which ensemble_boxes takes from behind.
                sure = torch.arange(count).mul(7).remainder(count).add(0.5).div(count)
                parts = [[x[m::models] for m in range(models)] for x in (boxes / 1024, sure, labels)]
                fused = weighted_boxes_fusion(*[[p.tolist() for p in part] for part in parts], iou_thr=0.55,
                                              skip_box_thr=0.05, conf_type=kind)
                case[name] = {"boxes": (fused[0] * 1024).round(3).tolist(), "scores": fused[1].tolist(),
                              "labels": fused[2].astype(int).tolist()}
        out["nms"].append(case)
    write(os.path.join(folder, "detect.json"), out)


def write(path, value):
    """Numbers keep nine digits at least; the lists of numbers stand on one line."""
    with open(path, "w") as f:
        json.dump(value, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    os.makedirs(sys.argv[1], exist_ok=True)
    average_precision(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
    detect(sys.argv[1])
