#!/bin/bash
# The tools as a user meets them: exit codes, --help, one line an error, and the way from pictures to an answer.
# Told by the environment: TRANSFERLIB_BIN, the folder of the programs; TRANSFERLIB_SOURCE, that of the sources;
# TRANSFERLIB_WEIGHTS, where the published weights are, if they are.
source "$(dirname "${BASH_SOURCE[0]}")/expect.sh"
source=${TRANSFERLIB_SOURCE:?}

lines() {
  checks=$((checks + 1))
  [ "$(wc -l < out)" = "$1" ] || fail "$(wc -l < out) lines instead of $1"
}

# Pictures without a library: 24-bit PNG of one colour and a little noise. Python's standard library suffices.
"${TRANSFERLIB_PYTHON:-python3}" - << 'PYTHON' || { echo "no pictures"; exit 1; }
import os, struct, zlib

def png(path, width, height, colour, seed):
    rows, state = b"", seed
    for _ in range(height):
        rows += b"\0"
        for _ in range(width):
            for c in colour:
                state = (state * 1103515245 + 12345) % 2**31
                rows += bytes([max(0, min(255, c + (state >> 16) % 41 - 20))])
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
                chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))

for n, (name, colour) in enumerate((("blue", (20, 30, 230)), ("green", (20, 210, 40)), ("red", (220, 30, 20)))):
    os.makedirs(f"data/{name}")
    for i in range(10):
        png(f"data/{name}/{i}.png", 33 + i, 40 - i, colour, 1000 * n + i)
    png(f"{name}.png", 50, 37, colour, 5000 + n)
os.makedirs("one/alone")
png("one/alone/0.png", 8, 8, (1, 2, 3), 1)
os.makedirs("empty/a"), os.makedirs("empty/b")
png("empty/a/0.png", 8, 8, (1, 2, 3), 1)
PYTHON
printf 'not a picture\n' > text.png
head -c 200 red.png > cut.png

# -------------------------------------------------------------------------------------------------------- every program
for program in weights_tool train predict rank evaluate compare; do
  expect 0 '' "$bin/$program" --help
  has "^usage: $program "
  has '^  --help '
  expect 0 '' "$bin/$program" --no-such-thing -h
  expect 2 "$program: there is no option --helpp; the nearest is --help (see --help)" "$bin/$program" --helpp
  checks=$((checks + 1))
  "$bin/$program" --help > /dev/full 2> err
  [ $? = 1 ] || fail "$program: a full disk behind the output must be told"
done

# --------------------------------------------------------------------------------------------------------- weights_tool
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

# ---------------------------------------------------------------------------------------------------------------- train
train=$bin/train
expect 2 '--data DIR is wanted' "$train"
expect 2 'the folder goes behind --data' "$train" data
expect 2 'there is no option --epoch; the nearest is --epochs' "$train" --data data --epoch 3
expect 2 '--epochs must be at least 1, not 0' "$train" --data data --epochs 0
expect 2 '--seed wants a whole number from 0 on, not "-1"' "$train" --data data --seed -1
expect 2 '--lr must be above 0, not -0.1' "$train" --data data --lr -0.1
expect 2 '--lr must be above 0, not nan' "$train" --data data --lr nan
expect 2 '--freeze is all, none, until:N or until:NAME, not "some"' "$train" --data data --freeze some
expect 2 '--freeze is all, none' "$train" --data data --freeze until:
expect 2 '--freeze is all, none' "$train" --data data --freeze until:99999999999999999999
expect 2 '--head: ' "$train" --data data --head mlp:many
expect 2 '--flip is none, lr' "$train" --data data --flip lr,,ud
expect 2 '--optimizer is sgd, adam or adamw, not "lion"' "$train" --data data --optimizer lion
expect 2 '--precision is auto, fp32 or bf16, not "int8"' "$train" --data data --precision int8
expect 2 '--loss is cross_entropy or focal, not "hinge"' "$train" --data data --loss hinge
expect 2 '--loss cross_entropy takes no number' "$train" --data data --loss cross_entropy:1
expect 2 '--label-smoothing is of cross_entropy' "$train" --data data --loss focal --label-smoothing 0.1
expect 2 '--erase is a probability from 0 to 1, not 1.5' "$train" --data data --erase 1.5
expect 2 "--crop is a part of a picture's area, from 0 to 1, not 2" "$train" --data data --crop 2
expect 2 '--crop-views is a number of cuts a picture' "$train" --data data --crop-views 3
expect 2 '--test-size must be from 1 to 4096, not 9999' "$train" --data data --test-size 9999
expect 2 '--depths is last, stages or blocks, not "all"' "$train" --data data --depths all
expect 2 '--deviations wants --depths stages or blocks' "$train" --data data --deviations
expect 2 '--find-rate looks for the rate that --lr tells' "$train" --data data --find-rate --lr 0.1
expect 2 '--device is cpu or cuda, not "tpu"' "$train" --data data --device tpu
expect 2 '--random and --weights contradict each other' "$train" --data data --random --weights x.pth
expect 2 '--random takes no value' "$train" --data data --random=yes
expect 1 'no data: nowhere is not a folder' "$train" --data nowhere
expect 1 'only one class in one' "$train" --data one
expect 1 'no pictures in the class folder b' "$train" --data empty
expect 1 'there is no backbone called "efficientnet"' "$train" --data data --backbone efficientnet
expect 1 'no weights for efficientnet_lite0' "$train" --data data
expect 1 'absent.pth' "$train" --data data --weights absent.pth
expect 1 'small.pth' "$train" --data data --weights "$files/small.pth"
check 'no folder is left of runs that did not begin' test ! -e runs

