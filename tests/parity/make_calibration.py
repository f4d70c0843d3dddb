#!/usr/bin/env python3
"""Makes tests/data/parity/calibration.json: what scikit-learn and torchmetrics say of made-up answers.

    make_calibration.py OUT_FOLDER

Precision, recall, F1, support, log loss and Brier's score by scikit-learn; the expected and the maximum calibration
error by torchmetrics. Needs scikit-learn, torchmetrics and torch (made with 1.9.1, 1.9.0 and 2.14.1).
"""
import json
import sys
from pathlib import Path

import numpy as np
import sklearn.metrics as sk
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

import formula

# Name: pictures, classes, which part of the answers is made right.
CASES = {"two": (90, 2, 0.7), "three": (60, 3, 0.5), "ten": (700, 10, 0.8), "chance": (300, 5, 0.0)}


def answers(name):
    """tests/unit/run_report_test.cpp makes the same."""
    n, classes, right = CASES[name]
    weights = formula.uniform(name + ".p", n * classes).reshape(n, classes)
    weights = weights * weights
    weights = weights * weights
    p = weights / weights.cumsum(axis=1)[:, -1:]
    y = np.floor(formula.uniform(name + ".y", n) * classes).astype(int)
    return p, np.where(formula.uniform(name + ".right", n) < right, p.argmax(axis=1), y)


def main():
    out = {}
    for name in CASES:
        p, y = answers(name)
        classes = list(range(p.shape[1]))
        by = lambda average: sk.precision_recall_fscore_support(y, p.argmax(axis=1), labels=classes, average=average,
                                                                zero_division=0.0)
        scores = lambda average: [x if x is None else np.asarray(x).tolist() for x in by(average)]
        error = lambda norm: multiclass_calibration_error(
            torch.tensor(p), torch.tensor(y), num_classes=len(classes), n_bins=15, norm=norm).item()
        out[name] = {"accuracy": sk.accuracy_score(y, p.argmax(axis=1)), "classes": scores(None),
                     "macro": scores("macro")[:3], "weighted": scores("weighted")[:3],
                     "nll": sk.log_loss(y, p, labels=classes),
                     "brier": sk.brier_score_loss(y, p, labels=classes, scale_by_half=False),
                     "ece": error("l1"), "mce": error("max")}
    Path(sys.argv[1], "calibration.json").write_text(json.dumps(out, indent=1) + "\n")


main()
