#!/usr/bin/env python3
"""Makes tests/data/parity/zoo/vit_*.json and dinov2_*.json: what torchvision's and timm's vision transformers compute;
see zoo.py.

    make_vit.py OUT_FOLDER

Needs torch, torchvision and timm (made with torch 2.14.1, torchvision 0.29.1 and timm 1.0.31).
"""
import copy
import sys

import timm
import torch
import torchvision
from torchvision.models.vision_transformer import interpolate_embeddings

import zoo

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
HALF = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]
# Ours, torchvision's patch, timm's network of the same function.
TORCHVISION = [("vit_b_16", 16, "vit_base_patch16_224"), ("vit_b_32", 32, "vit_base_patch32_224"),
               ("vit_l_16", 16, "vit_large_patch16_224")]
# Ours, timm's, the size to fill the weights for (the trained one, but for what the tests do every day), sizes to keep,
# mean and deviation.
TIMM = [("vit_s_16", "vit_small_patch16_224", 224, [80, 224], HALF),
        ("dinov2_vits14", "vit_small_patch14_dinov2", 518, [70, 112], IMAGENET),
        ("dinov2_vits14_reg", "vit_small_patch14_reg4_dinov2", 140, [70, 112], IMAGENET),
        ("dinov2_vitb14", "vit_base_patch14_dinov2", 518, [70, 112], IMAGENET),
        ("dinov2_vitb14_reg", "vit_base_patch14_reg4_dinov2", 518, [70, 112], IMAGENET)]
# Tokens' and positions' fan-in says nothing: they are to count beside the patches.
GAIN = [("class_token", 10.0), ("pos_embedding", 200.0), ("heads.head.weight", 0.7)]
GAIN_OF_TIMM = [("cls_token", 10.0), ("reg_token", 10.0), ("pos_embed", 200.0), ("head.weight", 0.7)]


def name_of_old(name):
    """What torchvision's files of before its version 0.13 call it; it reads them still."""
    return name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2")


def as_map(tokens, prefix):
    tokens = tokens[:, prefix:]
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def quarters(depth):
    return [depth // 4 * (k + 1) - 1 for k in range(4)]


def forward_of_torchvision(model):
    def run(x):
        x = model._process_input(x)
        x = torch.cat([model.class_token.expand(x.shape[0], -1, -1), x], 1)
        x = model.encoder.dropout(x + model.encoder.pos_embedding)
        stages = []
        for number, block in enumerate(model.encoder.layers):
            x = block(x)
            if number in quarters(len(model.encoder.layers)):
                stages.append(as_map(model.encoder.ln(x), 1))
        pooled = model.encoder.ln(x)[:, 0]
        return stages, pooled, model.heads(pooled)

    return run


def forward_of_timm(model):
    def run(x):
        last, stages = model.forward_intermediates(x, indices=quarters(len(model.blocks)), norm=True)
        pooled = model.forward_head(last, pre_logits=True)
        return stages, pooled, model.forward_head(last) if model.num_classes > 0 else None

    return run


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def main(folder):
    torch.set_num_threads(1)
    for name, patch, of_timm in TORCHVISION:
        model = torchvision.models.get_model(name).eval()
        zoo.fill(model, GAIN)

        def forward_at(size):
            other = torchvision.models.get_model(name, image_size=size).eval()
            other.load_state_dict(interpolate_embeddings(size, patch, copy.copy(model.state_dict())))
            return forward_of_torchvision(other)

        sizes = [5 * patch, 224]
        other = timm.create_model(of_timm, img_size=sizes[0]).eval()
        zoo.fill(other, GAIN_OF_TIMM)
        old = torchvision.models.get_model(name, image_size=sizes[0]).eval()
        old.load_state_dict({name_of_old(n): zoo.value(name_of_old(n), t, GAIN) for n, t in old.state_dict().items()})
        rows = zoo.rows(model)
        zoo.keep(folder, name, "torchvision " + torchvision.__version__.split("+")[0], model.state_dict().items(),
                 rows, forward_at, sizes, *IMAGENET, gain=GAIN, parameters=parameters(model), native=224,
                 renamed={"timm": (forward_of_timm(other), GAIN_OF_TIMM),
                          "torchvision before 0.13": (forward_of_torchvision(old), GAIN)},
                 trainable=zoo.trainable(model, rows, [3, 40, 100]))
    for name, of_timm, native, sizes, normalisation in TIMM:
        model = timm.create_model(of_timm, img_size=native).eval()
        zoo.fill(model, GAIN_OF_TIMM)

        def forward_at(size):
            other = copy.deepcopy(model)
            other.set_input_size((size, size))
            return forward_of_timm(other)

        rows = zoo.rows(model)
        zoo.keep(folder, name, "timm " + timm.__version__, model.state_dict().items(), rows, forward_at, sizes,
                 *normalisation, gain=GAIN_OF_TIMM, parameters=parameters(model), native=native,
                 ci=name in ("vit_s_16", "dinov2_vits14_reg"), trainable=zoo.trainable(model, rows, [3, 40, 100]))


main(sys.argv[1])
