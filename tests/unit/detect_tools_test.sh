#!/bin/bash
# The tools for detectors as a user meets them: exit codes, --help, one line an error, and the way from pictures with
# boxes to boxes in pictures. Told by the environment: TRANSFERLIB_BIN, the folder of the programs.
source "$(dirname "${BASH_SOURCE[0]}")/expect.sh"

# Pictures with a rectangle in each, as Pascal VOC has them. Python's standard library suffices.
"$python" - << 'PYTHON' || { echo "no pictures"; exit 1; }
import os, struct, zlib

def png(path, width, height, box, colour):
    rows, state = b"", len(path)
    for y in range(height):
        rows += b"\0"
        for x in range(width):
            for c in range(3):
                state = (state * 1103515245 + 12345) % 2**31
                inside = box[0] <= x < box[2] and box[1] <= y < box[3]
                rows += bytes([colour[c] if inside else (state >> 16) % 60])
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
                chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))

for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
    os.makedirs(f"voc/{folder}")
names = [f"p{i}" for i in range(8)]
for i, name in enumerate(names):
    width, height, label = 60 + i, 50 + i, ("red", "blue")[i % 2]
    box = (5 + 2 * i, 8, 25 + 3 * i, 34)
    png(f"voc/JPEGImages/{name}.png", width, height, box, (230, 20, 20) if label == "red" else (20, 20, 230))
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"),
                                                       (box[0] + 1, box[1] + 1, box[2], box[3])))
    with open(f"voc/Annotations/{name}.xml", "w") as f:
        f.write(f"<annotation><filename>{name}.png</filename><size><width>{width}</width><height>{height}</height>"
                f"<depth>3</depth></size><object><name>{label}</name><difficult>0</difficult>"
                f"<bndbox>{corners}</bndbox></object></annotation>")
for name, part in (("train", names[:6]), ("val", names[6:])):
    with open(f"voc/ImageSets/Main/{name}.txt", "w") as f:
        f.write("\n".join(part) + "\n")
PYTHON
cat > tiny.cfg << 'CFG'
[net]
width=64
height=64
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=leaky
[convolutional]
batch_normalize=1
filters=24
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=21
size=1
stride=1
pad=1
activation=linear
[yolo]
mask=0,1,2
anchors=10,14, 20,20, 30,24
classes=2
num=3
CFG
printf 'not a picture\n' > text.png

# -------------------------------------------------------------------------------------------------------- every program
for program in detect detect_train detect_evaluate; do
  expect 0 '' "$bin/$program" --help
  has "^usage: $program "
  has '^  --help '
  expect 2 "$program: there is no option --helpp; the nearest is --help (see --help)" "$bin/$program" --helpp
done

# --------------------------------------------------------------------------------------------------------- detect_train
train="$bin/detect_train"
expect 2 '--data DIR is wanted' "$train"
expect 2 'either --cfg FILE or --backbone NAME' "$train" --data voc
expect 2 '--weights FILE goes with --cfg, or --random' "$train" --data voc --cfg tiny.cfg
expect 2 'a .cfg has its own neck' "$train" --data voc --cfg tiny.cfg --random --neck none
expect 2 '--random and --weights contradict each other' "$train" --data voc --cfg tiny.cfg --random --weights x
expect 2 '--format is voc, yolo or coco, not "xml"' "$train" --data voc --cfg tiny.cfg --random --format xml
expect 2 '--family is yolo, two-stage or sliding, not "three"' "$train" --data voc --backbone resnet18 --family three
expect 2 '--cfg goes with --family yolo' "$train" --data voc --cfg tiny.cfg --random --family two-stage
expect 2 '--head is yolo_v1, ' "$train" --data voc --backbone resnet18 --head linear
expect 2 '--train and --val go together' "$train" --data voc --cfg tiny.cfg --random --train train
expect 2 '--size must be from 32 to 4096, not 8' "$train" --data voc --cfg tiny.cfg --random --size 8
expect 2 '--multi-scale is the least and the greatest side' "$train" --data voc --cfg tiny.cfg --random --multi-scale 32:1e300
expect 2 '--schedule is ' "$train" --data voc --cfg tiny.cfg --random --schedule sine
expect 2 '--checkpoint-every is a number of steps' "$train" --data voc --cfg tiny.cfg --random --checkpoint-every x
expect 2 '--freeze is all, none, until:N or until:NAME' "$train" --data voc --cfg tiny.cfg --random --freeze some
expect 2 '--resume goes on in its own folder' "$train" --resume run --out other
expect 1 'absent' "$train" --resume absent
expect 1 'nothing' "$train" --data nothing --cfg tiny.cfg --random

