#!/usr/bin/env python3
"""Makes tests/data/parity/zoo/ of ResNet, Wide ResNet and ResNeXt, what torchvision's compute; see zoo.py. And
tests/data/parity/lesson_02.json, an epoch of examples/02_resnet50_frozen.cpp in PyTorch.

    make_resnet.py OUT_FOLDER

Needs torch and torchvision (made with torch 2.14.1 and torchvision 0.29.1).
"""
import os
import sys

import torch
import torchvision
from torchvision.models.resnet import BasicBlock

import formula
import zoo
from order import shuffled
from summary import summary, write

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
VARIANTS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "resnext50_32x4d"]


def gain(model):
    """A branch is scaled by one over the root of how many there are: what is summed up does not grow."""
    last = "bn2.weight" if isinstance(model.layer1[0], BasicBlock) else "bn3.weight"
    blocks = sum(len(layer) for layer in (model.layer1, model.layer2, model.layer3, model.layer4))
    return [(last, round(blocks**-0.5, 2)), ("fc.weight", 0.5)]


def forward(model):
    def run(x):
        x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        stages = []
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            x = layer(x)
            stages.append(x)
        pooled = model.avgpool(x).flatten(1)
        return stages, pooled, model.fc(pooled)

    return run


def trainable(model, cuts):
    """{n: what is learnt when the first n of the flattened modules are frozen}."""
    out = {}
    modules = dict(model.named_modules())
    for n in cuts:
        model.requires_grad_(True)
        for name in zoo.leaves(model)[:n]:
            modules[name].requires_grad_(False)
        out[n] = [name for name, p in model.named_parameters() if p.requires_grad]
    model.requires_grad_(True)
    return out


def strided(name, model):
    out = {}
    for stride, replaced in ((16, [False, False, True]), (8, [False, True, True])):
        dilated = torchvision.models.get_model(name, replace_stride_with_dilation=replaced).eval()
        dilated.load_state_dict(model.state_dict())
        out[stride] = forward(dilated)
    return out


PICTURES, SIZE, CLASSES, BATCH, LR = 256, 64, 10, 100, 1e-3
HEAD_GAIN = [("weight", 0.1)]


def lesson(dtype, order):
    """The frozen network in evaluation, a new linear layer, cross entropy, Adam: an epoch."""
    model = torchvision.models.resnet50().eval()
    zoo.fill(model, gain(model))
    model.fc = torch.nn.Identity()
    head = torch.nn.Linear(2048, CLASSES)
    zoo.fill(head, HEAD_GAIN)
    model.to(dtype), head.to(dtype)
    with torch.no_grad():
        features = torch.cat([model(x) for x in zoo.prepared(PICTURES, SIZE, MEAN, DEVIATION).to(dtype).split(32)])
    target = torch.arange(PICTURES) % CLASSES
    optimizer = torch.optim.Adam(head.parameters(), lr=LR)
    total, right = 0.0, 0
    for ids in torch.tensor(order).split(BATCH):
        y = head(features[ids])
        loss = torch.nn.functional.cross_entropy(y, target[ids])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(ids)
        right += (y.argmax(1) == target[ids]).sum().item()
    with torch.no_grad():
        y = head(features)
        value = {
            "train_loss": total / PICTURES,
            "train_accuracy": right / PICTURES,
            "val_loss": torch.nn.functional.cross_entropy(y, target).item(),
            "val_accuracy": (y.argmax(1) == target).double().mean().item(),
        }
    return value, head.weight


def write_lesson(folder):
    order = shuffled(PICTURES, 0, 1)
    value, weight = lesson(torch.float64, order)
    single, _ = lesson(torch.float32, order)
    other, _ = lesson(torch.float64, list(range(PICTURES)))
    print(value, single, other)
    # Rounding is far below what the test allows, and another order far above it.
    assert all(abs(value[k] - single[k]) < 1e-4 for k in value)
    assert abs(value["train_loss"] - other["train_loss"]) > 0.01
    write(os.path.join(folder, "lesson_02.json"), {
        "network": "resnet50", "gain": [list(g) for g in gain(torchvision.models.resnet50())],
        "pictures": PICTURES, "size": SIZE, "classes": CLASSES, "batch": BATCH, "lr": LR, "epsilon": 1e-8,
        "head": {"gain": [list(g) for g in HEAD_GAIN], "weight": summary(weight)}, "values": value,
    })


def main(folder):
    torch.set_num_threads(1)
    write_lesson(folder)
    for name in VARIANTS:
        model = torchvision.models.get_model(name).eval()
        zoo.fill(model, gain(model))
        run, more = forward(model), {}
        if name == "resnet50":
            more = {"ci": True, "trainable": trainable(model, [4, 60, 100]), "strided": strided(name, model)}
        zoo.keep(folder, name, "torchvision " + torchvision.__version__.split("+")[0], model.state_dict().items(),
                 zoo.leaves(model), lambda size: run, [64, 75], MEAN, DEVIATION, gain=gain(model),
                 parameters=sum(p.numel() for p in model.parameters()), **more)


if __name__ == "__main__":
    main(sys.argv[1])
