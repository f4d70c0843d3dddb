#!/usr/bin/env python3
"""Makes the checkpoints in tests/data/checkpoints, and checks ours against Python's.

  make_checkpoints.py make FOLDER      writes the fixtures; needs torch, numpy and safetensors
  make_checkpoints.py verify PROGRAM   runs `PROGRAM convert IN OUT` on random state dicts of every type, both formats
                                       and both ways, and compares what Python then loads (weights_only, mmap)

The fixtures hold formula values: number i of a tensor is i + 1, in the tensor's type (a bool: whether i is even; a
complex number: i + 1 - (i + 1)j; float8_e8m0fnu, which has powers of two alone: 2 ** (i % 8)).
"""
import collections
import io
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
import zipfile

import torch

warnings.filterwarnings("ignore")
TYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16",
         "uint8", "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
         "float8_e5m2fnuz", "float8_e8m0fnu"]


def formula(shape, dtype=torch.float32):
    n = 1
    for side in shape:
        n *= side
    x = torch.arange(1, n + 1, dtype=torch.float64)
    if dtype == torch.bool:
        x = x % 2 == 1
    elif dtype.is_complex:
        x = torch.complex(x, -x)
    elif dtype == torch.float8_e8m0fnu:
        x = 2.0 ** ((x - 1) % 8)
    if dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
                 torch.float8_e8m0fnu):
        x = x.to(torch.float32)
    return x.to(dtype).reshape(shape)


def every_type():
    return {name: formula((2, 3), getattr(torch, name)) for name in TYPES}


def shapes():
    """Strides, offsets, shared storages, no side, no number."""
    base = formula((4, 5))
    out = collections.OrderedDict()
    out["base"] = base
    out["transposed"] = base.t()
    out["column"] = base[:, 2]
    out["block"] = base[1:3, 1:4]
    out["expanded"] = formula((1,)).expand(2, 3)
    out["scalar"] = torch.tensor(7.0)
    out["empty"] = torch.zeros(0, 3)
    out["parameter"] = torch.nn.Parameter(formula((3,)))
    out["tied"] = out["parameter"]
    return out


def small():
    return {"weight": formula((2, 3)), "bias": formula((2,)), "count": torch.tensor(5)}


def module():
    net = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.BatchNorm1d(1))
    with torch.no_grad():
        for t in list(net.parameters()):
            t.copy_(formula(t.shape))
    return net


