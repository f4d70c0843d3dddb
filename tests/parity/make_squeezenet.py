#!/usr/bin/env python3
"""Makes tests/data/parity/zoo/squeezenet*.json: what torchvision's SqueezeNet computes; see zoo.py.

    make_squeezenet.py OUT_FOLDER

Needs torch and torchvision (made with torch 2.14.1 and torchvision 0.29.1).
"""
import sys

import torch
import torchvision

import zoo

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def forward(model):
    def run(x):
        stages = []
        for part in model.features:
            if isinstance(part, torch.nn.MaxPool2d):
                stages.append(x)
            x = part(x)
        return [*stages, x], x.mean((2, 3)), model.classifier(x).flatten(1)

    return run


def main(folder):
    torch.set_num_threads(1)
    for name in ("squeezenet1_0", "squeezenet1_1"):
        model = torchvision.models.get_model(name).eval()
        zoo.fill(model)
        run = forward(model)
        zoo.keep(folder, name, "torchvision " + torchvision.__version__.split("+")[0], model.state_dict().items(),
                 zoo.leaves(model), lambda size: run, [64, 75], MEAN, DEVIATION,
                 parameters=sum(p.numel() for p in model.parameters()), ci=name == "squeezenet1_1")


main(sys.argv[1])
