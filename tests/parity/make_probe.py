#!/usr/bin/env python3
"""Makes tests/data/parity/probe.json: LogME, ridge and logistic regression by other ways than the library's.

    make_probe.py OUT_FOLDER

- LogME: the density of the targets as a Gaussian of N dimensions, with its covariance written out, maximised over alpha
  and beta by a grid that closes in. No singular values, no fixed point.
- Ridge: fitted N times, each to all pictures but one, by the normal equations with a column of ones for the bias.
- Logistic regression: torch.optim.LBFGS with its strong Wolfe search, in float64.

Needs torch and numpy (made with torch 2.14.1).
"""
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch

import formula

# Name: pictures, features, classes, how far the classes lie apart, the scale of all.
CASES = {
    "tall": (60, 12, 3, 0.5, 1.0),
    "wide": (24, 40, 3, 0.5, 1.0),
    "square": (30, 30, 2, 0.7, 1.0),
    "large": (80, 8, 4, 0.6, 300.0),
    "small": (50, 10, 2, 1.0, 1e-3),
    "noise": (70, 6, 3, 0.0, 1.0),
}
STRENGTHS = [1e-4, 1e-2, 1.0, 1e2]


def task(name):
    """tests/unit/probe_test.cpp makes the same."""
    n, d, classes, apart, scale = CASES[name]
    y = np.floor(formula.uniform(name + ".y", n) * classes).astype(int)
    means = formula.uniform(name + ".means", classes * d).reshape(classes, d) * 2 - 1
    x = formula.uniform(name + ".x", n * d).reshape(n, d) * 2 - 1
    return scale * (x + apart * means[y]), y, classes


def log_density(y, gram, alpha, beta):
    covariance = gram / alpha + np.eye(len(y)) / beta
    factor = np.linalg.cholesky(covariance)
    half = np.linalg.solve(factor, y)
    return -0.5 * (len(y) * math.log(2 * math.pi) + half @ half) - np.log(np.diag(factor)).sum()


def max_evidence(y, x):
    gram = x @ x.T
    unit = np.trace(gram) / min(x.shape)
    # log(alpha / unit) and log(beta)
    middle, width, best = np.array([0.0, 3.0]), 24.0, -math.inf
    while width > 1e-6:
        # The first grid is fine, as there may be two tops.
        steps = np.linspace(-width / 2, width / 2, 61 if width == 24.0 else 13)
        for a in steps:
            for b in steps:
                point = middle + (a, b)
                try:
                    value = log_density(y, gram, unit * math.exp(point[0]), math.exp(point[1]))
                except np.linalg.LinAlgError:
                    continue
                if value > best:
                    best, at = value, point
        middle, width = at, width * 0.6
    # Where the features say nothing, alpha has no end.
    return best / len(y), unit * math.exp(at[0]) if at[0] < 15 else None, math.exp(at[1])


def penalty_unit(x):
    return ((x - x.mean(0)) ** 2).sum() / min(len(x) - 1, x.shape[1])


def ridge(x, targets, penalty):
    a = np.hstack([x, np.ones((len(x), 1))])
    free = np.eye(a.shape[1]) * penalty
    free[-1, -1] = 0
    return np.linalg.solve(a.T @ a + free, a.T @ targets)


def ridge_case(x, y, classes):
    targets, out = np.eye(classes)[y], []
    for strength in STRENGTHS:
        penalty = strength * penalty_unit(x)
        values = []
        for i in range(len(x)):
            rest = np.arange(len(x)) != i
            values.append(np.append(x[i], 1.0) @ ridge(x[rest], targets[rest], penalty))
        values = np.array(values)
        out.append({"strength": strength, "penalty": penalty, "accuracy": (values.argmax(1) == y).mean(),
                    "squared_error": ((values - targets) ** 2).mean()})
        if strength == 1e-2:
            out[-1]["held_out"] = [float(f"{v:.12g}") for v in values.flatten()]
    return out


def logistic_case(x, y, classes, strength):
    penalty = strength * penalty_unit(x) / len(x)
    # Scaled, so that LBFGS comes to the minimum; the loss is the same.
    scale = x.std()
    data, target = torch.tensor(x / scale), torch.tensor(y)
    w = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w, b], max_iter=5000, tolerance_grad=1e-12, tolerance_change=1e-16,
                                  history_size=50, line_search_fn="strong_wolfe")

    def loss():
        return torch.nn.functional.cross_entropy(data @ w.T + b, target) + penalty / scale**2 / 2 * (w * w).sum()

    def closure():
        optimizer.zero_grad()
        out = loss()
        out.backward()
        return out

    for _ in range(5):  # its memory begins anew where rounding ended a search
        optimizer.step(closure)
    closure()
    steepest = max(w.grad.abs().max(), b.grad.abs().max()).item()
    assert steepest < 1e-7, steepest
    return {"strength": strength, "loss": loss().item(),
            "weight": [float(f"{v:.8g}") for v in (w.detach() / scale).flatten()],
            "bias": (b.detach() - b.detach().mean()).tolist()}


def main(folder):
    out = {}
    for name, (n, d, classes, apart, scale) in CASES.items():
        x, y, _ = task(name)
        evidence = [max_evidence((y == c).astype(float), x) for c in range(classes)]
        out[name] = {
            "shape": [n, d, classes], "apart": apart, "scale": scale,
            "x_sum": np.abs(x).sum(), "counts": np.bincount(y, minlength=classes).tolist(),
            "logme": np.mean([e[0] for e in evidence]),
            "evidence": [{"log_evidence": e[0], "alpha": e[1], "beta": e[2]} for e in evidence],
            "ridge": ridge_case(x, y, classes),
            "logistic": [logistic_case(x, y, classes, s) for s in (1e-1, 10.0)],
        }
        print(name, out[name]["logme"], [round(r["accuracy"], 3) for r in out[name]["ridge"]])
    (Path(folder) / "probe.json").write_text(json.dumps(out, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