class Conv(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = torch.nn.Conv2d(width, width, 1, bias=False)
        self.bn = torch.nn.BatchNorm2d(width)
        self.act = torch.nn.SiLU()


class Detect(torch.nn.Module):
    """The last layer of YOLO v5: tensors as attributes, in lists, and as buffers that belong to no state."""
    def __init__(self, width):
        super().__init__()
        self.nc = 2
        self.stride = formula((2,))
        self.grid = [torch.zeros(1)] * 2
        self.register_buffer("anchors", formula((2, 1, 2)))
        self.register_buffer("passing", formula((3,)), persistent=False)
        self.m = torch.nn.ModuleList(torch.nn.Conv2d(width, 7, 1) for _ in range(2))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.yaml = {"nc": 2, "backbone": [[-1, 1, "Conv", [2]]]}
        self.names = ["a", "b"]
        self.model = torch.nn.Sequential(Conv(2), Detect(2))
        self.tied = self.model[0].conv


def whole():
    """A module as YOLO v5 and v7 publish theirs, in half precision; its classes are of modules that nobody has."""
    import types
    for name, kinds in (("models.common", (Conv,)), ("models.yolo", (Detect, Model))):
        there = types.ModuleType(name)
        sys.modules.setdefault("models", types.ModuleType("models"))
        sys.modules[name] = there
        for kind in kinds:
            kind.__module__ = name
            setattr(there, kind.__name__, kind)
    out = Model()
    with torch.no_grad():
        for t in out.parameters():
            t.copy_(formula(t.shape))
    return out.half()


class Evil:
    def __reduce__(self):
        return os.system, ("echo this must never run",)


def make(folder):
    import numpy
    from safetensors.torch import save_file
    os.makedirs(folder, exist_ok=True)

    def path(name):
        return os.path.join(folder, name)

    def save(value, name, **options):
        # Through memory, so that the archive's name is "archive" everywhere.
        buffer = io.BytesIO()
        torch.save(value, buffer, **options)
        with open(path(name), "wb") as f:
            f.write(buffer.getvalue())

    legacy = {"_use_new_zipfile_serialization": False}
    save(every_type(), "types.pth")
    save({k: v for k, v in every_type().items()}, "types_legacy.pth", **legacy)
    save_file({k: v for k, v in every_type().items() if k != "complex128"}, path("types.safetensors"))
    save(shapes(), "shapes.pth")
    save(shapes(), "shapes_legacy.pth", **legacy)
    save(small(), "small.pth")
    save(small(), "small_legacy.pth", **legacy)
    save_file(small(), path("small.safetensors"), metadata={"format": "pt"})
    for protocol in (1, 3, 4, 5):
        save(small(), f"protocol{protocol}.pth", pickle_protocol=protocol)
    for protocol in (1, 4):
        save(small(), f"protocol{protocol}_legacy.pth", pickle_protocol=protocol, **legacy)

    net = module()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.125)
    net(formula((4, 2))).sum().backward()
    optimizer.step()
    with torch.no_grad():
        for t in list(net.parameters()):
            t.copy_(formula(t.shape))
    save(net.state_dict(), "module.pth")
    save({"epoch": 3, "optimizer": optimizer.state_dict(), "best": 0.5, "name": "net", "state_dict": net.state_dict()},
         "nested.pth")
    wrapped = torch.nn.DataParallel(net)
    save({"model": wrapped.state_dict(), "model_ema": wrapped.state_dict(), "args": {"lr": 0.1, "names": ("a", "b"),
          "set": {1}, "bytes": b"ab", "big": 2 ** 70, "device": torch.device("cuda:0"), "dtype": torch.float16,
          "shape": torch.Size([2, 3]), "default": collections.defaultdict(list), "complex": 1j, "none": None}},
         "wrapped.pth")
    lightning = collections.OrderedDict(("model." + k, v) for k, v in net.state_dict().items())
    save({"epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.0", "state_dict": lightning, "loops": {"a": {}},
          "callbacks": {}, "optimizer_states": [optimizer.state_dict()], "lr_schedulers": []}, "lightning.pth")
    save({"generator": {"weight": formula((2,))}, "discriminator": {"weight": formula((3,))}, "step": 4}, "two.pth")

    import argparse
    module_ = whole()
    save({"epoch": -1, "best_fitness": numpy.float64(0.5), "model": module_, "ema": None, "updates": None,
          "optimizer": None, "opt": argparse.Namespace(lr=0.1, sizes=[1, 2]), "date": "2021"}, "whole.pth")
    save(module_, "whole_alone.pth", pickle_protocol=4)
    get, torch.serialization.get_source_lines_and_file = torch.serialization.get_source_lines_and_file, None
    save(module_, "whole_legacy.pth", **legacy)  # without the text of its classes
    torch.serialization.get_source_lines_and_file = get
    save(module_.state_dict(), "whole_state.pth")

    tag, torch.serialization.location_tag = torch.serialization.location_tag, lambda storage: "cuda:1"
    save(small(), "cuda.pth")
    save(small(), "cuda_legacy.pth", **legacy)
    torch.serialization.location_tag = tag
    torch.serialization.set_crc32_options(False)
    save(small(), "no_checksums.pth")
    torch.serialization.set_crc32_options(True)

    # What is refused.
    save({"weight": formula((2,)), "evil": Evil()}, "evil.pth")
    save({"q": torch.quantize_per_tensor(formula((2,)), 1.0, 0, torch.qint8)}, "quantized.pth")
    save({"conjugate": formula((2,), torch.complex64).conj()}, "conjugate.pth")
    save(formula((2,)), "tensor.pth")
    save({"epoch": 1, "lr": 0.5}, "no_tensors.pth")
    with open(path("plain.pickle"), "wb") as f:
        pickle.dump({"weight": [1.0]}, f)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer)
    with open(path("script.pt"), "wb") as f:
        f.write(buffer.getvalue())
    numpy.savez(path("arrays.npz"), weight=numpy.ones(2))
    with zipfile.ZipFile(path("small.pth")) as old, zipfile.ZipFile(path("deflated.pth"), "w") as new:
        for info in old.infolist():
            new.writestr(zipfile.ZipInfo(info.filename), old.read(info), zipfile.ZIP_DEFLATED)
    for name in sorted(os.listdir(folder)):
        print(f"{os.path.getsize(path(name)):7d}  {name}")


