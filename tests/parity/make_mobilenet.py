#!/usr/bin/env python3
"""Makes tests/data/parity/zoo/{keras_,}mobilenet_v*.json: what torchvision's, timm's and Keras's MobileNets compute;
see zoo.py. And tests/data/parity/lesson_{03,04,05}.json, an epoch of examples/03_mobilenet_v2_dense.cpp,
04_mobilenet_v3_feature_extraction.cpp and 05_mobilenet_v3_fine_tuning.cpp (without flips) in Keras, on 256 small pictures;
lesson_{04,05}_2000.json are the same on 2,000 of the lessons' own size.

    make_mobilenet.py OUT_FOLDER [lessons]

Needs torch, torchvision, timm and keras (made with torch 2.14.1, torchvision 0.29.1, timm 1.0.31 and keras 3.15.1).
"""
import math
import os
import sys

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import timm
import torch
import torchvision

import formula
import zoo
from order import shuffled
from summary import summary, write

SIZES = [64, 75]  # at 75 some maps are odd and some even, and Keras pads them differently
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
WIDTHS = {"_035": 0.35, "_050": 0.5, "_075": 0.75, "": 1.0, "_130": 1.3, "_140": 1.4}
V2_GAIN = []
V3_GAIN = [("running_var", 1.25)]


def forward_of_torchvision(model):
    def run(x):
        stages = []
        for part in model.features:
            if getattr(part, "_is_cn", False):  # a block of stride 2
                stages.append(x)
            x = part(x)
        pooled = x.mean((2, 3))
        return [*stages, x], pooled, model.classifier(pooled)

    return run


def forward_of_timm(model):
    def run(x):
        stages = []
        x = model.bn1(model.conv_stem(x))
        for part in model.blocks:
            if part[0].conv_dw.stride == (2, 2):
                stages.append(x)
            x = part(x)
        x = model.bn2(model.conv_head(x))
        return [*stages, x], model.forward_head(x, pre_logits=True), model.forward_head(x)

    return run


def keep_torchvision(folder, name, model, gain, ci, timms=None, timms_gain=(), dilated=None):
    zoo.fill(model, gain)
    leaves = zoo.leaves(model)
    strided = renamed = None
    if dilated:
        dilated.load_state_dict(model.state_dict())
        strided = {16: forward_of_torchvision(dilated)}
    if timms:
        other = timm.create_model(timms).eval()
        zoo.fill(other, timms_gain)
        renamed = {"timm": (forward_of_timm(other), timms_gain)}
    zoo.keep(folder, name, "torchvision " + torchvision.__version__.split("+")[0], model.state_dict().items(), leaves,
             lambda size: forward_of_torchvision(model), SIZES, MEAN, DEVIATION, gain=gain,
             parameters=sum(p.numel() for p in model.parameters()), ci=ci, renamed=renamed,
             trainable=zoo.trainable(model, leaves, (35, 70, 105)), strided=strided)


KERAS_NAMES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias", "moving_mean": "running_mean",
               "moving_variance": "running_var"}


def our_name(variable):
    layer, name = variable.path.split("/")
    return layer + "." + KERAS_NAMES[name]


def orders(layer, variable):
    """The permutation of a Keras variable's dimensions that gives ours, and its inverse."""
    if variable.path.split("/")[1] != "kernel":
        return [0], [0]
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return ([2, 3, 0, 1], [2, 3, 0, 1]) if depthwise else ([3, 2, 0, 1], [2, 3, 1, 0])


def fill_keras(model, gain):
    """Sets every variable by the formula. Returns our state dict's items."""
    state = []
    for layer in model.layers:
        for variable in layer.weights:
            there, back = orders(layer, variable)
            tensor = zoo.value(our_name(variable), variable.value.detach().permute(there), gain)
            variable.assign(tensor.permute(back))
            state.append((our_name(variable), tensor))
        if isinstance(layer, keras.layers.BatchNormalization):
            state.append((layer.name + ".num_batches_tracked", torch.tensor(0)))
    return state


def forward_of_keras(model):
    def run(x):
        # A stage ends where a block whose depthwise convolution pads, and so has the stride 2, begins.
        stages = []
        for layer in model.layers:
            if layer.name.endswith("pad"):
                block = [l for l in model.layers if l.name.startswith(layer.name.replace("depthwise_pad", "pad")[:-3])]
                stages.append(block[0].input)
        at = keras.Model(model.input, [*stages, model.output])
        x = x.permute(0, 2, 3, 1)
        if any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers):
            x = (x + 1.0) * 127.5
        maps = [m.permute(0, 3, 1, 2) for m in at(x, training=False)]
        return maps, maps[-1].mean((2, 3)), None

    return run


