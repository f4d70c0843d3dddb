#!/usr/bin/env python3
"""Makes tests/data/parity/transforms.safetensors: what torchvision makes of pictures that a formula gives.

    make_transforms.py OUT.safetensors       (needs torch, torchvision and safetensors; made with torchvision 0.29)

Pictures are formula(c, h, w, seed), as in tests/unit/data_test.cpp. Keys tell what was done; see there.
"""
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC, "nearest": InterpolationMode.NEAREST}


def formula(channels, height, width, seed=0):
    c, y, x = torch.meshgrid(torch.arange(channels), torch.arange(height), torch.arange(width), indexing="ij")
    return ((c * 67 + y * 31 + x * 17 + (x * y * 7) % 53 + seed * 11) % 256).to(torch.uint8)


def main(out):
    torch.manual_seed(0)
    tensors = {}
    for name, mode in MODES.items():
        for height, width in [(11, 9), (30, 20), (23, 31), (5, 40)]:
            size = [height, width]
            tensors[f"resize/{name}/u8/{height}x{width}"] = F.resize(formula(3, 23, 17), size, mode, antialias=True)
            if name != "nearest":
                tensors[f"resize/{name}/f32/{height}x{width}"] = F.resize(
                    formula(1, 23, 17) / 255.0, size, mode, antialias=True
                )

    for height, width, size, scaled, name in [
        (40, 53, 12, 13, "bilinear"),
        (53, 40, 12, 13, "bicubic"),
        (7, 9, 12, 12, "bilinear"),
        (23, 24, 11, 16, "bilinear"),
    ]:
        steps = [
            v2.Resize(scaled, interpolation=MODES[name], antialias=True),
            v2.CenterCrop(size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, DEVIATION),
        ]
        picture = formula(3, height, width)
        key = f"{name}/{height}x{width}/{size}/{scaled}"
        tensors["preprocess/" + key] = v2.Compose(steps)(picture)
        pil = v2.Compose(steps)(Image.fromarray(picture.permute(1, 2, 0).numpy()))
        difference = (pil - tensors["preprocess/" + key]).abs().max() * 0.229 * 255
        print(key, "largest difference of a picture of PIL's, in steps of 1/255:", float(difference))

    picture = formula(3, 9, 11, 3)
    for what, function, factors in [
        ("brightness", F.adjust_brightness, [0.5, 1.7]),
        ("contrast", F.adjust_contrast, [0.0, 0.3, 1.8]),
        ("saturation", F.adjust_saturation, [0.0, 0.4, 1.9]),
        ("hue", F.adjust_hue, [-0.4, 0.13, 0.5]),
    ]:
        for factor in factors:
            tensors[f"colour/{what}/u8/{factor}"] = function(picture, factor)
        tensors[f"colour/{what}/f32/{factors[-1]}"] = function(picture / 255.0, factors[-1])
        tensors[f"colour/{what}/grey/{factors[-1]}"] = function(picture[:1], factors[-1])

    # The law of the crops: mean and deviation of top, left, height and width over many draws.
    for height, width, scale, ratio in [
        (40, 60, (0.08, 1.0), (3 / 4, 4 / 3)),
        (33, 32, (0.5, 0.9), (1.0, 1.0)),
        (10, 200, (0.6, 1.0), (3 / 4, 4 / 3)),
        (200, 10, (0.6, 1.0), (3 / 4, 4 / 3)),
    ]:
        picture = torch.empty(3, height, width)
        draws = np.array([RandomResizedCrop.get_params(picture, list(scale), list(ratio)) for _ in range(20000)])
        tensors[f"crop/{height}x{width}/{scale[0]}-{scale[1]}/{ratio[0]:.6f}-{ratio[1]:.6f}"] = torch.tensor(
            np.stack([draws.mean(0), draws.std(0)]), dtype=torch.float64
        )

    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, out)


if __name__ == "__main__":
    main(sys.argv[1])
