#!/usr/bin/env python3
"""weights_tool fetch and CMake's transferlib_fetch_weights against a server on the loopback that misbehaves on purpose:
cut transfers, no ranges, changed files, wrong hashes, redirections. Told by the environment: TRANSFERLIB_BIN, the folder
of the programs; TRANSFERLIB_SOURCE, that of the sources.
"""
import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import pty
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

TOOL = str(pathlib.Path(os.environ["TRANSFERLIB_BIN"], "weights_tool"))
SOURCE = pathlib.Path(os.environ["TRANSFERLIB_SOURCE"])
DATA = random.Random(1).randbytes(3_000_000)
OTHER = random.Random(2).randbytes(3_000_000)
SHA = hashlib.sha256(DATA).hexdigest()
HALF = len(DATA) // 2
checks = failures = 0


def check(what, good, more=""):
    global checks, failures
    checks += 1
    if not good:
        failures += 1
        print(f"FAILED: {what} {more}")


class Handler(http.server.BaseHTTPRequestHandler):
    """The first part of the path says how it is served; `asked` keeps each request's path, Range and If-Range."""
    asked = []
    go_on = threading.Event()
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, headers=(), body=b"", length=None):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def do_GET(self):
        how = self.path.split("/")[1]
        ranged, condition = self.headers.get("Range"), self.headers.get("If-Range")
        Handler.asked.append((self.path, ranged, condition))
        again = sum(path == self.path for path, _, _ in Handler.asked) > 1
        if how == "missing":
            return self.answer(404, body=b"<html>no such file</html>" * 100)
        if how == "busy":
            return self.answer(503, body=b"<html>later</html>")
        if how == "redirect":
            return self.answer(302, [("Location", "/whole/" + self.path.split("/")[-1])], b"<html>over there</html>")
        if how == "loop":
            return self.answer(302, [("Location", self.path)])
        if how == "outwards":
            return self.answer(302, [("Location", f"file://{TOOL}")])
        if how == "waits":  # in the middle, until it is told to go on
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.send_header("ETag", '"1"')
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(DATA[:HALF])
                Handler.go_on.wait(60)
                self.wfile.write(DATA[HALF:])
            return None
        if how == "empty":
            return self.answer(200)
        changes = how == "changed" and again
        data = OTHER if changes else DATA
        version = {"undated": [], "weak": [("ETag", 'W/"1"')], "dated": [("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")]}
        headers = version.get(how, [("ETag", '"2"' if changes else '"1"')])
        start = 0
        if ranged and how not in ("rangeless",) and (condition is None or not changes):
            start = int(ranged.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                return self.answer(416, [("Content-Range", f"bytes */{len(data)}")])
            if how == "liar":
                start -= 100
            headers = headers + [("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")]
            if how == "mixed":
                data = OTHER
        cut = how != "whole" and not again
        self.answer(206 if ranged and "Content-Range" in dict(headers) else 200, headers,
                    data[start:HALF] if cut else data[start:], len(data) - start)
        self.close_connection = cut
        return None


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass


def main():
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "TRANSFERLIB_WEIGHTS", "TRANSFERLIB_MIRROR"):
            os.environ.pop(name, None)
        os.environ.update(TRANSFERLIB_CACHE=folder + "/cache", HOME=folder + "/home")
        test_find()
        base = f"http://127.0.0.1:{server.server_port}"
        first = subprocess.run([TOOL, "fetch", base + "/whole/x"], capture_output=True, text=True)
        if "without libcurl" in first.stderr:
            check("without libcurl the tool says what to do", base + "/whole/x" in first.stderr and first.returncode == 1)
            print("weights_tool was built without libcurl: nothing to test")
        else:
            test(base)
            test_names(base)
            test_cmake(base)
    print(f"{checks - failures} of {checks} checks passed")
    sys.exit(failures != 0)


