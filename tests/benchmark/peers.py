#!/usr/bin/env python3
"""The same features by Python's ways to run a network, for passes.py to measure: reads the weights and the input that
benchmark_passes has written into a folder, prints how far each way's answers are from ours in float32, then answers
each line "WAY CALLS" with the seconds of so many batches.

    peers.py NETWORK FOLDER THREADS LATENCY WAY…
"""
import contextlib
import json
import pathlib
import sys
import time
import warnings

import torch
from safetensors.torch import load_file

warnings.filterwarnings("ignore")
name, folder, threads, latency, ways = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1", sys.argv[5:]
torch.set_num_threads(threads)
answers = load_file(folder / "answers.safetensors")
x = answers["input"]
state = load_file(folder / "weights.safetensors")
bf16 = torch.bfloat16


class Lite(torch.nn.Module):
    """The package's network up to its pooled features."""

    def __init__(self, size):
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0", image_size=size)

    def forward(self, v):
        return self.network.extract_features(v).mean((2, 3))


class Classifier(torch.nn.Module):
    """What a program would deploy: uint8 pictures in, probabilities out."""

    def __init__(self, network, head):
        super().__init__()
        self.network, self.head = network, head

    def forward(self, v):
        v = (v.to(self.head.weight.dtype) - 127.0) / 128.0
        return torch.softmax(self.head(self.network(v)).float(), 1)


def network():
    import torchvision

    weights = {k.removeprefix("backbone."): v for k, v in state.items() if not k.startswith("head.")}
    if name == "efficientnet_lite0":
        model = Lite(x.shape[-1])
        model.network.load_state_dict(weights, strict=False)
    elif name == "vit_s_16":
        import timm

        model = timm.create_model("vit_small_patch16_224", num_classes=0)
        model.load_state_dict(weights)
    else:
        model = getattr(torchvision.models, name)()
        model.load_state_dict(weights)
        if name.startswith("resnet"):
            model.fc = torch.nn.Identity()
        elif name.startswith("convnext"):
            model.classifier[2] = torch.nn.Identity()
        else:
            model.classifier = torch.nn.Identity()
    model.eval()
    if latency:
        head = torch.nn.Linear(state["head.weight"].shape[1], state["head.weight"].shape[0])
        head.load_state_dict({"weight": state["head.weight"], "bias": state["head.bias"]})
        model = Classifier(model, head)
    return model.eval()


def folded():
    from torch.fx.experimental.optimization import fuse

    model = network()
    return fuse(model) if any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()) else model


def prepared(kind):
    return x if x.dtype == torch.uint8 else x.to(kind).contiguous(memory_format=torch.channels_last)


def way_of(way):
    """A function without arguments that computes one batch."""
    way, _, tail = way.partition("-")
    kind = bf16 if tail == "bf16" else torch.float32
    if way == "plain":
        model = network()
        return lambda: model(x)
    if way in ("channels_last", "autocast"):
        model = network().to(memory_format=torch.channels_last)
        on = torch.autocast("cpu", dtype=bf16) if way == "autocast" else contextlib.nullcontext()

        def run():
            with on:
                return model(prepared(torch.float32))

        return run
    model = folded().to(kind).to(memory_format=torch.channels_last)
    if way == "folded":
        return lambda: model(prepared(kind))
    if way == "script":
        with torch.no_grad():
            script = torch.jit.freeze(torch.jit.trace(model, prepared(kind), check_trace=False))
            script = torch.jit.optimize_for_inference(script)
        return lambda: script(prepared(kind))
    assert way in ("compile", "freezing"), way
    with torch._inductor.config.patch(freezing=way == "freezing"):
        compiled = torch.compile(model)
        with torch.no_grad():
            for _ in range(2):
                compiled(prepared(kind))
    return lambda: compiled(prepared(kind))


import torch._inductor.config  # noqa: E402

functions, errors = {}, {}
ours = answers["fp32"]
for way in ways:
    try:
        function = way_of(way)
        with torch.no_grad():
            answer = function().float()
        errors[way] = ((answer - ours).norm() / ours.norm()).item()
        functions[way] = function
    except Exception as e:  # what a version of PyTorch can't do is no row
        print(f"{way}: {type(e).__name__}: {str(e)[:300]}", file=sys.stderr)
if "bf16" in answers:
    errors["ours"] = ((answers["bf16"].float() - ours).norm() / ours.norm()).item()
print(json.dumps({"errors": errors, "torch": torch.__version__}), flush=True)
for line in sys.stdin:
    way, calls = line.split()
    with torch.no_grad():
        start = time.perf_counter()
        for _ in range(int(calls)):
            functions[way]()
    print(time.perf_counter() - start, flush=True)
