#!/usr/bin/env python3
"""Makes tests/data/parity/{optimizers,training}.json: what torch.optim and fine-tuning by hand come to.

    make_training.py OUT_FOLDER

Needs torch, numpy and efficientnet-lite-pytorch (made with torch 2.13). tests/unit/parity_test.cpp does the same.
"""
import os
import sys

import torch
from efficientnet_lite_pytorch import EfficientNet

import formula
from summary import summary, write

OPTIMIZERS = {
    "sgd": ("SGD", {"lr": 0.05}),
    "sgd momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}),
    "sgd nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "sgd weight decay": ("SGD", {"lr": 0.05, "weight_decay": 0.1}),
    "sgd everything": ("SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    "adam": ("Adam", {"lr": 0.02}),
    "adam other numbers": ("Adam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    "adamw": ("AdamW", {"lr": 0.02}),
    "adamw weight decay": ("AdamW", {"lr": 0.02, "weight_decay": 0.5}),
}


def optimizers():
    """Ten steps of least squares: 8 points of 4 numbers, 3 targets. The third parameter never has a gradient."""
    x, y = formula.values("problem.x", (8, 4)), formula.values("problem.y", (8, 3))
    out = {}
    for name, (kind, numbers) in OPTIMIZERS.items():
        w, b = (formula.values("problem." + n, s).requires_grad_() for n, s in [("weight", (3, 4)), ("bias", (3,))])
        idle = torch.ones(2, requires_grad=True)
        optimizer = getattr(torch.optim, kind)([w, b, idle], foreach=False, fused=False, **numbers)
        losses = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = (torch.nn.functional.linear(x, w, b) - y).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] and bool((idle == 1).all())
        out[name] = {
            "kind": kind,
            **{k: v for k, v in numbers.items() if k != "betas"},
            **dict(zip(("beta1", "beta2"), numbers.get("betas", ()))),
            "losses": losses,
            "weight": w.reshape(-1).tolist(),
            "bias": b.tolist(),
        }
    names = list(out)
    for i, a in enumerate(names):  # a test that takes one for another would be none
        for b in names[:i]:
            assert max(abs(p - q) for p, q in zip(out[a]["weight"], out[b]["weight"])) > 1e-3, (a, b)
    return out


PICTURES, SIZE, CLASSES, STEPS = 8, 64, 4, 5
# Small steps: with large ones float32's rounding itself moves the losses by more than a test should allow.
TRAINING = {
    "head alone": {"from": None, "norms": False, "optimizer": ("SGD", {"lr": 2e-4, "momentum": 0.5})},
    "frozen norms": {"from": 12, "norms": False, "optimizer": ("SGD", {"lr": 5e-5, "momentum": 0.5})},
    "frozen norms, AdamW": {"from": 12, "norms": False, "optimizer": ("AdamW", {"lr": 5e-6, "weight_decay": 0.01})},
    "live norms": {"from": 12, "norms": True, "optimizer": ("SGD", {"lr": 5e-4, "momentum": 0.9})},
    "all convolutions": {"from": 0, "norms": False, "optimizer": ("SGD", {"lr": 1e-6, "momentum": 0.9})},
}
KEPT = ("_conv_stem.weight", "_conv_head.weight", "_bn1.weight", "_bn1.running_mean", "_bn1.running_var")


def train(case, dtype):
    """Losses, tensors afterwards, and how many numbers were trained."""
    x, target = formula.prepared(PICTURES, SIZE).to(dtype), torch.arange(PICTURES) % CLASSES
    model = EfficientNet.from_name("efficientnet-lite0", image_size=None, drop_connect_rate=0.0).eval()
    formula.fill(model)
    head = torch.nn.Linear(1280, CLASSES)
    head.load_state_dict({k: formula.values("head." + k, tuple(v.shape)) for k, v in head.state_dict().items()})
    model.to(dtype).requires_grad_(False)
    head.to(dtype)
    parts = []
    if case["from"] is not None:
        first = case["from"]
        parts = [model] if first == 0 else [*model._blocks[first:], model._conv_head, model._bn1]
    for module in (m for part in parts for m in part.modules()):
        if isinstance(module, torch.nn.Conv2d) or (isinstance(module, torch.nn.BatchNorm2d) and case["norms"]):
            module.requires_grad_(True).train()
    kind, numbers = case["optimizer"]
    trained = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = getattr(torch.optim, kind)(trained, foreach=False, fused=False, **numbers)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(head(model.extract_features(x).mean((2, 3))), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    state = model.state_dict()
    return losses, {"head.weight": head.weight, **{n: state[n] for n in KEPT}}, sum(p.numel() for p in trained)


def training():
    out = {"pictures": PICTURES, "size": SIZE, "classes": CLASSES, "cases": {}}
    for name, case in TRAINING.items():
        losses, state, trained = train(case, torch.float64)
        single = train(case, torch.float32)[0]
        noise = max(abs(a - b) for a, b in zip(losses, single)) / max(losses)
        print(name, losses, "float32 is off by", noise)
        assert losses[-1] < 0.95 * losses[0] and noise < 2e-5
        kind, numbers = case["optimizer"]
        out["cases"][name] = {
            "kind": kind,
            **numbers,
            "trained": trained,
            "losses": losses,
            **{key: summary(tensor, 4) for key, tensor in state.items()},
        }
    return out


def main(folder):
    torch.set_num_threads(1)
    write(os.path.join(folder, "optimizers.json"), optimizers())
    write(os.path.join(folder, "training.json"), training())


main(sys.argv[1])
