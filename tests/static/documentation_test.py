#!/usr/bin/env python3
"""Compiles every program in README.md and docs/: each block of C++ that has a main()."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

root = pathlib.Path(os.environ["TRANSFERLIB_SOURCE"])
build = pathlib.Path(os.environ["TRANSFERLIB_BIN"]).parent
with tempfile.TemporaryDirectory() as scratch:
    files = []
    for page in [root / "README.md"] + sorted((root / "docs").rglob("*.md")):
        for number, block in enumerate(re.findall(r"^```cpp\n(.*?)^```$", page.read_text(), re.M | re.S), 1):
            if "int main(" in block:
                files.append(pathlib.Path(scratch, f"{page.stem}_{number}.cpp"))
                files[-1].write_text(block)
    if not files:
        sys.exit("no program was found in the documentation")
    names = [str(f) for f in files]
    clang = os.environ.get("TRANSFERLIB_CLANG")
    by = ["--clang", clang] if clang else []
    done = subprocess.run([sys.executable, str(root / "tests" / "compile"), str(build), "passes"] + by + names)
sys.exit(done.returncode)
