#!/usr/bin/env python3
"""Makes tests/data/parity/zoo/convnext_*.json: what torchvision's and timm's ConvNeXt compute; see zoo.py.

    make_convnext.py OUT_FOLDER

Needs torch, torchvision and timm (made with torch 2.14.1, torchvision 0.29.1 and timm 1.0.31).
"""
import re
import sys

import timm
import torch
import torchvision
from timm.models.convnext import checkpoint_filter_fn

import zoo

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
VARIANTS = ["convnext_tiny", "convnext_small", "convnext_base"]
GAIN = [("layer_scale", 0.3), ("classifier.2.weight", 0.7)]
GAIN_OF_TIMM = [("gamma", 0.3), ("head.fc.weight", 0.7)]
GAIN_OF_THE_PAPER = [("gamma", 0.3), ("head.weight", 0.7)]


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


def name_of_the_paper(name):
    """What timm's tensor is called by the paper's own code."""
    for pattern, other in [(r"^stem", "downsample_layers.0"), (r"^stages\.(\d)\.downsample", r"downsample_layers.\1"),
                           (r"\.blocks", ""), ("conv_dw", "dwconv"), (r"mlp\.fc", "pwconv"), (r"head\.norm", "norm"),
                           (r"head\.fc", "head")]:
        name = re.sub(pattern, other, name)
    return name


def of_the_paper(name):
    """timm's network with weights by the formula under the names of the paper's own code, as timm reads them."""
    model = timm.create_model(name).eval()
    theirs = {name_of_the_paper(n): n for n in model.state_dict()}
    state = {n: zoo.value(n, model.state_dict()[ours], GAIN_OF_THE_PAPER) for n, ours in theirs.items()}
    model.load_state_dict(checkpoint_filter_fn(state, model))
    return model


def strided(model, name):
    """timm's network, dilated, with torchvision's weights: their tensors are in the same order."""
    out = {}
    for stride in (16, 8):
        dilated = timm.create_model(name, output_stride=stride).eval()
        dilated.load_state_dict(dict(zip(dilated.state_dict(), (t.flatten() if n.endswith("layer_scale") else t
                                                                for n, t in model.state_dict().items()))))
        out[stride] = forward_of_timm(dilated)
    return out


def main(folder):
    torch.set_num_threads(1)
    for name in VARIANTS:
        model = torchvision.models.get_model(name).eval()
        zoo.fill(model, GAIN)
        other = timm.create_model(name).eval()
        zoo.fill(other, GAIN_OF_TIMM)
        rows, more = zoo.rows(model), {}
        if name == "convnext_tiny":
            more = {"ci": True, "trainable": zoo.trainable(model, rows, [3, 50, 100]), "strided": strided(model, name)}
        zoo.keep(folder, name, "torchvision " + torchvision.__version__.split("+")[0], model.state_dict().items(), rows,
                 lambda size: forward(model), [64, 75], MEAN, DEVIATION, gain=GAIN,
                 parameters=sum(p.numel() for p in model.parameters()),
                 renamed={"timm": (forward_of_timm(other), GAIN_OF_TIMM),
                          "facebookresearch/ConvNeXt": (forward_of_timm(of_the_paper(name)), GAIN_OF_THE_PAPER)}, **more)


main(sys.argv[1])
