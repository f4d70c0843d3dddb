#!/usr/bin/env python3
"""Makes Keras's files of weights in tests/data/checkpoints, and checks ours with Keras itself.

  make_keras.py make FOLDER       writes the fixtures; needs keras, h5py, torch and numpy (KERAS_BACKEND=torch)
  make_keras.py verify PROGRAM    what Keras writes of MobileNetV2, MobileNetV3Small and EfficientNetB0 loads in ours,
                                  strictly, and gives the same features; what ours writes of them loads in Keras,
                                  with equal tensors; needs safetensors too.
                                  PROGRAM is tests/unit/keras_test.cpp's, which has a hidden test for this

Element i (in Keras's order) of variable v of the model's layer l with weights is (10000 l + 1000 v + i) / 2^20.
"""
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import h5py
import keras
import numpy
from keras import layers as L

MEAN, DEVIATION = numpy.float32([0.485, 0.456, 0.406]), numpy.float32([0.229, 0.224, 0.225])


def fill(model):
    """Sets every variable by the formula above; nested models are counted through."""
    number = 0

    def visit(layer):
        nonlocal number
        if hasattr(layer, "layers"):
            for child in layer.layers:
                visit(child)
        elif layer.weights:
            layer.set_weights([((10000 * number + 1000 * v + numpy.arange(w.size).reshape(w.shape)) / 2**20).astype(
                "float32") for v, w in enumerate(layer.get_weights())])
            number += 1

    visit(model)
    return model


def toy(names=True):
    """A stem, a depthwise-separable block, features."""
    def named(name):
        return {"name": name} if names else {}
    i = L.Input((8, 8, 3), name="input_layer")
    x = L.Conv2D(4, 3, strides=2, padding="same", use_bias=False, **named("stem"))(i)
    x = L.BatchNormalization(**named("stem_bn"))(x)
    x = L.ReLU()(x)
    x = L.DepthwiseConv2D(3, padding="same", use_bias=False, **named("depthwise"))(x)
    x = L.BatchNormalization(**named("depthwise_bn"))(x)
    x = L.Conv2D(5, 1, **named("project"))(x)
    x = L.GlobalAveragePooling2D()(x)
    x = L.Dense(6, **named("embed"))(x)
    return keras.Model(i, x, name="toy")


def nested():
    """The toy with a head, as Keras's own guide to transfer learning builds it; trained one step, so that there is an
    optimiser's state."""
    i = L.Input((8, 8, 3), name="pictures")
    x = L.Dropout(0.5, name="dropout")(toy()(i))
    model = keras.Model(i, L.Dense(3, name="answer")(x), name="classifier")
    model.compile("adam", "mse")
    model.fit(numpy.zeros((2, 8, 8, 3), "float32"), numpy.zeros((2, 3), "float32"), verbose=0)
    return fill(model)


def before_keras_3(path, model):
    """The file of a published network: TensorFlow's scopes for names, of a length each, `:0` behind every weight."""
    scopes = {"stem": "Conv", "stem_bn": "Conv/BatchNorm", "depthwise": "expanded/depthwise",
              "depthwise_bn": "expanded/depthwise/BatchNorm", "project": "expanded/project", "embed": "Logits"}
    with h5py.File(path, "w") as f:
        f.attrs["layer_names"] = numpy.array([b"input_1"] + [s.encode() for s in scopes.values()])
        f.attrs["backend"] = numpy.bytes_(b"tensorflow")
        f.attrs["keras_version"] = numpy.bytes_(b"2.4.0")
        f.create_group("input_1").attrs["weight_names"] = numpy.zeros(0)
        for name, scope in scopes.items():
            layer = model.get_layer(name)
            weights = [f"{scope}/{w.name}:0".replace("depthwise/kernel", "depthwise/depthwise_kernel")
                       for w in layer.weights]
            group = f.require_group(scope)
            group.attrs["weight_names"] = numpy.array([w.encode() for w in weights])
            for weight, value in zip(weights, layer.get_weights()):
                group.create_dataset(weight, data=value)


