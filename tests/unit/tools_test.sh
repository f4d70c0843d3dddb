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

files=$source/tests/data/checkpoints

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
