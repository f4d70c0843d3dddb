#!/bin/bash
# weights_tool as a user meets it: exit codes, one line an error, and files read, written, compared and run.
# Told by the environment: see tools_test.sh.
source "$(dirname "${BASH_SOURCE[0]}")/expect.sh"
source=${TRANSFERLIB_SOURCE:?}
printf 'not a picture\n' > text.png

tool=$bin/weights_tool files=$source/tests/data/checkpoints
expect 2 'a command is wanted: list, convert, diff, backbones, layers, find, fetch, run' "$tool"
expect 2 'there is no command "lits"; the nearest is list' "$tool" lits x
expect 2 'list takes 1 argument, not 0' "$tool" list
expect 2 'convert takes 2 arguments, not 1' "$tool" convert a
expect 2 '--size is for layers alone' "$tool" list x --size 3
expect 2 '--size wants a whole number, not "3.5"' "$tool" layers efficientnet_lite0 --size 3.5
expect 2 '--size wants a value: --size N' "$tool" layers efficientnet_lite0 --size
expect 2 '--size is given twice' "$tool" layers efficientnet_lite0 --size 64 --size=64
expect 1 'the nearest are efficientnet_lite0' "$tool" layers efficientnet_lite9
expect 1 'smallest size is 32' "$tool" layers efficientnet_lite0 --size 31
expect 1 'absent.pth: No such file or directory' "$tool" list absent.pth
expect 1 'text.png: the file is ' "$tool" list text.png
expect 1 'evil.pth' "$tool" list "$files/evil.pth"

# Networks up to 300 million parameters: no weights are made for their table.
expect 0 '' timeout 30 "$tool" backbones
has '^name +parameters +size +preprocessing +file +licence$'
has '^efficientnet_lite0 +4652008 +224 +bilinear 224, mean( 0\.498){3}, deviation( 0\.502){3} +efficientnet-lite0-57934424\.pth +Apache-2\.0$'
has '^resnet50 +25557032 +224 +bilinear 232, mean 0\.485 0\.456 0\.406, deviation 0\.229 0\.224 0\.225 +resnet50-11ad3fa6\.pth +BSD-3-Clause$'
has '^vit_l_16 +304326632 +'
mv out table
expect 0 '' "$tool" backbones --json
check 'the table aligns, and JSON says the same' "${TRANSFERLIB_PYTHON:-python3}" -c '
import json, re, sys
cards = json.load(open("out"))
head, *rows = open("table").read().splitlines()
columns = [m.start() for m in re.finditer(r"(?<=  )\S|^\S", head)]
cells = lambda row: [row[a:b].rstrip() for a, b in zip(columns, columns[1:] + [None])]
table = [cells(row) for row in rows]
sys.exit(len(table) != len(cards) or len(cards) < 40 or
         any([r[0], r[1], r[2], r[4]] != [c["name"], str(c["parameters"]), str(c["size"]), c["file"] or "-"] or
             any(row[a - 2:a].strip() for a in columns[1:]) or c["parameters"] < 100000 or len(c["mean"]) != 3
             for r, c, row in zip(table, cards, rows)))'
expect 2 '--json is for backbones alone' "$tool" layers resnet18 --json
expect 0 '' "$tool" layers efficientnet_lite0
lines 118
has '^0 +_conv_stem +convolution +0 +864 +\[32,112,112\]$'
has '^114 +_avg_pooling +pool +[0-9]+ +0 +\[1280\]$'
has '^116 +_fc +linear +[0-9]+ +1281000 +\[1000\]$'
expect 0 '' "$tool" layers efficientnet_lite0 --size=64
has '^0 +_conv_stem +convolution +0 +864 +\[32,32,32\]$'
expect 0 '' "$tool" layers resnet18 --size 64
mv out by_name
expect 0 '' "$tool" layers resnet18.tv_in1k --size 64
check 'an alias is a name' cmp out by_name