tiny=(--data voc --cfg tiny.cfg --random --head yolo_v3 --anchors 2 --size 64 --batch 2 --augment mosaic --threads 1
  --seed 3 --workers 0)
expect 0 '' "$train" "${tiny[@]}" --epochs 2 --checkpoint-every 1 --out whole
has '^data: voc, 6 pictures to train and 2 to validate, 2 classes: '
has "^the run's folder: whole\$"
for file in model.safetensors metrics.csv config.json report.html precision_recall.svg confusion.svg detections.svg log.txt; do
  check "the run's folder has $file" test -s "whole/$file"
done
check 'the columns of metrics.csv' grep -qE '^epoch,train_loss,.*val_ap,val_ap50,seconds$' whole/metrics.csv
check 'the report has the curves' grep -q 'Precision over recall' whole/report.html
check 'the confusion knows the background' grep -q 'background' whole/confusion.svg

expect 0 '' "$train" "${tiny[@]}" --multi-scale 32:96 --epochs 1 --out scales
check 'the sides are told' grep -q '32 to 96 by 32' scales/config.json

# Stopped as by Ctrl-C, or killed, it goes on and ends with the same bytes.
"$train" "${tiny[@]}" --epochs 2 --checkpoint-every 1 --out stopped > out 2> err < /dev/null &
pid=$!
for _ in $(seq 400); do
  [ -n "$(ls stopped/checkpoints 2> /dev/null)" ] && break
  kill -0 $pid 2> /dev/null || break
  sleep 0.02
done
kill -TERM $pid 2> /dev/null
wait $pid
code=$?
checks=$((checks + 1))
if [ $code = 130 ]; then
  has '^stopped after [0-9]+ complete epochs; go on by: detect_train --resume stopped$'
elif [ $code != 0 ]; then
  fail "a stopped run ended with $code"
  cat out err
fi
expect 0 '' "$train" --resume stopped
check 'a run that goes on ends with the same model' cmp whole/model.safetensors stopped/model.safetensors
expect 0 '' "$train" --config whole/config.json --out again
check 'a run from a config.json is the same' cmp whole/model.safetensors again/model.safetensors

# Some of the classes, and then one more.
expect 2 '--add-classes-to goes with --family yolo' "$train" --data voc --family two-stage --add-classes-to x
expect 2 '--cfg does not go with --add-classes-to' "$train" --data voc --cfg tiny.cfg --add-classes-to x
expect 2 '--size does not go with --add-classes-to' "$train" --data voc --size 64 --add-classes-to x
expect 1 'absent.safetensors' "$train" --data voc --add-classes-to absent.safetensors
expect 1 'the data has no class "green"; it has blue, red' "$train" "${tiny[@]}" --classes green --epochs 1
expect 0 '' "$train" "${tiny[@]}" --classes red --epochs 1 --out red
has '^data: .*, 1 classes: red$'
more=(--data voc --add-classes-to red/model.safetensors --batch 2 --augment mosaic --threads 1 --seed 3 --workers 0)
expect 0 '' "$train" "${more[@]}" --epochs 2 --out both
has '^classes: red, kept as this network finds them'
has '^learns: blue '
check 'what is kept is a column' grep -qE '^epoch,train_loss,.*train_kept,' both/metrics.csv
expect 0 '' "$bin/detect" --model both/model.safetensors --about
has '^classes: red, blue'
expect 0 '' "$train" "${more[@]}" --freeze all --classes blue --epochs 1 --out frozen
expect 1 "the class \"red\" can't be added" "$train" "${more[@]}" --classes red --epochs 1
expect 1 'no class was given' "$train" --data voc --add-classes-to both/model.safetensors --epochs 1