# Random weights: a warning, and everything else as with real ones.
expect 0 'warning: random weights' "$train" --data data --random --size 32 --epochs 1 --flip lr,ud --seed 3 --out random
has '^data: data, 24 pictures to train and 6 to validate, 3 classes: blue, green, red$'
has '^freeze: none   \(chosen: '
has '^batch: 8   \(chosen: '
has '^epochs: 1$'
has '^epoch 1  train_loss [0-9.]+  train_accuracy '
has "^the run's folder: random$"
for file in config.json metrics.csv accuracy.svg confusion.svg model.safetensors log.txt; do
  check "random/$file is there" test -s "random/$file"
done
check 'the columns of metrics.csv' test "$(head -1 random/metrics.csv)" = \
  'epoch,train_loss,train_accuracy,val_loss,val_accuracy,seconds'
check 'a row an epoch' test "$(wc -l < random/metrics.csv)" = 2
expect 0 'warning: random weights' "$train" --data data --random --size 32 --epochs 1 --crop 0.5 --crop-views 2 --erase 0.2 --test-size 48 --seed 3 --out cropped
has '^crop: 0.5$'
has '^val_accuracy at 48 pixels: [01]\.[0-9]{4}$'
check 'the file says the larger size' grep -aqE 'size[\\]": ?48' cropped/model.safetensors
expect 1 'the nearest are _blocks, _blocks.0, _blocks.1;' "$train" --data data --random --size 32 --freeze until:blocks --out x
expect 1 'smallest size is 32' "$train" --data data --random --size 16 --out x
check 'no folder is left of runs that did not begin' test ! -e x
touch file
expect 1 'file/run' "$train" --data data --random --size 32 --epochs 1 --out file/run

# The published weights, where they are: the head learns three colours.
model=random/model.safetensors
if [ -n "$weights" ]; then
  TRANSFERLIB_WEIGHTS=$weights expect 0 '' "$train" --data data --size 64 --epochs 20 --out colours
  has '^freeze: all   \(chosen: '
  has '^weights: efficientnet-lite0-57934424.pth   \(licence Apache-2.0\)$'
  check 'the colours are told apart' test "$(tail -1 colours/metrics.csv | cut -d, -f5)" = 1
  model=colours/model.safetensors
  # The second run finds the features, and writes the same bytes.
  TRANSFERLIB_WEIGHTS=$weights expect 0 '' "$train" --data data --size 64 --epochs 20 --out again
  check 'the same bytes twice' cmp colours/model.safetensors again/model.safetensors
  # Another part, another head, another optimiser.
  TRANSFERLIB_WEIGHTS=$weights expect 0 '' "$train" --data data --size 32 --epochs 1 --freeze until:_blocks.14 \
    --head mlp:8 --optimizer sgd --precision fp32 --threads 1 --out tuned
  has '^optimizer: sgd, momentum 0.9$'
  has '^lr: 0.001   \(chosen: '
  check 'layers up to _blocks.14 are frozen' grep -q '"frozen_layers": 98' tuned/config.json