def keep_keras(folder, name, make, gain, ci, cuts=()):
    def made(size):
        keras.utils.clear_session()  # layers without a name are numbered from the start
        model = make(input_shape=(size, size, 3), weights=None, include_top=False)
        return model, fill_keras(model, gain)

    model, state = made(SIZES[0])
    parameters = sum(v.value.numel() for v in model.trainable_variables)
    trained = {}
    for n in cuts:
        for number, layer in enumerate(model.layers):
            layer.trainable = number >= n
        trained[n] = [our_name(v) for v in model.trainable_variables]
        print(name, "from layer", n, "of", len(model.layers), "trains", len(trained[n]), "variables")
    zoo.keep(folder, name, "keras " + keras.__version__, state, [layer.name for layer in model.layers],
             lambda size: forward_of_keras(made(size)[0]), SIZES, [0.5] * 3, [0.5] * 3, gain=gain,
             parameters=parameters, ci=ci, trainable=trained)


PICTURES, SIZE, CLASSES, EPSILON = 256, 64, 10, 1e-7
MANY, LARGE = 2000, 224
HEAD_GAIN = [("weight", 0.1)]


def dense(name, inputs, outputs, activation):
    """A layer under our name, filled by the formula."""
    layer = keras.layers.Dense(outputs, activation=activation)
    layer.build((None, inputs))
    layer.kernel.assign(zoo.value(name + "weight", torch.zeros(outputs, inputs), HEAD_GAIN).T)
    layer.bias.assign(zoo.value(name + "bias", torch.zeros(outputs), HEAD_GAIN))
    return layer


def lesson(features, hidden, batch, lr, order):
    """The frozen network's features, new dense layers, Adam: an epoch."""
    count = len(features)
    labels = keras.utils.to_categorical([i % CLASSES for i in range(count)], CLASSES)
    width = features.shape[1]
    layers = [dense("hidden.", width, hidden, "relu"), dense("output.", hidden, CLASSES, "softmax")] if hidden else \
        [dense("", width, CLASSES, "softmax")]
    head = keras.Sequential([keras.Input((width,)), *layers])
    head.compile(keras.optimizers.Adam(lr), "categorical_crossentropy", metrics=["accuracy"])
    totals = np.zeros(2)
    for step, start in enumerate(range(0, count, batch), 1):
        # Keras's epsilon is the "epsilon hat" of Kingma and Ba: this makes it the epsilon of their algorithm 1.
        head.optimizer.epsilon = EPSILON * math.sqrt(1.0 - 0.999**step)
        ids = order[start:start + batch]
        totals += len(ids) * np.array(head.train_on_batch(features[ids], labels[ids]))
    loss, accuracy = head.evaluate(features, labels, verbose=0)
    train_loss, train_accuracy = totals / count
    return {"train_loss": float(train_loss), "train_accuracy": float(train_accuracy), "val_loss": loss,
            "val_accuracy": accuracy}, layers[0].kernel.value.T


def write_lesson(folder, file, name, make, gain, hidden, batch, lr, count=PICTURES, size=SIZE):
    keras.utils.clear_session()
    base = make(input_shape=(size, size, 3), weights=None, include_top=False)
    fill_keras(base, gain)
    # The frozen network in inference, global average pooling.
    run = forward_of_keras(base)
    with torch.no_grad():
        features = torch.cat([run(zoo.normalised(x, [0.5] * 3, [0.5] * 3))[1]
                              for x in formula.pictures(count, size).split(32)]).numpy()
    value, weight = lesson(features, hidden, batch, lr, shuffled(count, 0, 1))
    other, _ = lesson(features, hidden, batch, lr, list(range(count)))
    print(file, value, other)
    # Another order is far above what the test allows.
    assert abs(value["train_loss"] - other["train_loss"]) > 3e-3
    write(os.path.join(folder, file), {
        "network": name, "gain": [list(g) for g in gain], "pictures": count, "size": size, "classes": CLASSES,
        "batch": batch, "lr": lr, "epsilon": EPSILON,
        "head": {"gain": [list(g) for g in HEAD_GAIN], "weight": summary(weight)}, "values": value,
    })


FINE_TUNE_AT = 100