# --------------------------------------------------------------------------------------------------------------- detect
expect 2 'either --model FILE, or --cfg, --weights and --names' "$bin/detect" a.png
expect 2 '--cfg, --weights and --names are wanted together' "$bin/detect" --cfg tiny.cfg a.png
expect 2 'pictures are wanted' "$bin/detect" --model whole/model.safetensors
expect 2 '--threshold must be from 0 to 1, not 2' "$bin/detect" --model whole/model.safetensors --threshold 2 a.png
expect 1 'absent.safetensors' "$bin/detect" --model absent.safetensors a.png
expect 1 'text.png' "$bin/detect" --model whole/model.safetensors text.png
# One that has learnt where the squares are.
expect 0 '' "$train" --data voc --cfg tiny.cfg --random --head yolo_v3 --anchors 2 --size 64 --batch 2 --augment none \
  --threads 1 --seed 3 --workers 0 --lr 0.01 --epochs 60 --out learnt
expect 0 '' "$bin/detect" --model learnt/model.safetensors --about
has '^classes: '
expect 0 '' "$bin/detect" --model learnt/model.safetensors --threshold 0.001 --json found.json --draw drawn \
  voc/JPEGImages/p0.png voc/JPEGImages/p1.png
has '^voc/JPEGImages/p1.png: [0-9]+ objects?$'
check 'JSON has all of every object' "$python" -c '
import json, sys
found = json.load(open("found.json"))
assert found and {f["image"] for f in found} <= {"voc/JPEGImages/p0.png", "voc/JPEGImages/p1.png"}
for f in found:
    assert list(f) == ["image", "class", "label", "confidence", "box"], f
    assert f["class"] in (0, 1) and f["label"] in ("red", "blue") and 0.001 <= f["confidence"] <= 1
    assert len(f["box"]) == 4 and f["box"][2] >= 0 and f["box"][3] >= 0'
check 'what is drawn is a picture of the same size' "$python" -c '
import struct
size = lambda p: struct.unpack(">II", open(p, "rb").read()[16:24])
assert size("drawn/p0.png") == size("voc/JPEGImages/p0.png")
assert open("drawn/p0.png", "rb").read() != open("voc/JPEGImages/p0.png", "rb").read()'

# ------------------------------------------------------------------------------------------------------ detect_evaluate
evaluate="$bin/detect_evaluate"
expect 2 '--model FILE and --data DIR are wanted' "$evaluate" --data voc
expect 2 '--batch must be at least 1, not 0' "$evaluate" --model learnt/model.safetensors --data voc --batch 0
expect 0 '' "$evaluate" --model learnt/model.safetensors --data voc --set val --json numbers.json --html report.html
has '^ap50 +-?[0-9]\.[0-9]{4}$'
check 'numbers, and a report of them' "$python" -c '
import json
n = json.load(open("numbers.json"))
assert set(n["classes"]) == {"red", "blue"} and all(c["boxes"] == 1 for c in n["classes"].values()), n
assert {"ap", "ap50", "ar100"} <= set(n)
page = open("report.html").read()
assert "Precision over recall" in page and "background" in page and "Detector model.safetensors" in page'

# Of one that looks for some of the classes, those are measured.
expect 0 '' "$evaluate" --model red/model.safetensors --data voc --set val --json some.json
check 'one class' "$python" -c '
import json
assert list(json.load(open("some.json"))["classes"]) == ["red"]'

# ----------------------------------------------------------------------------------------------------------- two stages
two=(--data voc --family two-stage --backbone mobilenet_v3_small --random --width 0.03125 --size 64 --batch 2
  --augment none --threads 1 --workers 0)
expect 0 '' "$train" "${two[@]}" --epochs 1 --out two
expect 0 '' "$bin/detect" --model two/model.safetensors --threshold 0 voc/JPEGImages/p0.png
expect 0 '' "$evaluate" --model two/model.safetensors --data voc --set val
has '^ap +-?[0-9]\.[0-9]{4}$'

printf '%d checks, %d failures\n' $checks $failures
[ $failures = 0 ]