fi

# -------------------------------------------------------------------------------------------------------------- predict
predict=$bin/predict
expect 2 'a model and pictures are wanted' "$predict"
expect 2 'pictures are wanted after the model' "$predict" "$model"
expect 2 '--best must be at least 1' "$predict" "$model" red.png --best 0
expect 2 '--device is cpu or cuda' "$predict" "$model" red.png --device gpu
expect 1 'absent.safetensors' "$predict" absent.safetensors red.png
expect 1 'is no model that transferlib saved' "$predict" "$files/small.safetensors" red.png
expect 1 'red.png' "$predict" red.png red.png
number='[01]\.[0-9]{4}'
expect 0 '' "$predict" "$model" red.png green.png blue.png --json answers.json
lines 3
has "^red\.png:  [a-z]+ $number, [a-z]+ $number, [a-z]+ $number$"
if [ -n "$weights" ]; then
  has "^red\.png:  red $number, "
  has "^green\.png:  green $number, "
  has "^blue\.png:  blue $number, "
fi
check 'answers.json is JSON with three answers that add up to 1' "${TRANSFERLIB_PYTHON:-python3}" -c '
import json, sys
d = json.load(open("answers.json"))
a = d["answers"]
sys.exit([x["picture"] for x in a] != ["red.png", "green.png", "blue.png"] or d["backbone"] != "efficientnet_lite0" or
         any(abs(sum(b["confidence"] for b in x["best"]) - 1) > 1e-4 or
             sorted(b["label"] for b in x["best"]) != ["blue", "green", "red"] for x in a))'
# One that can't be read: a line, exit 1, after the rest.
for bad in text.png cut.png absent.png; do
  expect 1 "$bad" "$predict" "$model" "$bad" red.png --json answers.json
  lines 1
  has '^red\.png:  '
  check "$bad: the error is in the JSON file too" grep -q "\"picture\": \"$bad\", \"error\": \"" answers.json
done
expect 0 '' "$predict" "$model" "$source/tests/data/pictures/rgb_422.jpg" "$source/tests/data/pictures/grey.png" \
  --best 1 --precision fp32 --threads 1
lines 2
has "grey\.png:  [a-z]+ $number$"
# A name that begins with a dash, and one that is no UTF-8.
cp red.png ./-red.png
cp red.png $'r\377d"\n.png'
expect 0 '' "$predict" --best=1 "$model" -- -red.png
has '^-red\.png:  '
expect 0 '' "$predict" "$model" $'r\377d"\n.png' --json odd.json
lines 1
check 'odd names make valid JSON' "${TRANSFERLIB_PYTHON:-python3}" -c '
import json
assert json.load(open("odd.json", encoding="utf-8"))["answers"][0]["picture"] == "r\ufffdd\"\n.png"'
expect 1 'no/folder' "$predict" "$model" red.png --json no/folder/x.json

# ----------------------------------------------------------------------------------------------------------------- rank
rank=$bin/rank
expect 2 '--data is wanted' "$rank"
expect 2 '--backbones is wanted' "$rank" --data data
expect 2 '--backbones has an empty name in "a,,b"' "$rank" --data data --backbones a,,b
expect 2 '--backbones names resnet18 twice' "$rank" --data data --backbones resnet18,resnet18
expect 2 '--by is logme or ridge, not "size"' "$rank" --data data --backbones resnet18 --by size
expect 2 '--limit must be at least 3, not 2' "$rank" --data data --backbones resnet18 --limit 2
expect 1 'there is no backbone called "resnet19"' "$rank" --data data --backbones resnet19
expect 1 'no weights for resnet18: resnet18-f37072fd.pth' "$rank" --data data --backbones resnet18
expect 1 "no weights for resnet18: $here/resnet18-f37072fd.pth is not there" "$rank" --data data --backbones resnet18 --weights "$here"
expect 1 'only one class in one' "$rank" --data one --backbones resnet18:random
expect 1 'pictures of 16 pixels are too small' "$rank" --data data --backbones squeezenet1_1:random --size 16
expect 0 '' "$rank" --data data --backbones squeezenet1_1:random,mobilenet_v3_small:random --size 64 \
  --json rank.json --csv rank.csv --threads 1
