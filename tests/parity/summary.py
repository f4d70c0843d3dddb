"""What is kept of a tensor: enough to tell it from another one, and small."""
import json
import re


def summary(tensor, values=16):
    """Sum, L2 norm, mean and deviation (of the population) in double precision, the largest magnitude, and values at
    equal distances."""
    x = tensor.detach().double().reshape(-1)
    step = max(1, x.numel() // values)
    return {
        "count": x.numel(),
        "sum": x.sum().item(),
        "l2": x.norm().item(),
        "mean": x.mean().item(),
        "deviation": x.std(correction=0).item(),
        "largest": x.abs().max().item(),
        "step": step,
        "values": x[::step][:values].tolist(),
    }


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return value


def write(path, value):
    """JSON, with the innermost lists on one line each."""
    text = json.dumps(rounded(value), indent=1)
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + re.sub(r"\s*\n\s*", " ", m.group(1)) + "]", text)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    print(path, len(text))
