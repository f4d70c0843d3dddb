#!/usr/bin/env python3
"""What jobs.py measures against: pictures a second of training and of testing, printed as "train=… test=…".

    train_peers.py peak THREADS
        What the machine can do: multiply-adds a second in products of matrices, bytes a second in copies.

    train_peers.py resnet50 train|eval THREADS
        PyTorch's tutorial: a frozen ResNet-50, a new linear layer, Adam, batches of 64, the network run at each step,
        its batch norms in training mode as the tutorial leaves them, or in evaluation.
    train_peers.py keras FROM FLIPS BACKEND THREADS
        Keras's MobileNetV3-Small, frozen (FROM 0) or trained from a layer on, by `fit` and `evaluate`, batches of 50, on
        tensorflow or torch.

Pictures are made up, resized beforehand: what is measured is the network's part.
"""
import os
import sys
import time

import torch

which, words, threads = sys.argv[1], sys.argv[2:-1], int(sys.argv[-1])
torch.set_num_threads(threads)
torch.manual_seed(1)


def resnet50(mode):
    import torchvision

    batch, steps = 64, 1
    model = torchvision.models.resnet50()
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.fc = torch.nn.Linear(2048, 10)
    optimizer = torch.optim.Adam(model.fc.parameters(), lr=1e-3)
    x, y = torch.randn(batch, 3, 224, 224), torch.arange(batch) % 10

    def train():
        model.train(mode == "train")
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    def test():
        model.eval()
        with torch.no_grad():
            out = model(x)
            return torch.nn.functional.cross_entropy(out, y).item(), (out.argmax(1) == y).sum().item()

    def speed(step):
        step()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return batch * steps / (time.perf_counter() - start)

    return speed(train), speed(test)


def keras(first, flips, backend):
    os.environ["KERAS_BACKEND"] = backend
    if backend == "tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    import keras
    import numpy

    count, batch = 500, 50
    base = keras.applications.MobileNetV3Small(input_shape=(224, 224, 3), include_top=False, weights=None,
                                               include_preprocessing=True)
    base.trainable = first > 0
    for layer in base.layers[:first]:
        layer.trainable = False
    layers = [keras.Input((224, 224, 3))] + ([keras.layers.RandomFlip("horizontal_and_vertical")] if flips else [])
    # The base in inference mode, as Keras's guide has it for fine-tuning.
    inputs = x = layers[0]
    for layer in layers[1:]:
        x = layer(x)
    x = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(base(x, training=False)))
    model = keras.Model(inputs, x)
    model.compile(optimizer=keras.optimizers.Adam(1e-4), metrics=["accuracy"],
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pictures = numpy.random.default_rng(1).integers(0, 256, (count, 224, 224, 3)).astype("float32")
    classes = numpy.arange(count) % 10

    def speed(work):
        work(pictures[:batch], classes[:batch])
        start = time.perf_counter()
        work(pictures, classes)
        return count / (time.perf_counter() - start)

    return (speed(lambda x, y: model.fit(x, y, batch_size=batch, verbose=0)),
            speed(lambda x, y: model.evaluate(x, y, batch_size=batch, verbose=0)))


def peak():
    """The best of twenty."""

    def best(work):
        seconds = []
        for _ in range(21):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])

    n = 2048
    # Without an instruction for it bfloat16 takes minutes.
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported() and "ONEDNN_MAX_CPU_ISA" not in os.environ
    for kind in (torch.bfloat16, torch.float32) if native else (torch.float32,):
        # A linear layer's weight is packed once where LibTorch can do it.
        a, b = torch.randn(n, n).to(kind), torch.randn(n, n).to(kind)
        print(f"{'bf16' if kind == torch.bfloat16 else 'fp32'}={n ** 3 / best(lambda: a @ b):.6g}", end=" ")
    source = torch.zeros(1 << 28, dtype=torch.uint8)
    target = torch.zeros_like(source)
    print(f"copy={2 * len(source) / best(lambda: target.copy_(source)):.6g}")


if which == "peak":
    peak()
    sys.exit()
train, test = resnet50(*words) if which == "resnet50" else keras(int(words[0]), words[1] == "1", words[2])
print(f"train={train:.4f} test={test:.4f}")
