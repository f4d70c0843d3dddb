#!/usr/bin/env python3
"""Makes tests/data/parity/craft.json: the craft of fine-tuning by PyTorch's and torchvision's own means.

    make_craft.py OUT_FOLDER

- Schedules: torch.optim.lr_scheduler over 1,000 steps of 20 an epoch, every 37th value and those around the corners.
- Losses: value and gradient by autograd in float64.
- MixUp and CutMix: torchvision.transforms.v2 with the random draws replaced by given ones.
- Temperature: the minimum of the likelihood by torch.optim.LBFGS in float64.

Needs torch and torchvision (made with torch 2.14.1, torchvision 0.29.1).
"""
import json
import math
import sys
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.optim import lr_scheduler as schedulers
from torchvision.ops import sigmoid_focal_loss
from torchvision.transforms import v2

import formula

STEPS, PER_EPOCH, RATE = 1000, 20, 0.03


def uniform(name, *shape):
    return torch.from_numpy(formula.uniform(name, math.prod(shape))).reshape(shape)


# ---------------------------------------------------------------------------------------------------------- schedules
def series(make, per_epoch):
    """The factors of rate and of momentum that each step is taken with."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE, momentum=0.9)
    scheduler = make(optimizer)
    out = []
    for step in range(STEPS):
        group = optimizer.param_groups[0]
        out.append((group["lr"] / RATE, group["momentum"]))
        optimizer.step()
        if not per_epoch or (step + 1) % PER_EPOCH == 0:
            scheduler.step()
    return out


def warm_cosine(rise, least, start):
    def make(optimizer):
        up = schedulers.LinearLR(optimizer, start_factor=start, total_iters=rise)
        down = schedulers.CosineAnnealingLR(optimizer, T_max=STEPS - rise, eta_min=least * RATE)
        return schedulers.SequentialLR(optimizer, [up, down], milestones=[rise])

    return make


SCHEDULES = {
    "constant": (lambda o: schedulers.ConstantLR(o, factor=1.0), False),
    "step": (lambda o: schedulers.StepLR(o, step_size=7, gamma=0.3), True),
    "multi_step": (lambda o: schedulers.MultiStepLR(o, milestones=[3, 10, 11, 40], gamma=0.2), True),
    "exponential": (lambda o: schedulers.ExponentialLR(o, gamma=0.93), True),
    "cosine": (lambda o: schedulers.CosineAnnealingLR(o, T_max=STEPS), False),
    "cosine_warm": (warm_cosine(100, 0.01, 0.01), False),
    "cosine_37": (warm_cosine(37, 0.0, 0.5), False),
    "one_cycle": (lambda o: schedulers.OneCycleLR(o, max_lr=RATE, total_steps=STEPS), False),
    "one_cycle_other": (
        lambda o: schedulers.OneCycleLR(
            o, max_lr=RATE, total_steps=STEPS, pct_start=0.123, div_factor=10, final_div_factor=100,
            base_momentum=0.8, max_momentum=0.9),
        False),
    "polynomial": (lambda o: schedulers.PolynomialLR(o, total_iters=STEPS, power=1.0), False),
    "rising": (lambda o: schedulers.LambdaLR(o, lambda step: 1e4 ** (step / (STEPS - 1))), False),
    "polynomial_09": (lambda o: schedulers.PolynomialLR(o, total_iters=STEPS, power=0.9), False),
}


KEPT = sorted(set(range(0, STEPS, 37)) | {1, 19, 20, 21, 36, 99, 100, 101, 122, 123, 299, 300, 301, 998, 999})


def thinned(name):
    values = series(*SCHEDULES[name])
    out = {"rate": [values[step][0] for step in KEPT]}
    if name.startswith("one_cycle"):
        out["momentum"] = [values[step][1] for step in KEPT]
    return out


PLATEAUS = {
    "plain": dict(mode="min", factor=0.5, patience=2, threshold=1e-4, cooldown=0, min_lr=0.0),
    "cooling": dict(mode="min", factor=0.3, patience=1, threshold=0.05, cooldown=4, min_lr=0.0),
    "least": dict(mode="min", factor=0.1, patience=0, threshold=1e-4, cooldown=0, min_lr=0.02 * RATE),
    "accuracy": dict(mode="max", factor=0.5, patience=3, threshold=1e-3, cooldown=1, min_lr=0.0),
}


def plateau(name, options):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, eps=0.0, **options)
    noise, out = uniform("plateau." + name, 60).tolist(), []
    for epoch in range(60):
        value = math.exp(-epoch / 8) + 0.2 * noise[epoch]
        scheduler.step(1.0 - value if options["mode"] == "max" else value)
        out.append(optimizer.param_groups[0]["lr"] / RATE)
    return out


# ------------------------------------------------------------------------------------------------------------- losses
N, CLASSES = 7, 5
WEIGHTS = [0.5, 1.0, 2.0, 0.7, 1.3]


def focal(logits, soft, gamma, weights=None):
    """As the paper has it, with p itself; for class indices `soft` is one-hot."""
    p = torch.softmax(logits, 1)
    w = soft if weights is None else soft * weights
    return (-w * (1 - p) ** gamma * torch.log(p)).sum() / w.sum()


def losses():
    logits = (uniform("craft.logits", N, CLASSES) * 8 - 4).requires_grad_()
    index = (uniform("craft.index", N) * CLASSES).long()
    soft = uniform("craft.soft", N, CLASSES)
    soft = soft / soft.sum(1, keepdim=True)
    many = (uniform("craft.many", N, CLASSES) > 0.6).double()
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    hot = F.one_hot(index, CLASSES).double()
    cases = {
        "index": F.cross_entropy(logits, index),
        "index_smooth": F.cross_entropy(logits, index, label_smoothing=0.1),
        "index_weights": F.cross_entropy(logits, index, weight=weights),
        "index_both": F.cross_entropy(logits, index, weight=weights, label_smoothing=0.2),
        "soft": F.cross_entropy(logits, soft),
        "soft_smooth": F.cross_entropy(logits, soft, label_smoothing=0.1),
        "soft_both": F.cross_entropy(logits, soft, weight=weights, label_smoothing=0.2),
        "focal": focal(logits, hot, 2.0),
        "focal_weights": focal(logits, hot, 1.5, weights),
        "focal_soft": focal(logits, soft, 2.0),
        "focal_soft_weights": focal(logits, soft, 0.5, weights),
        "binary": F.binary_cross_entropy_with_logits(logits, many),
        "binary_weights": F.binary_cross_entropy_with_logits(logits, many, pos_weight=weights),
        "sigmoid_focal": sigmoid_focal_loss(logits, many, reduction="mean"),
        "sigmoid_focal_other": sigmoid_focal_loss(logits, many, alpha=-1, gamma=1.0, reduction="mean"),
    }
    out = {}
    for name, value in cases.items():
        gradient, = torch.autograd.grad(value, logits, retain_graph=True)
        out[name] = {"value": value.item(), "gradient": gradient.flatten().tolist()}
    return out


# -------------------------------------------------------------------------------------------------------------- mixing
def mixes():
    """Pictures (3, 2, 6, 8), labels 2, 0, 3 of 4."""
    x, y = uniform("craft.pictures", 3, 2, 6, 8).float(), torch.tensor([2, 0, 3])
    out = {}
    mix = v2.MixUp(alpha=1.0, num_classes=4)
    mix._dist.sample = lambda shape: torch.tensor(0.3)
    a, b = mix(x, y)
    out["mixup"] = {"lambda": float(torch.tensor(0.3)), "x": a.flatten().tolist(), "y": b.flatten().tolist()}
    for name, lam, column, row in [("inside", 0.7, 4, 3), ("corner", 0.4, 7, 0), ("nothing", 0.999, 2, 2)]:
        cut = v2.CutMix(alpha=1.0, num_classes=4)
        cut._dist.sample = lambda shape: torch.tensor(lam)
        centre, real = iter([torch.tensor([column]), torch.tensor([row])]), torch.randint
        torch.randint = lambda *args, **kwargs: next(centre)
        a, b = cut(x, y)
        torch.randint = real
        out["cutmix_" + name] = {
            "lambda": float(torch.tensor(lam)), "column": column, "row": row,
            "x": a.flatten().tolist(), "y": b.flatten().tolist()}
    return out


# --------------------------------------------------------------------------------------------------------- temperature
def temperatures():
    out = {}
    for name, scale in [("sure", 12.0), ("unsure", 1.5)]:
        n, classes = 200, 4
        logits = uniform("temperature.logits." + name, n, classes) * scale
        # Of each picture's labels, three in five are the largest logit's.
        drawn = (uniform("temperature.draw." + name, n) * classes).long()
        target = torch.where(uniform("temperature.right." + name, n) < 0.6, logits.argmax(1), drawn)
        inverse = torch.ones((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([inverse], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-16,
                                      line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(logits * inverse, target)
            loss.backward()
            return loss

        optimizer.step(closure)
        out[name] = {"scale": scale, "temperature": 1.0 / inverse.item()}
    return out


def main():
    warnings.simplefilter("ignore")
    content = {
        "torch": torch.__version__,
        "steps": KEPT,
        "schedules": {name: thinned(name) for name in SCHEDULES},
        "plateaus": {name: plateau(name, options) for name, options in PLATEAUS.items()},
        "losses": losses(),
        "mixes": mixes(),
        "temperatures": temperatures(),
    }
    path = Path(sys.argv[1]) / "craft.json"
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
