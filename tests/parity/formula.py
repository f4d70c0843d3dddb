"""Numbers by a formula, the same in Python and in C++ (tests/unit/formula.hpp), so that no file of weights is needed
to compare two programs."""
import math

import numpy as np
import torch

MASK = (1 << 64) - 1


def fnv1a(name):
    """The 64-bit FNV-1a hash of a name."""
    out = 0xCBF29CE484222325
    for byte in name.encode():
        out = ((out ^ byte) * 0x100000001B3) & MASK
    return out


def uniform(name, count):
    """`count` doubles in [0, 1): number i is splitmix64's i-th, started at the name's hash."""
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def values(name, shape):
    """A float32 tensor for this name of a state dict: batch norms that are far from the identity, weights of variance
    2 / fan-in."""
    sides = shape
    count = math.prod(shape)
    # A scale of channels is one, whether it is (C) or (C, 1, 1).
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    u = uniform(name, count)
    if name.endswith("running_var"):
        x = 0.5 + u
    elif name.endswith("running_mean") or name.endswith("bias"):
        x = (u - 0.5) * 0.6
    elif len(shape) == 1:
        x = 0.6 + 0.8 * u
    else:
        x = (2.0 * u - 1.0) * math.sqrt(6.0 / (count // shape[0]))
    return torch.from_numpy(x.astype(np.float32)).reshape(sides)


def fill(module):
    """Sets every tensor of the module's state dict."""
    state = module.state_dict()
    for name, tensor in state.items():
        if tensor.dtype == torch.int64:
            tensor.fill_(fnv1a(name) % 1000)
        else:
            tensor.copy_(values(name, tuple(tensor.shape)))


def pictures(count, size):
    """(count, 3, size, size) uint8."""
    c, y, x = torch.meshgrid(*(torch.arange(k) for k in (3, size, size)), indexing="ij")
    first, slope = c * 67 + y * 31 + x * 17 + (x * y * 7) % 53 + (c * x) // 3, x + 2 * y
    return torch.stack([((first + n * 41 + n // 256 * slope) % 256).to(torch.uint8) for n in range(count)])


def prepared(count, size):
    """The same as EfficientNet-Lite takes them: (x - 127) / 128."""
    return (pictures(count, size).float() - 127.0) / 128.0
