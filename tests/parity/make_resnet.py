#!/usr/bin/env python3
"""Makes tests/data/parity/zoo/ of ResNet, Wide ResNet and ResNeXt: what torchvision's compute; see zoo.py.

    make_resnet.py OUT_FOLDER

Needs torch and torchvision (made with torch 2.14.1 and torchvision 0.29.1).
"""
import sys

import torch
import torchvision
from torchvision.models.resnet import BasicBlock

import zoo

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


def main(folder):
    torch.set_num_threads(1)
    for name in VARIANTS:
        model = torchvision.models.get_model(name).eval()
        zoo.fill(model, gain(model))
        run = forward(model)
        zoo.keep(folder, name, "torchvision " + torchvision.__version__.split("+")[0], model.state_dict().items(),
                 zoo.leaves(model), lambda size: run, [64, 75], MEAN, DEVIATION, gain=gain(model),
                 parameters=sum(p.numel() for p in model.parameters()), ci=name == "resnet50",
                 trainable=trainable(model, [4, 60, 100]) if name == "resnet50" else None)


if __name__ == "__main__":
    main(sys.argv[1])
