#!/usr/bin/env python3
"""Makes tests/data/parity/zoo/convnext_*.json: what torchvision's and timm's ConvNeXt compute; see zoo.py.

    make_convnext.py OUT_FOLDER

Needs torch, torchvision and timm (made with torch 2.14.1, torchvision 0.29.1 and timm 1.0.31).
"""
import sys

import timm
import torch
import torchvision

import zoo

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
VARIANTS = ["convnext_tiny", "convnext_small", "convnext_base"]
GAIN = [("layer_scale", 0.3), ("classifier.2.weight", 0.7)]
GAIN_OF_TIMM = [("gamma", 0.3), ("head.fc.weight", 0.7)]


def layers(model):
    """The flattened modules, and before the modules of a block its own parameter."""
    out = []
    for name, module in model.named_modules():
        out += [f"{name}.{p}" for p, _ in module.named_parameters(recurse=False)] if list(module.children()) else [name]
    return out


def forward(model):
    def run(x):
        stages = []
        for number, part in enumerate(model.features):
            x = part(x)
            if number % 2 == 1:
                stages.append(x)
        pooled = model.classifier[1](model.classifier[0](model.avgpool(x)))
        return stages, pooled, model.classifier[2](pooled)

    return run


def forward_of_timm(model):
    def run(x):
        last, stages = model.forward_intermediates(x)
        pooled = model.forward_head(last, pre_logits=True)
        return stages, pooled, model.forward_head(last)

    return run


def main(folder):
    torch.set_num_threads(1)
    for name in VARIANTS:
        model = torchvision.models.get_model(name).eval()
        zoo.fill(model, GAIN)
        other = timm.create_model(name).eval()
        zoo.fill(other, GAIN_OF_TIMM)
        state = model.state_dict()
        zoo.keep(folder, name, "torchvision " + torchvision.__version__.split("+")[0], state.items(), layers(model),
                 lambda size: forward(model), [64, 75], MEAN, DEVIATION, gain=GAIN,
                 parameters=sum(p.numel() for p in model.parameters()), ci=name == "convnext_tiny",
                 renamed={"timm": (forward_of_timm(other), GAIN_OF_TIMM)})


main(sys.argv[1])