def equal(a, b):
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = a.detach().contiguous(), b.detach().contiguous()
    return a.numel() == 0 or torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def verify(program):
    from safetensors.torch import load_file, save_file
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        return int(torch.randint(0, n, (1,), generator=generator))

    def random_tensor(name):
        dtype = getattr(torch, name)
        shape = [draw(5) for _ in range(draw(5))]
        n = 1
        for side in shape:
            n *= side
        raw = torch.randint(0, 256, (n * dtype.itemsize,), dtype=torch.uint8, generator=generator)
        return (raw % 2 if dtype == torch.bool else raw).view(dtype).reshape(shape)

    count = 0
    with tempfile.TemporaryDirectory() as folder:
        def convert(a, b):
            done = subprocess.run([*program.split(), "convert", a, b], capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"convert {a} {b}: {done.stdout}{done.stderr}")

        for round_ in range(40):
            state = {f"layer{i}.{name}": random_tensor(name) for i in range(2) for name in TYPES}
            for key in list(state):
                kind = draw(4)
                if kind == 0 and state[key].dim() > 1:
                    state[key] = state[key].transpose(0, 1)
                elif kind == 1 and state[key].dim() > 0 and state[key].shape[0] > 1:
                    state[key] = state[key][1:]
                elif kind == 2:
                    state[key + "_again"] = state[key]
            a, b, c, d, e = (os.path.join(folder, n) for n in ("a.pth", "b.pth", "c.pth", "d.safetensors", "e.pth"))
            torch.save(state, a, pickle_protocol=[2, 3, 4, 5][round_ % 4], _use_new_zipfile_serialization=round_ % 3 != 0)
            convert(a, b)
            loaded = torch.load(b, weights_only=True)
            mapped = torch.load(b, weights_only=True, mmap=True)
            assert list(loaded) == list(state) == list(mapped)
            for key in state:
                assert equal(state[key], loaded[key]) and equal(state[key], mapped[key]), key
            torch.save(loaded, c)  # ours, through Python, to ours
            convert(c, e)
            again = torch.load(e, weights_only=True)
            for key in state:
                assert equal(state[key], again[key]), key
            plain = {k: v.contiguous().clone() for k, v in state.items() if v.dtype != torch.complex128}
            torch.save(plain, a)
            convert(a, d)
            for key, value in load_file(d).items():
                assert equal(plain[key], value), key
            storable = {k: v for k, v in plain.items() if "e8m0" not in k}
            save_file(storable, d, metadata={"format": "pt"})
            convert(d, b)
            back = torch.load(b, weights_only=True, mmap=True)
            assert set(back) == set(storable)
            for key in storable:
                assert equal(storable[key], back[key]), key
            count += len(state)
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        torch.save(net.state_dict(), a)
        convert(a, b)
        net.load_state_dict(torch.load(b, weights_only=True), strict=True)
        convert(b, d)
        net.load_state_dict(load_file(d), strict=True)
    print(f"{count} tensors equal")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("make", "verify"):
        sys.exit(__doc__)
    {"make": make, "verify": verify}[sys.argv[1]](sys.argv[2])