expect 0 '' "$tool" list "$files/types.pth"
lines 20
has '^float64 +float64 +\[2,3\] +21 +1$'
has '^bfloat16 +bfloat16 +\[2,3\] +21 +1$'
has '^uint64 +uint64 +\[2,3\] +21 +1$'
has '^bool +bool +\[2,3\] +3 +true$'
has '^complex64 +complex64 +\[2,3\] +21-21j +1-1j$'
has '^float8_e5m2 +float8_e5m2 +\[2,3\] +21 +1$'
expect 0 'note: ' "$tool" list "$files/lightning.pth"
lines 7
has '^model\.1\.running_var +float32 +\[1\] +6\.900000095367432 +6\.9$'
has '^model\.1\.num_batches_tracked +int64 +\[\] +1 +1$'

# There and back: the same tensors, whatever their order.
sorted() { "$tool" list "$1" | sort; }
for name in small small_legacy shapes shapes_legacy; do
  expect 0 '' "$tool" convert "$files/$name.pth" there.safetensors
  expect 0 '' "$tool" convert there.safetensors back.pth
  expect 0 '' "$tool" convert back.pth again.safetensors
  check "$name.pth: there and back" test "$(sorted "$files/$name.pth")" = "$(sorted back.pth)"
  check "$name.pth: something was listed" test -n "$(sorted back.pth)"
  check "$name.pth: the same bytes the second time" cmp there.safetensors again.safetensors
done
expect 0 'note: not taken along: step' "$tool" convert "$files/two.pth" two.safetensors
expect 2 'is told by the extension' "$tool" convert "$files/small.pth" out.bin
check 'nothing is written by a wrong command line' test ! -e out.bin
expect 1 'complex128' "$tool" convert "$files/types.pth" types.safetensors
check 'nothing is left of what can not be written' test -z "$(ls | grep '^types')"
expect 1 'No such file or directory' "$tool" convert "$files/small.pth" no/such/folder/x.pth

# Keras's files, with Keras's names; a build without libhdf5 says so.
keras=$files/keras_toy.weights.h5
if "$tool" list "$keras" 2>&1 | grep -q 'this build has no HDF5'; then
  expect 1 'this build has no HDF5' "$tool" convert "$keras" keras.safetensors
else
  expect 0 '' "$tool" list "$keras"
  has '^stem/kernel +float32 +\[3,3,3,4\] '
  has '^stem_bn/moving_variance +float32 +\[4\] '
  expect 0 '' "$tool" convert "$keras" keras.safetensors
  check 'a Keras file, converted' test "$(sorted "$keras")" = "$(sorted keras.safetensors)"
  expect 0 'optimizer' "$tool" list "$files/keras_nested.keras"
  has '^toy/stem/kernel '
fi

# A folder as Hugging Face keeps it.
mkdir hub && cp "$files/small.safetensors" hub/model.safetensors && echo '{"architecture": "small"}' > hub/config.json
expect 0 '' "$tool" list hub
check 'a folder of weights' test "$(sorted hub)" = "$(sorted "$files/small.safetensors")"
expect 1 'has no model.safetensors' "$tool" list "$files"

# Comparing: what is the same, what is not, and by how much.
"${TRANSFERLIB_PYTHON:-python3}" - << 'PYTHON'
import array, json, math, random

def write(path, tensors):
    header, data, types = {}, b"", {"f": "F32", "d": "F64", "q": "I64"}
    for name, shape, values in tensors:
        header[name] = {"dtype": types[values.typecode], "shape": shape, "data_offsets": [len(data), len(data) + 8 * len(values)]}
        if values.typecode == "f":
            header[name]["data_offsets"][1] = len(data) + 4 * len(values)
        data += values.tobytes()
    head = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(len(head).to_bytes(8, "little") + head + data)

