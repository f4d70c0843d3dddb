"""What is kept of one network of the zoo, run in Python by its original: tests/data/parity/zoo/<name>.json, which
tests/unit/zoo_test.cpp compares ours with. A family's script, make_<family>.py, calls `keep` once a variant.

Weights are the formula's (formula.py), times the factors of `gain`: the last entry whose suffix a tensor's name ends
with. They are chosen so that every stage's deviation lies in [.1, 10], which `keep` checks: a signal that vanishes or
explodes would hide a mistake.

A Keras network is given by names and values alone: `state` is then a list of (name in our network, tensor of our
shape), and `forward` takes pictures as our network's stem does.
"""
import hashlib
import os

import torch

import formula
from summary import summary, write


def short_hash(lines):
    """Of lines that each end with a newline; the first 16 digits of SHA-256."""
    return hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()[:16]


def names_hash(state):
    """A line a tensor, in order: name, type, sides."""
    return short_hash(" ".join([n, str(t.dtype).removeprefix("torch."), *map(str, t.shape)]) for n, t in state)


def leaves(module):
    """The layer table: the names of the flattened modules, in the order of their registration."""
    return [name for name, child in module.named_modules() if not list(child.children())]


def rows(module):
    """The same, with a row for each parameter that a module with children has of its own, before its children's; an
    attention's matrix and bias are one row under the attention's name."""
    out = []
    for name, child in module.named_modules():
        if not list(child.children()) or isinstance(child, torch.nn.MultiheadAttention):
            out.append(name)
        else:
            out += [f"{name}.{p}".lstrip(".") for p, _ in child.named_parameters(recurse=False)]
    return out


def trainable(module, names, cuts):
    """{n: what is learnt when the first n rows of `names` are frozen}."""
    learnt = [name for name, _ in module.named_parameters()]
    return {n: [p for p in learnt if p not in names[:n] and p.rpartition(".")[0] not in names[:n]] for n in cuts}


def fill(module, gain=()):
    """Sets every tensor of the module's state dict by the formula."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            tensor.copy_(value(name, tensor, gain))


def value(name, tensor, gain=()):
    """The formula's tensor for this name, of this shape and type."""
    if not tensor.dtype.is_floating_point:
        return torch.full_like(tensor, formula.fnv1a(name) % 1000)
    factor = 1.0
    for suffix, f in gain:
        if name.endswith(suffix):
            factor = f
    return formula.values(name, tuple(tensor.shape)) * factor


def normalised(pictures, mean, deviation):
    """uint8 pictures by the weights' mean and deviation of R, G and B."""
    return (pictures.float() / 255.0 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)


def prepared(count, size, mean, deviation):
    """The formula's pictures, normalised."""
    return normalised(formula.pictures(count, size), mean, deviation)


def results(forward, x):
    """`forward(x)` gives (list of the pyramid's maps, pooled features, logits or None)."""
    with torch.no_grad():
        stages, pooled, logits = forward(x)
    for number, t in enumerate([*stages, pooled, *([] if logits is None else [logits])]):
        deviation = t.double().std().item()
        assert 0.1 <= deviation <= 10.0, f"value {number} has the deviation {deviation}: choose other gains"
    out = {"stages": [summary(s, 4) for s in stages], "pooled": summary(pooled, 8)}
    if logits is not None:
        out["logits"] = summary(logits, 8)
    return out


def keep(folder, name, original, state, layers, forward_at, sizes, mean, deviation, gain=(), parameters=None, ci=False,
         pictures=1, native=0, renamed=None, trainable=None, strided=None):
    """Writes <folder>/zoo/<name>.json.

    name        ours, as in zoo.hpp
    original    what computed it, with its version: "torchvision 0.29.1"
    state       the state dict's items, in order
    layers      the layer table's names, in order
    forward_at  size -> (pictures -> (stages, pooled, logits or None)), of a network filled by the formula
    sizes       two input sizes, one of them odd (in patches, for a network of patches)
    parameters  how many numbers it learns
    ci          whether every run of the tests covers it: one variant a family
    native      the size for which the weights are filled, where their shapes depend on it
    renamed     {original: (forward at sizes[0], gain)}: another original of the same network, filled by the formula
                under its own names
    trainable   {n: names of our tensors that training changes when layers 0 … n - 1 are frozen}
    strided     {output stride: forward at sizes[0] of the network that is dilated for it, with the same weights}
    """
    state = list(state)
    out = {
        "original": original,
        "ci": ci,
        "gain": [list(g) for g in gain],
        "native": native,
        "pictures": pictures,
        "tensors": len(state),
        "parameters": parameters,
        "names": names_hash(state),
        "layers": {"count": len(layers), "names": short_hash(layers)},
        "sizes": {str(size): results(forward_at(size), prepared(pictures, size, mean, deviation)) for size in sizes},
    }
    if renamed:
        out["renamed"] = {
            who: {"gain": [list(g) for g in own_gain],
                  **results(forward, prepared(pictures, sizes[0], mean, deviation))}
            for who, (forward, own_gain) in renamed.items()
        }
    if trainable:
        out["trainable"] = {str(n): {"count": len(names), "names": short_hash(names)} for n, names in trainable.items()}
    if strided:
        x = prepared(pictures, sizes[0], mean, deviation)
        out["strided"] = {str(stride): results(forward, x) for stride, forward in strided.items()}
    os.makedirs(os.path.join(folder, "zoo"), exist_ok=True)
    write(os.path.join(folder, "zoo", name + ".json"), out)