def test_find():
    """Where published weights are looked for, in order: each place is taken away after it was found."""
    card = next(card for card in cards() if card["name"] == "resnet50")
    here = pathlib.Path.cwd()
    shutil.copy(TOOL, "weights_tool")
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("XDG_CACHE_HOME", "TORCH_HOME", "KERAS_HOME", "HF_HOME", "HF_HUB_CACHE")}

    def find(**more):
        done = subprocess.run([here / "weights_tool", "find", "resnet50"], capture_output=True, text=True,
                              env={**environment, **{name: str(value) for name, value in more.items()}})
        return done.returncode, done.stdout + done.stderr

    def put(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not what was published")
        return path

    def timm(hub, snapshot):
        return hub / "models--timm--resnet50.a1_in1k" / "snapshots" / snapshot / "model.safetensors"

    # Without any, the sentence has it all.
    home = here / "home"
    code, said = find(TRANSFERLIB_WEIGHTS=here / "mine")
    for part in ("no weights for resnet50: resnet50-11ad3fa6.pth", f"published at {card['url']}", f"none of {here}/mine, ",
                 f"{here}/weights, ", f"{here}/cache/weights, ", f"{home}/.cache/torch/hub/checkpoints, ",
                 f"{home}/.keras/models, ", f"{home}/.cache/huggingface/hub;", "`weights_tool fetch resnet50`",
                 "`transferlib_fetch_weights(TARGET resnet50)`", "set TRANSFERLIB_WEIGHTS to the file"):
        check(f"no weights: {part}", code == 1 and part in said, said)
    # In every place at once; where the others' caches are is told by their variables, or is the usual place.
    file = card["file"]
    for more in ({"TORCH_HOME": here / "t", "KERAS_HOME": here / "k", "HF_HOME": here / "hf"}, {"XDG_CACHE_HOME": here / "xdg"}, {}):
        caches = more.get("XDG_CACHE_HOME", home / ".cache")
        hub = more.get("HF_HOME", caches / "huggingface") / "hub"
        places = [put(p) for p in (here / "mine" / file, here / "weights" / file, here / "cache/weights" / file,
                                   more.get("TORCH_HOME", caches / "torch") / "hub/checkpoints" / file,
                                   more.get("KERAS_HOME", home / ".keras") / "models" / file)]
        older, newer = put(timm(hub, "b")), put(timm(hub, "a"))
        os.utime(older.parent, (1, 1))
        for place in places:
            code, said = find(TRANSFERLIB_WEIGHTS=here / "mine", **more)
            check(f"found in {place}, and its hash is compared",
                  code == 1 and f"the file {place} is not the published one: its SHA-256 is " in said, said)
            place.unlink()
        check("timm's file is found, in the newer snapshot", find(**more) == (0, f"{newer}\n"), str(find(**more)))
        shutil.rmtree(hub)
    # A file that is pointed to counts whatever it is called, and by its hash if it is called as the published one.
    mine = put(here / "mine.pth")
    check("a file that is pointed to", find(TRANSFERLIB_WEIGHTS=mine) == (0, f"{mine}\n"), str(find(TRANSFERLIB_WEIGHTS=mine)))
    hub = here / "other/hub"
    put(timm(hub, "x"))
    check("HF_HUB_CACHE is the hub itself", find(HF_HUB_CACHE=hub) == (0, f"{timm(hub, 'x')}\n"))
    os.remove("weights_tool")


def cards():
    return json.loads(subprocess.run([TOOL, "backbones", "--json"], capture_output=True, text=True, check=True).stdout)


number = 0


def fetch(url, *options, to=None, code=0, says="", left=None, tries=1, **more):
    """Fetches into a folder of its own (or `to`) and checks exit code, what is said and what lies there then."""
    global number
    if to is None:
        number += 1
        to = f"folder{number}"
    for _ in range(tries):
        done = subprocess.run([TOOL, "fetch", url, "--to", to, *options], capture_output=True, text=True, timeout=120, **more)
    what = f"fetch {url} {' '.join(options)}"
    check(f"{what}: exit code {code}", done.returncode == code, f"but {done.returncode}: {done.stdout}{done.stderr}")
    if code:
        check(f"{what}: one line of error", done.stderr.count("\n") == 1 and not done.stdout, done.stdout + done.stderr)
    check(f"{what}: says {says!r}", says in (done.stderr if code else done.stdout), done.stdout + done.stderr)
    there = sorted(os.listdir(to)) if os.path.isdir(to) else []
    check(f"{what}: leaves {left}", left is None or there == sorted(left), str(there))
    return pathlib.Path(to)


def asked(url_path):
    return [(ranged, condition) for path, ranged, condition in Handler.asked if path == url_path]


def test(base):
    # Whole, and once only.
    to = fetch(base + "/whole/a.pth", left=["a.pth"], says="a.pth: 3000000 bytes")
    check("the file is what was served", (to / "a.pth").read_bytes() == DATA)
    fetch(base + "/whole/a.pth", to=to, left=["a.pth"], says="was there")
    check("what is there is not asked for again", len(asked("/whole/a.pth")) == 1)
    # Hashes: the whole one, the first digits, capitals; a wrong one replaces nothing and leaves nothing.
    for digits in (SHA, SHA[:8], SHA.upper()):
        fetch(base + "/whole/b.pth?download=true#x", "--sha256", digits, left=["b.pth"])
    fetch(base + "/whole/c.pth", "--sha256", "0" + SHA[1:], code=1, left=[], says=f"its SHA-256 is {SHA}, expected 0")
    (to / "a.pth").write_bytes(OTHER)
    fetch(base + "/whole/a.pth", "--sha256", SHA[:8] + "0", to=to, code=1, left=["a.pth"], says="is not the published file")
    check("an old file stays where the new one is wrong", (to / "a.pth").read_bytes() == OTHER)
    fetch(base + "/whole/a.pth", "--sha256", SHA, to=to, left=["a.pth"], says="3000000 bytes")
    check("a file with a wrong hash is replaced", (to / "a.pth").read_bytes() == DATA)
    # What is not there.
    fetch(base + "/missing/a.pth", code=1, left=[], says="the server answers 404")
    to = pathlib.Path("half")
    to.mkdir()
    (to / "a.pth.part").write_bytes(DATA[:HALF])
    fetch(base + "/missing/a.pth", to=to, code=1, left=[], says="the server answers 404")
    (to / "a.pth.part").write_bytes(DATA[:HALF])
    fetch(base + "/busy/a.pth", to=to, code=1, left=["a.pth.part"], says="the server answers 503; 1500000 bytes are kept")
    fetch(base + "/busy/b.pth", code=1, left=[], says="the server answers 503; check the address")
    fetch("http://127.0.0.1:1/a.pth", code=1, left=[], says="cannot fetch http://127.0.0.1:1/a.pth: ")
    fetch("http://no-such-host.invalid/a.pth", code=1, left=[], says="no-such-host.invalid")
    fetch("gopher://127.0.0.1/a.pth", code=1, left=[], says="cannot fetch gopher:")
    fetch(base + "/empty/a.pth", left=["a.pth"], says="a.pth: 0 bytes")
    fetch(base + "/empty/a.pth", "--sha256", SHA, code=1, left=[], says="is not the published file")
    # Cut: the half is kept, the rest is asked for, of the same version only.
    to = fetch(base + "/cut/a.pth", code=1, left=["a.pth.part", "a.pth.part.version"], says="1500000 bytes are kept, run again")
    check("the half is the file's", (to / "a.pth.part").read_bytes() == DATA[:HALF])
    fetch(base + "/cut/a.pth", to=to, left=["a.pth"], says="3000000 bytes, 1500000 of them from before")
    check("the two halves are the file", (to / "a.pth").read_bytes() == DATA)
    check("the rest was asked for", asked("/cut/a.pth")[1] == (f"bytes={HALF}-", '"1"'), str(asked("/cut/a.pth")))
    for how, second in (("dated", (f"bytes={HALF}-", "Mon, 01 Jan 2024 00:00:00 GMT")), ("undated", (None, None)),
                        ("weak", (None, None)), ("rangeless", (f"bytes={HALF}-", '"1"'))):
        to = fetch(f"{base}/{how}/a.pth", tries=2, left=["a.pth"])
        check(f"{how}: the file is whole", (to / "a.pth").read_bytes() == DATA)
        check(f"{how}: what was asked for", asked(f"/{how}/a.pth")[1] == second, str(asked(f"/{how}/a.pth")))
    # With a hash halves may be put together whatever the server says of versions: a wrong whole is found out.
    to = fetch(base + "/undated/b.pth", "--sha256", SHA, tries=2, left=["b.pth"], says="1500000 of them from before")
    check("undated, with a hash: the file is whole", (to / "b.pth").read_bytes() == DATA)
    fetch(base + "/mixed/a.pth", "--sha256", SHA, tries=2, code=1, left=[], says="is not the published file")
    fetch(base + "/liar/a.pth", tries=2, code=1, says='sends "bytes 1499900-')
    to = fetch(base + "/changed/a.pth", tries=2, left=["a.pth"], says="a.pth: 3000000 bytes\n")
    check("changed: the new file, whole", (to / "a.pth").read_bytes() == OTHER)
    # All there, but the end was not reached; or more than all.
    for extra, code in ((b"", 0), (b"more", 0)):
        to = pathlib.Path(f"all{len(extra)}")
        to.mkdir()
        (to / "a.pth.part").write_bytes(DATA + extra)
        fetch(base + "/whole/a.pth", "--sha256", SHA, to=to, left=["a.pth"])
        check("what was all there is taken", (to / "a.pth").read_bytes() == DATA)
    # Redirections: followed; not for ever; not out of the net.
    to = fetch(base + "/redirect/a.pth", left=["a.pth"])
    check("redirected: the file is whole", (to / "a.pth").read_bytes() == DATA)
    fetch(base + "/loop/a.pth", code=1, left=[], says="cannot fetch")
    fetch(base + "/outwards/a.pth", code=1, left=[], says="cannot fetch")
    # Files.
    pathlib.Path("data").write_bytes(DATA)
    to = fetch(f"file://{os.getcwd()}/data", "--sha256", SHA, left=["data"])
    check("from a file: the file is whole", (to / "data").read_bytes() == DATA)
    fetch(f"file://{os.getcwd()}/absent", code=1, left=[], says="cannot fetch file:")
    # Folders: made; or told of.
    fetch(base + "/whole/a.pth", to="new/folder", left=["a.pth"])
    fetch(base + "/whole/a.pth", to="data", code=1, says="cannot make the folder data")
    os.makedirs("taken/a.pth")
    fetch(base + "/whole/a.pth", to="taken", code=1, left=["a.pth"], says="taken/a.pth")

    # A full disk, as a limit on the size of files: the error is told and nothing final is there.
    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    to = fetch(base + "/whole/full.pth", code=1, left=["full.pth.part", "full.pth.part.version"],
               says="full.pth.part: File too large", preexec_fn=limited)
    fetch(base + "/whole/full.pth", to=to, left=["full.pth"], says="1000000 of them from before")
    # Wrong command lines.
    fetch("http://127.0.0.1", code=2, says="names no file")
    fetch(base + "/whole/", code=2, says="names no file")
    fetch(base + "/whole/..", code=2, says="names no file")
    fetch(base + "/whole/a.pth", "--sha256", "xyz", code=2, says="--sha256 wants up to 64 hexadecimal digits")
    fetch(base + "/whole/a.pth", "--url", base, code=2, says="--url is for a backbone")

    # Interrupted: what has come is kept, and is the beginning of the file; a killed process costs nothing either.
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        to = pathlib.Path(f"stopped{int(stop)}")
        process = start(base, "a.pth", to)
        process.send_signal(stop)
        _, said = process.communicate(timeout=20)
        check(f"{stop.name}: it ends with an error", process.returncode == (1 if stop != signal.SIGKILL else -9), said)
        check(f"{stop.name}: it says so", stop == signal.SIGKILL or "was stopped; 1500000 bytes are kept" in said, said)
        check(f"{stop.name}: the part is kept, nothing else", sorted(os.listdir(to)) == ["a.pth.part", "a.pth.part.version"])
        check(f"{stop.name}: it is the beginning", (to / "a.pth.part").read_bytes() == DATA[:HALF])
        fetch(base + "/whole/a.pth", to=to, left=["a.pth"], says="1500000 of them from before")
        check(f"{stop.name}: then the rest", (to / "a.pth").read_bytes() == DATA)

    # Two at once: one transfers, the other waits and finds the file, or goes on where the first one died.
    for killed in (False, True):
        name = f"two{killed}.pth"
        to = pathlib.Path(f"two{killed}")
        one = start(base, name, to)
        two = subprocess.Popen([TOOL, "fetch", f"{base}/whole/{name}", "--to", str(to)], stdout=subprocess.PIPE, text=True)
        time.sleep(3)
        check("two at once: the second waits", two.poll() is None and not asked(f"/whole/{name}"))
        if killed:
            one.kill()
        else:
            Handler.go_on.set()
        one.communicate(timeout=60)
        said, _ = two.communicate(timeout=60)
        check("two at once: both are content", two.returncode == 0 and one.returncode == (-9 if killed else 0), said)
        check("two at once: the file is whole", (to / name).read_bytes() == DATA and os.listdir(to) == [name], said)
        check("two at once: the second was told", ("1500000 of them from before" if killed else "was there") in said, said)
        check("two at once: one transfer", len(asked(f"/whole/{name}")) == int(killed))
    # The one that waits can be stopped too.
    one = start(base, "three.pth", pathlib.Path("three"))
    two = subprocess.Popen([TOOL, "fetch", base + "/whole/three.pth", "--to", "three"], stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    two.send_signal(signal.SIGINT)
    _, said = two.communicate(timeout=20)
    check("waiting, it can be stopped", two.returncode == 1 and "was stopped" in said and one.poll() is None, said)
    Handler.go_on.set()
    one.communicate(timeout=60)
    check("the other goes on", one.returncode == 0 and os.listdir("three") == ["three.pth"])

    # On a terminal there is a bar.
    master, slave = pty.openpty()
    process = subprocess.Popen([TOOL, "fetch", base + "/whole/bar.pth"], stdout=slave, stderr=subprocess.STDOUT,
                               env={**os.environ, "TERM": "xterm", "LC_ALL": "C"})
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # what a terminal says whose other end is closed
        while data := os.read(master, 4096):
            shown += data
    check("a terminal shows a bar", process.wait() == 0 and b"\rbar.pth" in shown and b"%" in shown and b"[" in shown, str(shown))
    check("without a folder it is this one", pathlib.Path("bar.pth").read_bytes() == DATA)


def start(base, name, to):
    """Begins to fetch from the server that waits in the middle; returns when half is there."""
    Handler.go_on.clear()
    process = subprocess.Popen([TOOL, "fetch", f"{base}/waits/{name}", "--to", str(to)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    part = to / (name + ".part")
    wait_for(lambda: part.exists() and part.stat().st_size == HALF)
    return process


def wait_for(condition):
    end = time.time() + 60
    while not condition() and time.time() < end:
        time.sleep(0.01)


def test_names(base):
    named = {card["name"]: card for card in cards()}
    # The published file is not served here: it is found out by its hash.
    lite0 = named["efficientnet_lite0"]
    fetch("efficientnet_lite0", code=1, says="PyPI")
    fetch("efficientnet_lite0", "--url", base + "/whole/lite0.pth", code=1, left=[], says=f"expected {lite0['sha256']}")
    fetch("efficientnet_lite0", "--sha256", SHA, code=2, says="--sha256 is for a URL")
    fetch("efficientnet_lite9", code=1, says="the nearest are efficientnet_lite0")
    # A network whose file has no published hash comes under the file's name, to where programs look.
    lite3 = named["efficientnet_lite3"]
    done = subprocess.run([TOOL, "fetch", "efficientnet_lite3", "--url", base + "/redirect/x"], capture_output=True, text=True)
    check("a name without --to: fetched", done.returncode == 0, done.stderr)
    check("a name without --to: into the cache", pathlib.Path("cache/weights", lite3["file"]).read_bytes() == DATA)
    # The mirror takes the place of scheme and host.
    os.environ["TRANSFERLIB_MIRROR"] = base + "/whole/"
    for card in named.values():
        if card["url"] and card["sha256"]:
            fetch(card["name"], code=1, left=[], says="is not the published file")
            path = "/whole/" + card["url"].split("://")[1].split("/", 1)[1]
            check("the mirror is asked for the published path", len(asked(path)) == 1, path)
            break
    else:
        check("a network has a published file with a hash", False)
    del os.environ["TRANSFERLIB_MIRROR"]


CMAKE = """
cmake_minimum_required(VERSION 3.18)
project(app LANGUAGES CXX)
add_executable(transferlib::weights_tool IMPORTED)
set_target_properties(transferlib::weights_tool PROPERTIES IMPORTED_LOCATION "@TOOL@")
include("@SOURCE@/cmake/TransferlibFetchWeights.cmake")
add_executable(app main.cpp)
transferlib_fetch_weights(app @NAMES@)
transferlib_fetch_weights(app @NAMES@)
add_subdirectory(second)
install(TARGETS app DESTINATION bin)
install(DIRECTORY "${CMAKE_BINARY_DIR}/transferlib_weights/" DESTINATION bin/weights PATTERN ".*" EXCLUDE)
"""


def test_cmake(base):
    cmake = os.environ.get("CMAKE") or shutil.which("cmake")
    free = [card for card in cards() if card["url"] and not card["sha256"]][:2]
    hashed = [card for card in cards() if card["url"] and card["sha256"]][:1]
    check("networks with a published file, with a hash and without", free and hashed)
    pathlib.Path("project/second").mkdir(parents=True)
    main_cpp = pathlib.Path("project/main.cpp")
    main_cpp.write_text("int main() {}\n")

    def lists(names):
        text = CMAKE.replace("@TOOL@", TOOL).replace("@SOURCE@", str(SOURCE)).replace("@NAMES@", " ".join(names))
        pathlib.Path("project/CMakeLists.txt").write_text(text)
        pathlib.Path("project/second/CMakeLists.txt").write_text(
            f"add_executable(second ../main.cpp)\ntransferlib_fetch_weights(second {names[0] if names else ''})\n")

    def run(*command, mirror=base):
        return subprocess.run([cmake, *command], capture_output=True, text=True, timeout=300,
                              env={**os.environ, "TRANSFERLIB_MIRROR": mirror})

    def build(mirror):
        configured = run("-S", "project", "-B", "build", *(["-G", os.environ["GENERATOR"]] if "GENERATOR" in os.environ else []))
        check("the project can be configured", configured.returncode == 0, configured.stderr)
        return run("--build", "build", mirror=mirror)

    lists([])
    done = run("-S", "project", "-B", "none")
    check("without a name it asks for one", done.returncode != 0 and "which networks?" in done.stderr, done.stderr)
    lists([card["name"] for card in free])
    done = build(base + "/missing")
    check("a file that is not there fails the build", done.returncode != 0 and "404" in done.stdout + done.stderr, done.stdout)
    done = build(base + "/whole")
    check("the project can be built", done.returncode == 0, done.stdout + done.stderr)
    for place in ("build/weights", "build/second/weights"):
        for card in free[:1] if "second" in place else free:
            path = pathlib.Path(place, card["file"])
            check(f"{path} is there", path.is_file() and path.read_bytes() == DATA)
    before = len(Handler.asked)
    main_cpp.write_text("int main() { return 0; }\n")
    done = build(base + "/missing")
    check("built again, nothing is fetched", done.returncode == 0 and len(Handler.asked) == before, done.stdout)
    done = run("--install", "build", "--prefix", "prefix")
    check("installed beside the program", sorted(os.listdir("prefix/bin/weights")) == sorted({c["file"] for c in free}))
    shutil.rmtree("build/transferlib_weights")
    done = build(base + "/whole")
    check("a removed folder is fetched again", done.returncode == 0 and pathlib.Path("build/weights", free[0]["file"]).exists())
    lists([hashed[0]["name"]])
    done = build(base + "/whole")
    check("a wrong hash fails the build", done.returncode != 0 and "is not the published file" in done.stdout + done.stderr)
    check("a wrong hash leaves nothing", not pathlib.Path("build/weights", hashed[0]["file"]).exists())


main()