f, d, q = (lambda *v: array.array("f", v)), (lambda *v: array.array("d", v)), (lambda *v: array.array("q", v))
nan, inf, big = math.nan, math.inf, 2**60
write("a.safetensors", [("same", [2], f(nan, inf)), ("near", [4], f(1, 2, 3, -4)), ("nan", [2], f(1, 2)), ("big", [2], q(big, 1)),
                        ("shape", [2], f(1, 2)), ("type", [1], f(1)), ("zero", [0], f()), ("a", [1], f(1)), ("scalar", [], f(3))])
write("b.safetensors", [("b", [1], f(1)), ("near", [4], f(1, 2.5, 3, -4)), ("same", [2], f(nan, inf)), ("nan", [2], f(1, nan)),
                        ("big", [2], q(big + 1, 1)), ("shape", [1, 2], f(1, 2)), ("type", [1], d(1)), ("zero", [0], f()),
                        ("scalar", [], f(3))])
write("near.safetensors", [("near", [4], f(1, 2, 3, -4))])
write("nearer.safetensors", [("near", [4], f(1, 2.5, 3, -4))])

# Weights for SqueezeNet 1.1, whose names and shapes are quickly told, and pictures of two forms.
draw = random.Random(3)
tensors = []
def layer(name, out, inputs, side):
    bound = math.sqrt(6 / (inputs * side * side))
    count = out * inputs * side * side
    tensors.append((name + ".weight", [out, inputs, side, side], f(*[draw.uniform(-bound, bound) for _ in range(count)])))
    tensors.append((name + ".bias", [out], f(*[draw.uniform(-0.1, 0.1) for _ in range(out)])))
layer("features.0", 64, 3, 3)
inputs = 64
for i, squeeze, expand in ((3, 16, 64), (4, 16, 64), (6, 32, 128), (7, 32, 128), (9, 48, 192), (10, 48, 192), (11, 64, 256), (12, 64, 256)):
    layer(f"features.{i}.squeeze", squeeze, inputs, 1)
    layer(f"features.{i}.expand1x1", expand, squeeze, 1)
    layer(f"features.{i}.expand3x3", expand, squeeze, 3)
    inputs = 2 * expand
layer("classifier.1", 1000, inputs, 1)
write("weights.safetensors", tensors)
noise = lambda count: f(*[draw.gauss(0, 1) for _ in range(count)])
write("in.safetensors", [("input", [2, 3, 65, 97], noise(2 * 3 * 65 * 97))])
write("flat.safetensors", [("input", [3, 64, 64], noise(3 * 64 * 64))])
write("double.safetensors", [("input", [1, 3, 64, 64], d(*noise(3 * 64 * 64)))])
write("wide.safetensors", [("input", [1, 3, 32, 64], noise(3 * 32 * 64))])
PYTHON
expect 0 '' "$tool" diff "$files/small.pth" "$files/small.pth"
has '^0 of [1-9][0-9]* tensors differ$'
for name in small small_legacy shapes shapes_legacy; do
  expect 0 '' "$tool" convert "$files/$name.pth" there.safetensors
  expect 0 '' "$tool" diff "$files/$name.pth" there.safetensors
done
expect 1 '' "$tool" diff a.safetensors b.safetensors
has '^name +absolute +relative$'
has '^same +0 +0$'
has '^near +0\.5 +0\.125$'
has '^nan +inf +inf$'
has '^big +1 +8\.67[0-9]*e-19$'
has '^shape +shape \[2\] against \[1,2\]$'
has '^type +type float32 against float64$'
has '^zero +0 +0$'
has '^scalar +0 +0$'
has '^a +only in a\.safetensors$'
has '^b +only in b\.safetensors$'
has '^7 of 10 tensors differ$'
expect 0 '' "$tool" diff near.safetensors nearer.safetensors --tolerance 0.125
has '^0 of 1 tensors differ by more than 0\.125$'
expect 1 '' "$tool" diff near.safetensors nearer.safetensors --tolerance 0.1249
expect 1 '' "$tool" diff near.safetensors nearer.safetensors
expect 2 '--tolerance must be at least 0, not -1' "$tool" diff a.safetensors b.safetensors --tolerance -1
expect 2 '--tolerance must be at least 0, not nan' "$tool" diff a.safetensors b.safetensors --tolerance nan
expect 1 'absent.safetensors: No such file or directory' "$tool" diff a.safetensors absent.safetensors

