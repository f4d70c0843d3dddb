#!/usr/bin/env python3
"""Reads what a run leaves for others to look at as others would: TensorBoard's event files by a reader of their format,
and by TensorBoard itself where it is installed; PNG; the report as HTML.
Told by the environment: TRANSFERLIB_BIN, the folder of the programs.
"""
import base64
import glob
import html.parser
import math
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import zlib

PROGRAM = pathlib.Path(os.environ["TRANSFERLIB_BIN"]) / "unit_torch"
failures = []


def check(good, what):
    if not good:
        failures.append(what)


# ---------------------------------------------------------------------------------------------------------- event files
def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    at = 0
    while at < len(data):
        length, crc = struct.unpack_from("<QI", data, at)
        assert masked(data[at:at + 8]) == crc, f"the checksum of the length at byte {at}"
        body = data[at + 12:at + 12 + length]
        assert len(body) == length and struct.unpack_from("<I", data, at + 12 + length)[0] == masked(body), at
        yield body
        at += 16 + length


def message(data):
    """A protobuf message as {field: [values]}: numbers as they are, the rest as bytes."""
    at, out = 0, {}

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            value = varint()
            value -= 1 << 64 if value >> 63 else 0
        else:
            size = {1: 8, 5: 4}.get(kind) or (varint() if kind == 2 else None)
            value = data[at:at + size]
            assert len(value) == size
            at += size
            if kind != 2:
                value = struct.unpack("<d" if kind == 1 else "<f", value)[0]
        out.setdefault(key >> 3, []).append(value)
    return out


def events_of(folder):
    """All events of a folder, file by file in the order of their names: (step, kind, tag, value)."""
    out = []
    for name in sorted(glob.glob(str(folder / "*tfevents*"))):
        for number, record in enumerate(records(pathlib.Path(name).read_bytes())):
            event = message(record)
            step = event.get(2, [0])[0]
            assert abs(event[1][0] - os.path.getmtime(name)) < 600, "the wall time"
            check((number == 0) == (3 in event), "the version is the first event")
            if 3 in event:
                check(event[3] == [b"brain.Event:2"], "the version")
            elif 7 in event:
                check(message(event[7][0]) == {1: [1]}, "the session begins")
                out = [e for e in out if e[0] < step]  # as TensorBoard purges
            else:
                value, = message(event[5][0])[1]
                fields = message(value)
                kind, = fields.keys() - {1, 9}
                out.append((step, kind, fields[1][0].decode(), fields[kind][0], fields.get(9)))
    return out