def write_fine_tuning(folder, file, name, gain, batch, lr, count=PICTURES, size=SIZE):
    """An epoch of Keras's MobileNetV3-Small, trained from layer 100 on with a new dense layer."""
    keras.utils.clear_session()
    base = keras.applications.MobileNetV3Small(input_shape=(size, size, 3), weights=None, include_top=False)
    pictures = formula.pictures(count, size)
    labels = keras.utils.to_categorical([i % CLASSES for i in range(count)], CLASSES)

    def x(ids):
        return ((zoo.normalised(pictures[ids], [0.5] * 3, [0.5] * 3).permute(0, 2, 3, 1) + 1.0) * 127.5).numpy()

    def epoch(order, at):
        fill_keras(base, gain)
        base.trainable = True
        for layer in base.layers[:at]:
            layer.trainable = False
        head = dense("", base.output.shape[-1], CLASSES, "softmax")
        model = keras.Sequential([base, keras.layers.GlobalAveragePooling2D(), head])
        model.compile(keras.optimizers.Adam(lr), "categorical_crossentropy", metrics=["accuracy"])
        before = {our_name(v): v.numpy().copy() for layer in base.layers for v in layer.weights}
        totals = np.zeros(2)
        for step, start in enumerate(range(0, count, batch), 1):
            model.optimizer.epsilon = EPSILON * math.sqrt(1.0 - 0.999**step)
            ids = order[start:start + batch]
            model.reset_metrics()
            totals += len(ids) * np.array(model.train_on_batch(x(ids), labels[ids]))
        train_loss, train_accuracy = totals / count
        totals = np.zeros(2)
        for start in range(0, count, batch):
            ids = list(range(start, min(start + batch, count)))
            model.reset_metrics()
            totals += len(ids) * np.array(model.test_on_batch(x(ids), labels[ids]))
        loss, accuracy = (float(v) for v in totals / count)
        changed = sorted(our_name(v) for layer in base.layers for v in layer.weights
                         if (v.numpy() != before[our_name(v)]).any())
        return {"train_loss": float(train_loss), "train_accuracy": float(train_accuracy), "val_loss": loss,
                "val_accuracy": accuracy}, changed, head.kernel.value.detach().T

    value, changed, weight = epoch(shuffled(count, 0, 1), FINE_TUNE_AT)
    frozen, _, _ = epoch(shuffled(count, 0, 1), len(base.layers))
    print(file, value, frozen, len(changed))
    assert abs(value["val_loss"] - frozen["val_loss"]) > 3e-3  # what the test allows could not tell them apart
    write(os.path.join(folder, file), {
        "network": name, "gain": [list(g) for g in gain], "pictures": count, "size": size, "classes": CLASSES,
        "batch": batch, "lr": lr, "epsilon": EPSILON, "fine_tune_at": FINE_TUNE_AT, "changed": changed,
        "head": {"gain": [list(g) for g in HEAD_GAIN], "weight": summary(weight)}, "values": value,
    })


def main(folder, what="all"):
    torch.set_num_threads(1)
    write_fine_tuning(folder, "lesson_05.json", "keras_mobilenet_v3_small", V3_GAIN, 50, 1e-4)
    write_lesson(folder, "lesson_03.json", "keras_mobilenet_v2", keras.applications.MobileNetV2, V2_GAIN, 128, 100,
                 1e-3)
    for file, options in (("lesson_04.json", {}), ("lesson_04_2000.json", {"count": MANY, "size": LARGE})):
        write_lesson(folder, file, "keras_mobilenet_v3_small", keras.applications.MobileNetV3Small, V3_GAIN, 0, 50, 1e-4,
                     **options)
    write_fine_tuning(folder, "lesson_05_2000.json", "keras_mobilenet_v3_small", V3_GAIN, 50, 1e-4, MANY, LARGE)
    if what == "lessons":
        return
    for suffix, width in WIDTHS.items():
        published = {"_050": "mobilenetv2_050", "": "mobilenetv2_100", "_140": "mobilenetv2_140"}.get(suffix)
        keep_torchvision(folder, "mobilenet_v2" + suffix, torchvision.models.mobilenet_v2(width_mult=width).eval(),
                         V2_GAIN, suffix == "", published, V2_GAIN)
        keep_keras(folder, "keras_mobilenet_v2" + suffix,
                   lambda **k: keras.applications.MobileNetV2(alpha=width, **k), V2_GAIN, suffix == "",
                   (50, 100, 130) if suffix == "" else ())
    for size, make, cuts in [("small", keras.applications.MobileNetV3Small, (50, 100, 140)),
                             ("large", keras.applications.MobileNetV3Large, ())]:
        name = "mobilenet_v3_" + size
        keep_torchvision(folder, name, torchvision.models.get_model(name).eval(), V3_GAIN, size == "small",
                         dilated=torchvision.models.get_model(name, dilated=True).eval())
        keep_keras(folder, "keras_" + name, make, V3_GAIN, size == "small", cuts)


if __name__ == "__main__":
    main(*sys.argv[1:])