# A network run: every value, whatever the form of the picture, and the same every time.
expect 0 '' "$tool" run squeezenet1_1 weights.safetensors in.safetensors run.safetensors
has '^features +\[2,512,4,6\]$'
has '^pooled +\[2,512\]$'
has '^logits +\[2,1000\]$'
has '^stage\.0 +\[2,64,32,48\]$'
mv out shapes
expect 0 '' "$tool" list run.safetensors
check 'what is told is what is written' diff <(awk '{print $1, $2}' shapes | sort) <(awk '$2 == "float32" {print $1, $3}' out | sort)
expect 0 '' "$tool" run squeezenet1_1 weights.safetensors in.safetensors again.safetensors
check 'the same bytes twice' cmp run.safetensors again.safetensors
check 'pooled is the mean of features, logits that of the classifier' "${TRANSFERLIB_PYTHON:-python3}" - << 'PYTHON'
import array, json, sys

def read(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        data = f.read()
    return {n: (e["shape"], array.array("f", data[slice(*e["data_offsets"])])) for n, e in header.items() if n != "__metadata__"}

out, weights = read("run.safetensors"), read("weights.safetensors")
(n, channels, h, w), features = out["features"]
places = h * w
mean = lambda values: sum(values) / len(values)
pooled = [mean(features[i * places:(i + 1) * places]) for i in range(n * channels)]
good = all(abs(a - b) < 1e-5 * max(1, abs(a)) for a, b in zip(pooled, out["pooled"][1])) and max(pooled) > 0.01
kernel, bias = weights["classifier.1.weight"][1], weights["classifier.1.bias"][1]
for k in range(0, 1000, 111):
    answers = [max(0, bias[k] + sum(kernel[k * channels + c] * features[(channels + c) * places + p] for c in range(channels)))
               for p in range(places)]
    good = good and abs(mean(answers) - out["logits"][1][1000 + k]) < 1e-4 * max(1, abs(mean(answers)))
sys.exit(not good)
PYTHON
expect 1 'must be float32 (N, C, H, W) and not empty, and is Float (3, 64, 64)' "$tool" run squeezenet1_1 weights.safetensors flat.safetensors x.safetensors
expect 1 'and is Double (1, 3, 64, 64)' "$tool" run squeezenet1_1 weights.safetensors double.safetensors x.safetensors
expect 1 'weights.safetensors has no tensor called input' "$tool" run squeezenet1_1 weights.safetensors weights.safetensors x.safetensors
expect 1 'do not fit the network' "$tool" run resnet18 weights.safetensors in.safetensors x.safetensors
expect 1 'there is no backbone called "squeezenet1_2"' "$tool" run squeezenet1_2 weights.safetensors in.safetensors x.safetensors
expect 1 'no/such' "$tool" run squeezenet1_1 weights.safetensors in.safetensors no/such/x.safetensors
expect 2 'run takes 4 arguments, not 1' "$tool" run squeezenet1_1
check 'nothing is left of runs that failed' test ! -e x.safetensors
if [ -n "$weights" ]; then
  expect 0 '' "$tool" run efficientnet_lite0 "$weights"/efficientnet-lite0-57934424.pth wide.safetensors wide_out.safetensors
  has '^features +\[1,1280,1,2\]$'
  has '^logits +\[1,1000\]$'
fi

echo "$((checks - failures)) of $checks checks passed"
[ "$failures" = 0 ]
