#!/usr/bin/env python3
"""Makes tests/data/parity/closed_form.json: features of several depths of torchvision's ResNet-18, by hooks; a ridge in
scikit-learn's way of weighing classes, each picture left out in turn; scores of unknown pictures by inverted covariances.

    make_closed_form.py OUT_FOLDER

Needs torch, torchvision and numpy (made with torch 2.14.1 and torchvision 0.29.1).
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision

import formula
from make_resnet import gain
from summary import summary


def depths():
    model = torchvision.models.resnet18(weights=None).eval()
    formula.fill(model)
    state = model.state_dict()
    for name, tensor in state.items():
        for suffix, factor in gain(model):
            if name.endswith(suffix):
                tensor.mul_(factor)
    maps = []
    blocks = [block for layer in (model.layer1, model.layer2, model.layer3, model.layer4) for block in layer]
    for block in blocks:
        block.register_forward_hook(lambda module, given, got: maps.append(got))
    with torch.no_grad():
        model(formula.prepared(2, 64))
    out = {}
    for name, chosen in (("stages", maps[1::2]), ("blocks", maps)):
        parts = []
        for m in chosen[:-1]:
            parts += [m.mean((2, 3)), m.var((2, 3), unbiased=False).sqrt()]
        out[name] = summary(torch.cat(parts + [chosen[-1].mean((2, 3))], 1))
    return out


def draws(name, n, d):
    return formula.uniform(name, n * d).reshape(n, d) * 2 - 1


def task():
    """60 pictures of 8 features; 10 of class 1, 15 of class 2, the others of class 0."""
    y = np.array([1] * 10 + [2] * 15 + [0] * 35)
    x = draws("closed_form.x", 60, 8)
    x[np.arange(60), y] += 0.8
    return x, y


def balanced_ridge(x, y, strength):
    n = len(x)
    weight = n / (3 * np.bincount(y))[y]
    centred = (x - np.average(x, axis=0, weights=weight)) * np.sqrt(weight)[:, None]
    penalty = strength * (centred**2).sum() / min(n - 1, x.shape[1])
    a, targets = np.hstack([x, np.ones((n, 1))]), np.eye(3)[y]
    free = np.diag([penalty] * x.shape[1] + [0.0])
    values = []
    for i in range(n):
        w = weight.copy()
        w[i] = 0
        values.append(a[i] @ np.linalg.solve(a.T @ (a * w[:, None]) + free, a.T @ (targets * w[:, None])))
    values = np.array(values)
    return {"strength": strength, "penalty": penalty, "held_out": values.flatten().tolist(),
            "accuracy": float((weight * (values.argmax(1) == y)).sum() / n)}


def unknown(x, y, z, shrinkage):
    mean, deviation = x.mean(0), x.std(0)
    x, z = (x - mean) / deviation, (z - mean) / deviation
    means = np.array([x[y == c].mean(0) for c in range(3)])

    def inverse(rest):
        covariance = rest.T @ rest / len(rest)
        return np.linalg.inv(covariance + shrinkage * np.trace(covariance) / len(covariance) * np.eye(len(covariance)))

    within, total = inverse(x - means[y]), inverse(x)
    nearest = np.min([np.einsum("ij,jk,ik->i", z - m, within, z - m) for m in means], axis=0)
    return {"shrinkage": shrinkage, "mahalanobis": (-nearest).tolist(),
            "relative_mahalanobis": (np.einsum("ij,jk,ik->i", z, total, z) - nearest).tolist()}


def main(folder):
    x, y = task()
    out = {"depths": depths(), "ridge": balanced_ridge(x, y, 0.1),
           "unknown": unknown(x, y, draws("closed_form.z", 12, 8) * 2, 0.05)}
    (Path(folder) / "closed_form.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
