#!/usr/bin/env python3
"""A run of `train` under strace, and one that goes on: whatever it opens to write lies in the run's folder or the cache, is
written under a temporary name, synced and renamed, and its folder synced after that; but for locks, for TensorBoard's
events, which are made anew and grow, and for the kept activations, which are a mapped file of their own. So nothing goes
by core/files.hpp, whose every failure other tests inject.

TRANSFERLIB_BIN: where the programs are. Says so and passes where there is no strace, or it is not permitted.
"""
import os
import pathlib
import random
import re
import shutil
import subprocess
import tempfile

from png import png

TRAIN = pathlib.Path(os.environ.get("TRANSFERLIB_BIN", ".")).absolute() / "train"
CALLS = "open,openat,openat2,creat,rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,truncate,fsync,fdatasync"


def problems(trace, inside, here):
    """What a trace has that it should not have, in sentences; and how many files were put in place."""
    out, pending, unsynced, placed = [], {}, {}, 0
    path_of = lambda p: os.path.normpath(os.path.join(here, p))
    for line in trace:
        call = re.match(r"(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*)", line)
        if not call or " = -1 " in line:
            continue
        name, rest = call.groups()
        quoted = [path_of(q) for q in re.findall(r'"((?:[^"\\]|\\.)*)"', rest)]
        if name.startswith(("open", "creat")):
            flags = re.search(r"O_[A-Z_|]+", rest)
            flags = set(flags.group().split("|")) if flags else {"O_WRONLY"}
            if not flags & {"O_WRONLY", "O_RDWR"} or quoted[0] == "/dev/null":
                continue
            path = quoted[0]
            if not any(path.startswith(folder + os.sep) for folder in inside):
                out.append(f"{path} is written, outside of {inside}")
            elif path.endswith(".tmp"):
                pending[path] = False
            elif not (os.path.basename(path) == "lock" or path.endswith((".lock", ".activations"))
                      or "events.out.tfevents" in path and "O_EXCL" in flags):
                out.append(f"{path} is written in place: {line}")
        elif name in ("fsync", "fdatasync"):
            path = re.search(r"<(.*?)>", rest).group(1)
            if path in pending:
                pending[path] = True
            unsynced.pop(path, None)
        elif name.startswith("rename"):
            source, target = quoted[-2:]
            if not pending.pop(source, False):
                out.append(f"{target} is put in place without having been synced")
            unsynced[os.path.dirname(target)] = target
            placed += 1
        elif name.startswith("unlink"):
            pending.pop(quoted[0], None)
        else:
            out.append(f"a call that nothing here makes: {line}")
    out += [f"{path} is left behind" for path in pending]
    out += [f"the folder of {path} is not synced" for path in unsynced.values()]
    return out, placed


def main():
    strace = shutil.which("strace")
    if not strace or subprocess.run([strace, "-qq", "-o", "/dev/null", "true"], stderr=subprocess.DEVNULL).returncode:
        print("skipped: no strace here, or it is not permitted")
        return
    with tempfile.TemporaryDirectory() as folder:
        here = os.path.realpath(folder)
        os.chdir(here)
        noise = random.Random(5)
        for label, colour in (("blue", (30, 40, 200)), ("red", (200, 40, 30))):
            os.makedirs(f"data/{label}")
            for i in range(10):
                png(pathlib.Path(f"data/{label}/{i}.png"), colour, noise)
        environment = {**os.environ, "TRANSFERLIB_CACHE": os.path.join(here, "cache"), "HOME": os.path.join(here, "home"),
                       "OMP_NUM_THREADS": "1"}
        begin = ["--data", "data", "--random", "--backbone", "squeezenet1_1", "--freeze", "all", "--size", "32", "--epochs", "2",
                 "--checkpoint-every", "1", "--keep-best", "--find-rate", "--threads", "1", "--out", "run"]
        for arguments, least in ((begin, 15), (["--resume", "run", "--epochs", "3"], 8)):
            subprocess.run([strace, "-f", "-y", "-qq", "-s", "4096", "-e", "trace=" + CALLS, "-o", "trace", str(TRAIN), *arguments],
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
            found, placed = problems(pathlib.Path("trace").read_text().splitlines(),
                                     [os.path.join(here, "run"), os.path.join(here, "cache")], here)
            assert not found, "\n".join(found)
            assert placed >= least, placed  # the trace is one
        # The check itself can fail.
        for line in ('1 openat(AT_FDCWD, "/tmp/x", O_WRONLY|O_CREAT, 0666) = 3', '1 openat(AT_FDCWD, "run/x", O_RDWR|O_CREAT, 0666) = 3',
                     '1 openat(AT_FDCWD, "run/x.1.tmp", O_WRONLY|O_CREAT, 0666) = 3', '1 truncate("run/x", 3) = 0',
                     '1 rename("run/x.1.tmp", "run/x") = 0'):
            assert problems([line], [os.path.join(here, "run")], here)[0], line
        print("a run and its continuation write by temporary name, sync and rename only")


main()