has '^data: data, 24 of 24 pictures to train with, 3 classes$'
has '^1  [a-z0-9_]+ \(random\) +[0-9,]+ +[0-9]+ +-?[0-9.]+ +[0-9.]+ % +[0-9.]+ +[0-9.]+$'
check 'JSON, CSV and the plot say the same, best first' "${TRANSFERLIB_PYTHON:-python3}" -c '
import csv, json
ranked = json.load(open("rank.json"))
rows, svg = list(csv.DictReader(open("rank.csv"))), open("rank.svg").read()
best, worst = ranked["backbones"]
assert ranked["pictures"] == 24 and ranked["classes"] == ["blue", "green", "red"] and best["logme"] >= worst["logme"]
assert {(b["backbone"], b["width"], b["parameters"]) for b in (best, worst)} == {
    ("squeezenet1_1", 512, 722496), ("mobilenet_v3_small", 576, 927008)}
for entry, row in zip(ranked["backbones"], rows):
    assert row["backbone"] == entry["backbone"] and float(row["logme"]) == entry["logme"], row
    assert float(row["ridge_accuracy"]) == entry["ridge_accuracy"] > 0.9, row  # three colours
    assert entry["weights"] == "random" and entry["backbone"] + " (random)" in svg
assert svg.index(best["backbone"]) < svg.index(worst["backbone"])'
cp rank.json first.json
expect 0 '' "$rank" --data data --backbones mobilenet_v3_small:random,squeezenet1_1:random --size 64 --threads 1 \
  --by ridge --json rank.json
check 'kept features give the same scores' "${TRANSFERLIB_PYTHON:-python3}" -c '
import json
scores = lambda name: {b["backbone"]: (b["logme"], b["ridge_accuracy"]) for b in json.load(open(name))["backbones"]}
assert scores("first.json") == scores("rank.json")'
expect 0 'warning: no weights for squeezenet1_1: random ones' "$rank" --data data --backbones squeezenet1_1 --size 64 \
  --threads 1 --random --limit 12
has '12 of 24 pictures'

# ------------------------------------------------------------------------------------------------------------- evaluate
evaluate=$bin/evaluate
expect 2 'one model is wanted' "$evaluate"
expect 2 'one model is wanted' "$evaluate" "$model" data
expect 2 '--data DIR is wanted' "$evaluate" "$model"
expect 2 '--batch must be at least 1, not 0' "$evaluate" "$model" --data data --batch 0
expect 2 '--threads must be from 1 to 1024, not -1' "$evaluate" "$model" --data data --threads -1
expect 2 '--part is all, train or val, not "test"' "$evaluate" "$model" --data data --part test
expect 2 '--flip is none or lr, not "ud"' "$evaluate" "$model" --data data --flip ud
expect 1 'absent.safetensors' "$evaluate" absent.safetensors --data data
expect 1 'is no model that transferlib saved' "$evaluate" "$files/small.safetensors" --data data
expect 1 'nowhere is not a folder' "$evaluate" "$model" --data nowhere
mkdir -p two parts
cp -r data/red data/blue two
cp -r data parts/train && cp -r data parts/val
expect 1 "the classes of the evaluated data are not the model's: it lacks green" "$evaluate" "$model" --data two
expect 2 'say --part train or val' "$evaluate" "$model" --data parts --part all
# A frozen network of random weights, whose head has learnt: it takes no answer for all pictures.
expect 0 'warning: random weights' "$train" --data data --backbone squeezenet1_1 --random --freeze all --size 64 \
  --epochs 5 --precision fp32 --seed 3 --out frozen
random=frozen/model.safetensors
expect 0 '' "$evaluate" "$random" --data data --part val --seed 3 --precision fp32 --json --html report.html
cp out evaluated.json
check 'what training measured at its end is measured again; the numbers fit one another' \
  "${TRANSFERLIB_PYTHON:-python3}" -c '