def make(folder):
    def path(name):
        return os.path.join(folder, name)
    model = fill(toy())
    model.save_weights(path("keras_toy.weights.h5"))
    model.save(path("keras_toy.h5"))
    model.save(path("keras_toy.keras"))
    nested().save(path("keras_nested.keras"))
    before_keras_3(path("keras_before_3.h5"), model)
    fill(toy(names=False)).save_weights(path("keras_automatic.weights.h5"))


def published():
    A = keras.applications
    options = {"weights": None, "include_top": False}
    return {"keras_mobilenet_v2": A.MobileNetV2(input_shape=(96, 96, 3), **options),
            "keras_mobilenet_v3_small": A.MobileNetV3Small(input_shape=(96, 96, 3), **options),
            "keras_efficientnet_b0": A.EfficientNetB0(input_shape=(96, 96, 3), **options)}


def draw(model, rng):
    for w in model.weights:
        if w.path.startswith("normalization/"):
            w.assign({"mean": MEAN, "variance": DEVIATION**2, "count": 0}[w.name])
            continue
        noise = rng.standard_normal(w.shape).astype("float32")
        if w.name == "moving_variance":
            noise = 1 + noise**2 / 4
        elif w.name == "gamma":
            noise = 1 + noise / 8
        elif w.name.endswith("kernel"):
            noise /= numpy.sqrt(numpy.prod(w.shape[:-1] if w.shape[-1] != 1 else w.shape[:2]))
        else:
            noise /= 8
        w.assign(noise)


def verify(program):
    from safetensors.numpy import load_file, save_file
    rng = numpy.random.default_rng(0)
    for name, model in published().items():
        draw(model, rng)
        for layer in model.layers:
            if layer.name == "normalization":
                layer.finalize_state()
        ours_in = rng.uniform(-1, 1, (2, 96, 96, 3)).astype("float32")
        theirs_in = {"keras_mobilenet_v2": ours_in, "keras_mobilenet_v3_small": 127.5 * (ours_in + 1),
                     "keras_efficientnet_b0": 255 * (ours_in * DEVIATION + MEAN)}[name]
        expected = model.predict(theirs_in, verbose=0).mean((1, 2))
        for ending in (".weights.h5", ".keras", ".h5"):
            with tempfile.TemporaryDirectory() as folder:
                theirs, ours = os.path.join(folder, "theirs" + ending), os.path.join(folder, "ours")
                pictures = os.path.join(folder, "in.safetensors")
                save_file({"input": numpy.ascontiguousarray(ours_in.transpose(0, 3, 1, 2))}, pictures)
                (model.save_weights if ending == ".weights.h5" else model.save)(theirs)
                subprocess.run([program, "[keras peer]"], check=True, stdout=subprocess.DEVNULL, env={
                    **os.environ, "KERAS_NETWORK": name, "KERAS_FILE": theirs, "KERAS_IN": pictures, "KERAS_OUT": ours})
                pooled = load_file(ours + ".safetensors")["pooled"]
                off = abs(pooled - expected).max() / abs(expected).max()
                assert off < 1e-5, (name, ending, off)
                # Of the normalisation ours writes what published files have; see write_keras_weights.
                weights = [w for w in model.weights if not w.path.startswith("normalization/")]
                before = [keras.ops.convert_to_numpy(w).copy() for w in weights]
                for written in (ours + ".weights.h5", ours + ".h5"):
                    for w in weights:
                        w.assign(numpy.zeros(w.shape, w.dtype))
                    model.load_weights(written)
                    assert all((a == keras.ops.convert_to_numpy(w)).all() for a, w in zip(before, weights)), written
                for w in model.weights:
                    if w.path == "normalization/variance":
                        w.assign(DEVIATION**2)
        print(f"{name}: loads both ways, tensors equal, features off by {off:.1e}")


if __name__ == "__main__":
    {"make": make, "verify": verify}[sys.argv[1]](sys.argv[2])
