#!/usr/bin/env python3
"""coco_ap as a user meets it: pycocotools' numbers as an object and as its table, exit codes, one line an error.
Told by the environment: TRANSFERLIB_BIN, the folder of the programs; TRANSFERLIB_SOURCE, that of the sources.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

PROGRAM = pathlib.Path(os.environ["TRANSFERLIB_BIN"]) / "coco_ap"
DATA = pathlib.Path(os.environ["TRANSFERLIB_SOURCE"]) / "tests" / "data" / "parity" / "average_precision.json"
NAMES = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100", "ar_small", "ar_medium",
         "ar_large"]
failures = []


def check(good, what):
    if not good:
        failures.append(what)


def run(*arguments):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60)


def refused(code, sentence, *arguments):
    out = run(*arguments)
    check(out.returncode == code and out.stdout == "" and out.stderr.count("\n") == 1 and sentence in out.stderr,
          f"{arguments}: {out.returncode}, {out.stdout!r}, {out.stderr!r}; expected {code}, {sentence!r}")


if not PROGRAM.exists():
    print(f"{PROGRAM} was not built, so it is not tested")
    sys.exit(0)

with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    for case in json.loads(DATA.read_text())["cases"]:
        pathlib.Path("truth.json").write_text(json.dumps(case["truth"]))
        pathlib.Path("found.json").write_text(json.dumps(case["detections"], indent=1))
        out = run("truth.json", "found.json", "--json")
        check(out.returncode == 0, f"{case['name']}: exit code {out.returncode}, {out.stderr}")
        got = json.loads(out.stdout)
        for name, wanted in zip(NAMES, case["numbers"]):
            check(abs(got[name] - wanted) <= 1e-12, f"{case['name']}: {name} is {got[name]}, not {wanted}")
        categories = sorted(case["truth"]["categories"], key=lambda c: c["id"])
        for one, category, numbers in zip(got["classes"], categories, case["classes"], strict=True):
            check((one["category_id"], one["name"]) == (category["id"], category["name"]), f"{case['name']}: {one}")
            check(all(abs(one[n] - x) <= 1e-12 for n, x in zip(NAMES, numbers)), f"{case['name']}: {one}, {numbers}")
        warned = any(a["id"] == 0 for a in case["truth"]["annotations"])
        check(("the id 0" in out.stderr) == warned and out.stderr.count("\n") == warned, f"stderr: {out.stderr}")
        table = run("truth.json", "found.json").stdout.splitlines()
        check([line.split(" = ")[1] for line in table] == [f"{x:0.3f}" for x in case["numbers"]], f"{table}")
    check(re.fullmatch(r" Average Precision  \(AP\) @\[ IoU=0.50:0.95 \| area=   all \| maxDets=100 \] = -?\d\.\d{3}",
                       table[0]), table[0])
    check(table[9].startswith(" Average Recall     (AR) @[ IoU=0.50:0.95 | area= small | maxDets=100 ] = "), table[9])

    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cup"}], "annotations": [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [i, i, 9, 9]} for i in range(1, 201)]}
    pathlib.Path("truth.json").write_text(json.dumps(truth))
    found = [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.5}] * 200
    pathlib.Path("found.json").write_text(json.dumps(found + [{**found[0], "category_id": 2}]))
    out = run("truth.json", "found.json")
    check(out.returncode == 0 and "found.json: left out: detection [200], line 1: there is no category" in out.stderr,
          out.stderr)
    pathlib.Path("found.json").write_text(json.dumps([{**found[0], "image_id": 3}] + found[:9]))
    refused(1, "1 of 10 records can't be used", "truth.json", "found.json")
    pathlib.Path("found.json").write_text("[\n{,}]")
    refused(1, "found.json: not valid JSON at line 2, column 2", "truth.json", "found.json")
    refused(1, "nowhere.json: No such file", "nowhere.json", "found.json")
    refused(2, "two files are wanted", "truth.json")
    refused(2, "there is no option --jsn", "truth.json", "found.json", "--jsn")
    check("usage: coco_ap" in run("--help").stdout, "--help")

for failure in failures:
    print("FAILED:", failure)
sys.exit(1 if failures else 0)