def check_events(folder):
    events = events_of(folder)
    scalars = {}
    for step, kind, tag, value, _ in events:
        if kind == 2:
            scalars.setdefault(tag, {})[step] = value
    close = lambda got, want: got.keys() == want.keys() and all(
        math.isclose(got[k], want[k], rel_tol=1e-6) for k in want)
    check(close(scalars["loss/train"], {1: 2.0, 2: 1.0, 3: 2 / 3, 4: 10.0, 5: 11.0}), f"the resumed curve: {scalars}")
    check(close(scalars["accuracy/val"], {n: 1 - 0.6 / n for n in (1, 2, 3)}), "what was purged")
    check(close(scalars["seconds"], {n: 20.0 for n in (1, 2, 3)}), "a column of no part")
    check(scalars["odd \ufffd "] == {-2: math.inf}, "a tag that is no UTF-8, a step below 0, a value that is infinite")
    check("never written" not in scalars, "what was not flushed")
    others = {tag: (step, kind, value, more) for step, kind, tag, value, more in events if kind != 2}
    check(set(others) == {"notes"}, f"the rest is behind the purge: {set(others)}")
    step, kind, value, more = others["notes"]
    tensor = message(value)
    check(kind == 8 and tensor[1] == [7] and tensor[8] == [b"# heading\n\n| a | b |\n"], "the text")
    check(message(message(tensor[2][0])[2][0]) == {1: [1]}, "its shape")
    check(message(message(more[0])[1][0]) == {1: [b"text"]}, "its plugin")

    # The first file on its own has the rest.
    first = sorted(glob.glob(str(folder / "*tfevents*")))[0]
    seen = {}
    for record in records(pathlib.Path(first).read_bytes()):
        event = message(record)
        if 5 in event:
            fields = message(message(event[5][0])[1][0])
            seen[fields[1][0].decode()] = (event[2][0], fields)
    check("nothing" not in seen, "a histogram of nothing is none")
    step, fields = seen["picture"]
    picture = message(fields[4][0])
    check(step == 1 << 40 and picture[1] == [23] and picture[2] == [37] and picture[3] == [3], "the picture")
    check(png(picture[4][0]) == (37, 23, 3, pixels(37, 23, 3)), "the picture's PNG")
    values = [math.sin(0.7 * i) * i for i in range(1000)]
    h = message(seen["weights"][1][5][0])
    limits, counts = ([x for x, in struct.iter_unpack("<d", h[f][0])] for f in (6, 7))
    check(h[1] == [min(values)] and h[2] == [max(values)] and h[3] == [1000] and math.isclose(h[4][0], sum(values)) and
          math.isclose(h[5][0], sum(v * v for v in values)), "the histogram's sums")
    edges = [-math.inf] + limits
    check(len(limits) == 30 and limits[-1] == max(values) and
          counts == [sum(a < v <= b for v in values) for a, b in zip(edges, limits)], "the histogram's counts")
    h = message(seen["constant"][1][5][0])
    check(struct.unpack("<d", h[6][0]) == (2.5,) and struct.unpack("<d", h[7][0]) == (7.0,), "a histogram of one value")

    try:
        from tensorboard.backend.event_processing import event_accumulator
        import tensorboard
    except ImportError:
        return
    print(f"read by tensorboard {tensorboard.__version__} too")
    everything = {kind: 0 for kind in ("scalars", "images", "tensors")}
    reader = event_accumulator.EventAccumulator(str(folder), size_guidance=everything)
    reader.Reload()
    tags = reader.Tags()
    check(set(tags["scalars"]) == set(scalars), f"TensorBoard's tags: {tags}")
    for tag, want in scalars.items():
        got = {e.step: e.value for e in reader.Scalars(tag)}
        check(tag.startswith("odd") or close(got, want), f"TensorBoard reads {tag}: {got}")
    check(reader.Tensors("notes")[0].tensor_proto.string_val[0] == b"# heading\n\n| a | b |\n", "TensorBoard's text")
    alone = event_accumulator.EventAccumulator(first)
    alone.Reload()
    check(alone.Images("picture")[0].encoded_image_string == picture[4][0], "TensorBoard's picture")
    check(alone.Histograms("weights")[0].histogram_value.num == 1000, "TensorBoard's histogram")