import csv, json
got, (*_, last) = json.load(open("evaluated.json")), list(csv.DictReader(open("frozen/metrics.csv")))
assert abs(got["loss"] - float(last["val_loss"])) < 1e-3 * max(1, got["loss"]), got["loss"]
assert abs(got["accuracy"] - float(last["val_accuracy"])) < 1e-9 and got["pictures"] == 6 and got["part"] == "val"
counts, classes = got["confusion"], got["classes"]
assert [c["label"] for c in classes] == ["blue", "green", "red"] and [c["support"] for c in classes] == [2, 2, 2]
assert sum(counts[i][i] for i in range(3)) == round(got["accuracy"] * 6)
assert [c["predicted"] for c in classes] == [sum(row[i] for row in counts) for i in range(3)]
assert all(abs(c["recall"] - counts[i][i] / 2) < 1e-12 for i, c in enumerate(classes))
bins = got["calibration"]["bins"]
assert len(bins) == 15 and sum(b["count"] for b in bins) == 6
gap = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / 6
assert abs(gap - got["calibration"]["ece"]) < 1e-12
wrong = got["worst_mistakes"]
assert len(wrong) == 6 - sum(counts[i][i] for i in range(3))
assert all(w["picture"].startswith("data/" + w["truth"] + "/") and w["predicted"] != w["truth"] for w in wrong)'
check 'the report has its pictures' test "$(grep -c '<img' report.html)" = \
  "$(grep -c '"truth_confidence"' evaluated.json)"
expect 0 '' "$evaluate" "$model" --data data --batch 7
has '^data: data, 30 pictures of 3 classes$'
has '^accuracy: [0-9.]+ %$'
has '^red +10  +[0-9.]+ %  +[0-9.]+ %  +[0-9.]+ %$'
has '^2 red +[0-9]+  +[0-9]+  +[0-9]+$'
expect 0 '' "$evaluate" "$model" --data parts --threads 1
has '^data: parts, val, 30 pictures of 3 classes$'
# Mirrored pictures change the answers to all but symmetrical ones.
"${TRANSFERLIB_PYTHON:-python3}" - << 'PYTHON'
import os, struct, zlib
chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
for folder, row in (("same", bytes(range(0, 240, 10)) + bytes(range(230, -1, -10))), ("other", bytes(range(0, 240, 5)))):
    for i, name in enumerate(("blue", "green", "red")):
        os.makedirs(f"{folder}/{name}")
        line = b"\0" + bytes(c for v in row for c in (v if i == 2 else 9, v if i == 1 else 9, v if i == 0 else 9))
        with open(f"{folder}/{name}/0.png", "wb") as f:
            f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 40, 8, 2, 0, 0, 0)) +
                    chunk(b"IDAT", zlib.compress(line * 40)) + chunk(b"IEND", b""))
PYTHON
for folder in same other; do
  for flip in none lr; do
    expect 0 '' "$evaluate" "$random" --data $folder --flip $flip --precision fp32 --threads 1 --json
    mv out $folder.$flip
  done
done
check 'the mean over a picture and its mirror image' "${TRANSFERLIB_PYTHON:-python3}" -c '
import json
loss = lambda name: json.load(open(name))["loss"]
assert abs(loss("same.none") - loss("same.lr")) < 1e-4 < abs(loss("other.none") - loss("other.lr"))'
expect 1 'no/folder' "$evaluate" "$random" --data same --html no/folder/x.html

# What else a head can learn from and by, told by a file; its file and its folder keep it.
printf '{"blue": 1, "gren": 2}' > weights.json
expect 1 'have the class gren, which the pictures lack; the nearest is green' "$train" --data data --random --size 32 \
  --class-weights weights.json --out x
printf '{"blue": 1, "green": 2}' > weights.json
expect 1 'have none for red' "$train" --data data --random --size 32 --class-weights weights.json --out x
expect 1 'gamma must be at least 0, not -1' "$train" --data data --random --size 32 --loss focal:-1 --out x
check 'no folder is left of runs that did not begin' test ! -e x
printf '{"blue": 1, "green": 2, "red": 4}' > weights.json
cat > all.json << 'JSON'
{"data": "data", "backbone": "resnet18", "random": true, "freeze": "all", "size": 32, "batch": 8, "epochs": 2,
 "precision": "fp32", "seed": 3, "threads": 1, "depths": "stages", "deviations": true, "loss": "focal:1.5",
 "class-weights": "weights.json", "erase": 0.5, "flip": "lr", "find-rate": true}
