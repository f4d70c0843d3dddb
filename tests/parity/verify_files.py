#!/usr/bin/env python3
"""Files written by torchvision and timm load in ours and give the original's logits; what we write of them loads
there, strictly and with equal bytes.

    verify_files.py WEIGHTS_TOOL [NAME…]

With names: these networks alone. Needs torch, torchvision, timm and safetensors (run with torch 2.14.1, torchvision
0.29.1, timm 1.0.31): CI has none of them, and compares with the numbers that make_<family>.py has kept. Weights are
drawn at random as the original does it, statistics of batch norms beside them.
"""
import pathlib
import subprocess
import sys
import tempfile

import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

TORCHVISION = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "resnext50_32x4d",
               "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", *[f"efficientnet_b{i}" for i in range(8)],
               "efficientnet_v2_s", "convnext_tiny", "convnext_small", "convnext_base", "vit_b_16", "vit_b_32",
               "vit_l_16", "squeezenet1_0", "squeezenet1_1"]
# Their names at timm, as our aliases have them.
TIMM = ["resnet50.a1_in1k", "mobilenetv2_100", *[f"tf_efficientnet_lite{i}" for i in range(5)], "tf_efficientnet_b0",
        "convnext_tiny", "convnext_small", "convnext_base", "vit_small_patch16_224", "vit_base_patch16_224",
        "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "vit_base_patch14_dinov2",
        "vit_base_patch14_reg4_dinov2"]

# Networks of ours that have no such name, since timm trained them on pictures of another mean.
OURS = {"vit_base_patch16_224": "vit_b_16"}


def settle(model):
    """Statistics of batch norms, and scales of layers, that are not what anything begins with."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
        elif name.endswith("running_var"):
            tensor.copy_(1 + 0.2 * torch.rand(tensor.shape, generator=generator))
        elif tensor.dim() > 1 and not tensor.any():  # the classifier of torchvision's ViT
            tensor.copy_(0.02 * torch.randn(tensor.shape, generator=generator))
        elif name.endswith(("gamma", "layer_scale")):  # 1e-6 would leave blocks that do nothing
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def tool(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def verify(program, name, model, size, folder):
    theirs, pictures, out = folder / "theirs.pth", folder / "in.safetensors", folder / "out.safetensors"
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    torch.save(state, theirs)
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2))
    save_file({"input": x}, pictures)
    tool(program, "run", OURS.get(name, name), theirs, pictures, out)
    ours = load_file(out)
    with torch.no_grad():
        logits = model(x)
        kind = "logits" if "logits" in ours else "pooled"
    off = ((ours[kind] - logits).norm() / logits.norm()).item()
    assert off < 1e-4, (name, kind, off)
    # There and back: safetensors, and a .pth again.
    tool(program, "convert", theirs, folder / "ours.safetensors")
    tool(program, "convert", folder / "ours.safetensors", folder / "ours.pth")
    for again in (load_file(folder / "ours.safetensors"), torch.load(folder / "ours.pth", weights_only=True)):
        model.load_state_dict(again, strict=True)
        assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items()), name
    print(f"{name:32} {kind} off by {off:.1e}, {len(state)} tensors equal", flush=True)


@torch.no_grad()
def main():
    program, only = sys.argv[1], sys.argv[2:]
    torch.manual_seed(0)
    for name in [n for n in TORCHVISION if not only or n in only]:
        with tempfile.TemporaryDirectory() as folder:
            size = 224 if name.startswith("vit") else 96
            verify(program, name, settle(getattr(torchvision.models, name)(weights=None)), size, pathlib.Path(folder))
    for name in [n for n in TIMM if not only or n in only]:
        with tempfile.TemporaryDirectory() as folder:
            model = settle(timm.create_model(name, pretrained=False))
            size = 518 if "dinov2" in name else 224 if name.startswith("vit") else 96
            verify(program, name, model, size, pathlib.Path(folder))


if __name__ == "__main__":
    main()