# ------------------------------------------------------------------------------------------------------------------ PNG
def pixels(width, height, channels):
    return bytes((i * i // 7 + i) & 255 for i in range(width * height * channels))


def png(data):
    """(width, height, channels, pixels) of a PNG of 8 bits that is not interlaced."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, kinds = 8, b"", []
    while at < len(data):
        length, = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4:at + 8], data[at + 8:at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + body)
        kinds.append(kind)
        if kind == b"IHDR":
            width, height, bits, colour, *rest = struct.unpack(">IIBBBBB", body)
            assert bits == 8 and rest == [0, 0, 0]
        packed += body if kind == b"IDAT" else b""
        at += 12 + length
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    channels = {0: 1, 2: 3, 6: 4}[colour]
    row, raw, out = width * channels, zlib.decompress(packed), []
    for y in range(height):
        assert raw[y * (row + 1)] == 4
        line, above = bytearray(raw[y * (row + 1) + 1:(y + 1) * (row + 1)]), out[-1] if out else bytes(row)
        for x in range(row):
            a, b, c = (line[x - channels], above[x], above[x - channels]) if x >= channels else (0, above[x], 0)
            line[x] = (line[x] + min((a, b, c), key=lambda v: abs(a + b - c - v))) & 255
        out.append(bytes(line))
    return width, height, channels, b"".join(out)


# ----------------------------------------------------------------------------------------------------------------- HTML
class Page(html.parser.HTMLParser):
    """Collects what is in the page, and whether its elements are closed in order."""
    VOID = {"meta", "img", "link", "br", "hr", "input", "wbr"}

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.images, self.heads, self.text, self.elements = [], [], [], [], [], [], []

    def handle_starttag(self, tag, attributes, closed=False):
        attributes = dict(attributes)
        self.elements.append(tag)
        for name, value in attributes.items():
            check(not name.startswith("on"), f"a handler: {name}={value}")
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "action", "data", "srcset"):
                self.links.append(value)
        if tag == "img":
            self.images.append(attributes)
        if tag == "th":
            check(attributes.get("scope") in ("col", "row"), "a header cell without scope")
        if re.fullmatch("h[1-6]", tag):
            self.heads.append(int(tag[1]))
        if tag not in self.VOID and not closed:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes, True)

    def handle_endtag(self, tag):
        check(self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}")
        if self.open:
            self.open.pop()

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["metadata"]):
            self.text.append(data)


def contrast(a, b):
    """WCAG 2.1's contrast of two colours."""
    def luminance(colour):
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(w * (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055)**2.4)
                   for w, p in zip((0.2126, 0.7152, 0.0722), parts))
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def check_page(path):
    source = path.read_bytes().decode("utf-8")
    page = Page()
    page.feed(source)
    page.close()
    check(page.open == [], f"never closed: {page.open}")
    check(not {"script", "link", "iframe", "object", "embed", "base"} & set(page.elements), "what a page must not hold")
    check(len(set(page.ids)) == len(page.ids), f"an id is there twice: {page.ids}")
    for link in page.links:
        inside = link.startswith("data:image/") or link[0] == "#" and link[1:] in page.ids
        check(inside, f"a link leads out: {link[:80]}")
    check(not re.search(r"url\(|@import", source), "a link in the style")
    outside = set(re.findall(r"[a-z]+://[^\"'\s]+", source)) - {"http://www.w3.org/2000/svg"}
    check(outside == set(), f"addresses: {outside}")
    deeper = [b - a for a, b in zip(page.heads, page.heads[1:])]
    check(page.heads[0] == 1 and page.heads.count(1) == 1 and max(deeper) <= 1, f"the headings: {page.heads}")
    text = "".join(page.text)
    for name in ('Run <script>alert(1)</script> & "more"', "a subtitle with \ufffd bytes", "cat & dog", "<b>bird</b>",
                 '"fish"', "<img src=x onerror=alert(3)>.png", "<0.3>", "<x>", "optimizer.lr"):
        check(name in text, f"{name} is not shown as it is")
    check("Nothing" not in text, "an empty table is left out")
    check(len(page.images) == 4 and all(i["alt"] for i in page.images), "every picture has its words")
    check(page.images[0]["alt"] == '<img src=x onerror=alert(1)>.png: cat & dog, taken for "fish"', "the words")
    for image, channels in zip(page.images, (1, 3, 4)):
        kind, _, data = image["src"].partition(",")
        check(kind == "data:image/png;base64" and
              png(base64.b64decode(data, validate=True)) == (37, 23, channels, pixels(37, 23, channels)), "a picture")
    check(page.images[3]["src"].startswith("data:image/jpeg;base64,"), "the JPEG")
    plots = page.elements.count("svg")
    check(plots == 6, f"{plots} plots: loss, accuracy, lr, bars, confusion, reliability")
    check(source.count('role="img"') == plots, "each plot is a picture with a title")
    check("14 epochs in 4 min 40 s, 20 s an epoch" in text, "the times")
    check('lang="en"' in source and 'name="viewport"' in source and "prefers-color-scheme: dark" in source, "the head")
    light, dark = re.findall(r":root \{([^}]*)\}", source)
    colours = {}
    for scheme in (light, dark):
        colours.update(re.findall(r"--(\w+): (#[0-9a-f]{6})", scheme))
        for ink in ("ink", "soft", "link", "wrong"):
            for ground in ("page", "card"):
                check(contrast(colours[ink], colours[ground]) >= 4.5, f"--{ink} on --{ground}: {colours}")


if not PROGRAM.exists():
    print(f"{PROGRAM} was not built, so nothing is tested")
    sys.exit(0)
with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    made = subprocess.run([PROGRAM, "[report_files]"], env={**os.environ, "TRANSFERLIB_REPORT_FILES": name},
                          capture_output=True, text=True, timeout=120)
    if made.returncode != 0:
        sys.exit(f"no files were made: {made.stdout}{made.stderr}")
    check_events(folder / "events")
    for channels in (1, 3, 4):
        want = (37, 23, channels, pixels(37, 23, channels))
        check(png((folder / f"{channels}.png").read_bytes()) == want, f"{channels}.png")
    check_page(folder / "report.html")
for failure in failures:
    print("FAILED:", failure)
sys.exit(1 if failures else 0)