JSON
expect 0 'warning: random weights' "$train" --config all.json --out all
has '^lr: [0-9.e-]+   \(found: the loss falls fastest there\)$'
has '^erase: 0.5 '
check 'the rates that were tried, and their plot' test "$(head -1 all/rates.csv)" = epoch,rate,loss,smoothed_loss -a -s all/rates.svg
expect 0 '' "$evaluate" all/model.safetensors --data data --part val --seed 3 --batch 8 --precision fp32 --threads 1 --json
check 'the loss is what training measured, and its folder tells all of it' "$python" -c '
import csv, json
got, (*_, last) = json.load(open("out")), list(csv.DictReader(open("all/metrics.csv")))
assert abs(got["loss"] - float(last["val_loss"])) < 1e-5, (got["loss"], last)
assert abs(got["loss"] - got["log_loss"]) > 1e-3
assert got["criterion"] == {"name": "focal", "gamma": 1.5, "class_weights": [1, 2, 4]}
told = json.load(open("all/config.json"))["options"]
assert "find-rate" not in told and float(told["lr"]) > 0
assert {k: told[k] for k in ("loss", "class-weights", "depths", "erase")} == {
    "loss": "focal:1.5", "class-weights": "weights.json", "depths": "stages", "erase": "0.5"}
rates = [float(r["rate"]) for r in csv.DictReader(open("all/rates.csv"))]
assert len(rates) > 10 and rates == sorted(rates) and min(rates) < float(told["lr"]) < max(rates)'
expect 0 'warning: random weights' "$train" --config all/config.json --out found
check 'the same bytes by the rate that was found' cmp all/model.safetensors found/model.safetensors
# Twice as many of one class: each of its pictures weighs half as much.
mkdir -p uneven/train uneven/val
cp -r data/* uneven/train && cp -r data/* uneven/val
rm uneven/train/green/[0-4].png uneven/train/red/[5-9].png
expect 0 'warning: random weights' "$train" --data uneven --backbone squeezenet1_1 --random --freeze all --size 64 \
  --epochs 1 --threads 1 --class-weights balanced --label-smoothing 0.1 --no-preflight --out even
expect 0 '' "$evaluate" even/model.safetensors --data uneven --threads 1
has '^loss: [0-9.]+ \(cross entropy, smoothing 0\.1, class weights\); log loss [0-9.]+$'
expect 0 '' "$evaluate" even/model.safetensors --data uneven --threads 1 --json
check 'balanced weights' "$python" -c '
import json
w = json.load(open("out"))["criterion"]["class_weights"]
assert all(abs(a - b) < 1e-9 for a, b in zip(w, (2 / 3, 4 / 3, 4 / 3))), w'

# -------------------------------------------------------------------------------------------------------------- compare
compare=$bin/compare
expect 2 'two folders of runs or more are wanted' "$compare" random
expect 1 'absent/metrics.csv' "$compare" random absent
mkdir -p runs/by_hand runs/begun
printf 'epoch,val_loss,val_accuracy,seconds\n1,0.5,0.75,30\n2,0.25,1,31\n3,0.5,0.875,31\n' > runs/by_hand/metrics.csv
sed '1s/{/{"drawn": "by hand",/' random/config.json > runs/by_hand/config.json
printf 'epoch\n' > runs/begun/metrics.csv
expect 2 '--by: no run has a column "val_los" in each epoch; the nearest is val_loss' "$compare" random runs/by_hand --by val_los
expect 0 '' "$compare" random runs/by_hand/ runs/begun --out curves.svg
has '^by_hand +3 +2 +100\.00 % +0\.5 +87\.50 % +1 min 32 s$'
has '^begun +0 +– +– '
has '^option +random +by_hand +begun$'
has '^drawn +– +by hand +–$'
has '^the curves: curves\.svg$'
check 'what is the same is not shown, the best run is first' test "$(grep -nE '^(by_hand|random|epochs|batch) ' out | cut -d: -f1 | head -3 | tr '\n' ' ')" = '2 3 '
check 'the curves are XML with two plots' "${TRANSFERLIB_PYTHON:-python3}" -c '
import xml.etree.ElementTree as tree
root = tree.parse("curves.svg").getroot()
svg = "{http://www.w3.org/2000/svg}svg"
assert root.tag == svg and len(root.findall(svg)) == 2'
expect 0 '' "$compare" random random --by train_loss
has '^no option differs$'
check 'the curves lie where no place was told' test -s compare.svg
cp random/metrics.csv runs/begun/metrics.csv
printf 'broken' > runs/begun/config.json
expect 1 'runs/begun/config.json' "$compare" random runs/begun

echo "$((checks - failures)) of $checks checks passed"
[ "$failures" = 0 ]
