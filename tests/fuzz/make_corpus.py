#!/usr/bin/env python3
"""Makes the seeds in tests/fuzz/corpus from the checkpoints in tests/data and from pieces written here; needs nothing
but Python. The same seeds come every time; inputs that once failed are named crash-…, and are left alone.

  make_corpus.py [FOLDER]
"""
import gzip
import io
import os
import pickle
import struct
import sys
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "data", "checkpoints")
OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "corpus")


def put(target, name, data):
    folder = os.path.join(OUT, target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)


def data(name):
    with open(os.path.join(DATA, name), "rb") as f:
        return f.read()


def safetensors(header, body=b""):
    header = header.encode("utf-8")
    return struct.pack("<Q", len(header)) + header + body


def entry(dtype="F32", shape="[2]", offsets="[0,8]"):
    return f'"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}'


def safetensors_seeds():
    eight = b"12345678"
    seeds = {
        "types": data("types.safetensors"), "small": data("small.safetensors"),
        "metadata": safetensors('{"__metadata__":{"format":"pt"},"a":{' + entry() + "}}", eight),
        "empty": safetensors("{}"), "short": b"1234567", "long": struct.pack("<Q", 1 << 40) + b"{}",
        "no_brace": safetensors(" {}"), "not_json": safetensors('{"a":}'), "twice": safetensors('{"a":1,"a":2}'),
        "metadata_array": safetensors('{"__metadata__":[]}'), "metadata_number": safetensors('{"__metadata__":{"a":1}}'),
        "entry": safetensors('{"a":[]}'), "dtype": safetensors('{"a":{' + entry("F4") + "}}", eight),
        "shape": safetensors('{"a":{' + entry(shape="2") + "}}", eight),
        "side": safetensors('{"a":{' + entry(shape="[-2]") + "}}", eight),
        "overflow": safetensors('{"a":{' + entry(shape="[0,4611686018427387904,4]", offsets="[0,0]") + "}}"),
        "offsets": safetensors('{"a":{' + entry(offsets="[0]") + "}}", eight),
        "outside": safetensors('{"a":{' + entry(offsets="[0,9]") + "}}", eight),
        "size": safetensors('{"a":{' + entry(shape="[3]") + "}}", eight),
        "dimensions": safetensors('{"a":{' + entry(shape="[" + "1," * 64 + "2]") + "}}", eight),
        "overlap": safetensors('{"a":{' + entry() + '},"b":{' + entry(offsets="[4,12]") + "}}", eight + b"1234"),
        "trailing": safetensors('{"a":{' + entry() + "}}", eight + b"x"),
    }
    for name, seed in seeds.items():
        put("safetensors", name, seed)


def string(s):
    s = s.encode("utf-8")
    return b"\x8c" + bytes([len(s)]) + s


def named(module, name):
    return f"c{module}\n{name}\n".encode("ascii")


def storage(key="0", count=2, kind="FloatStorage", view=b""):
    return (b"(" + string("storage") + named("torch", kind) + string(key) + string("cpu") + b"K" + bytes([count]) + view
            + b"tQ")


def tensor(on=None, offset=0, shape=b"K\2\x85", strides=b"K\1\x85", rest=b"\x89}", version="_v2"):
    return (named("torch._utils", "_rebuild_tensor" + version) + b"(" + (storage() if on is None else on)
            + b"K" + bytes([offset]) + shape + strides + rest + b"tR")


def dictionary(items):
    return b"\x80\2}(" + items + b"u."


def pickle_seeds():
    value = {"a": [1, 2.5, -3, 70000, 2 ** 40, 2 ** 70, True, False, None], "b": ("x", b"y", (1, 2), (1, 2, 3, 4)),
             "c": {1, 2}, "d": {}, "e": [], "f": "é" * 300, "g": b"z" * 300, "h": frozenset([1]), "i": bytearray(b"q")}
    plain = {k: v for k, v in value.items() if k not in "chi"}
    for protocol in range(1, 6):
        put("pickle", f"protocol{protocol}", pickle.dumps(value if protocol >= 4 else plain, protocol))
    for name in ("small.pth", "shapes.pth", "types.pth", "wrapped.pth", "evil.pth", "whole.pth"):
        with zipfile.ZipFile(os.path.join(DATA, name)) as z:
            put("pickle", name, z.read("archive/data.pkl"))
    ordered = named("collections", "OrderedDict")
    seeds = {
        "ordered": ordered + b")RK\1K\2s}" + string("_metadata") + b"}sb.",
        "pairs": ordered + b"]((K\1K\2t(K\3K\4te\x85R.", "no_pairs": ordered + b"]Na\x85R.",
        "counter": named("collections", "Counter") + b"}K\1K\2s\x85R.",
        "size": named("torch", "Size") + b"K\2K\3\x86\x85R.", "device": named("torch", "device") + string("cpu") + b"\x85R.",
        "newobj": ordered + b")\x81.", "builtin": named("__builtin__", "set") + b"]\x85R.",
        "cuda": named("torch.cuda", "FloatStorage") + b".", "stack_global": string("torch") + string("float32") + b"\x93.",
        "memo": b"K\7r\5\0\0\0\x30j\5\0\0\0\x85.", "put_get": b"K\7q\0\x30h\0\x85.", "memoize": b"K\7\x94\x30h\0\x85.",
        "dup": b"K\1\x32\x86.", "pop_mark": b"(K\1K\2\x31K\3\x85.", "pop_of_mark": b"](K\1(\x30K\2e.",
        "python2": b"(U\2hiT\2\0\0\0hiX\2\0\0\0hi\x8d\2\0\0\0\0\0\0\0hit.", "bytes8": b"\x8e\1\0\0\0\0\0\0\0x.",
        "long4": b"\x8b\1\0\0\0\x7f.", "long": b"L99999999999999999999L\n.", "ints": b"(I01\nI00\nI42\nL-42L\nl.",
        "dict": b"(K\1K\2d.", "persistent": storage() + b".", "loop": b"]q\0h\0a.", "additems": b"\x8f(K\1K\2\x90.",
        "frame": b"\x80\5\x95\2\0\0\0\0\0\0\0N.", "bad_frame": b"\x95\xff\0\0\0\0\0\0\0.", "bad_protocol": b"\x80\6.",
        "bad_stack": b"NN.", "bad_pop": b".", "bad_mark": b"Nt.", "bad_tuple": b"N\x86.", "bad_setitem": b"}N(NNs.",
        "bad_dict": b"(Nd.", "bad_setitems": b"}(Nu.", "bad_append": b")Na.", "bad_append2": b"(Ne.", "bad_set": b")NNs.",
        "bad_get": b"h\7.", "bad_put": b"Nr\xff\xff\xff\xff.", "bad_number": b"I4x\n.", "bad_length": b"T\xff\xff\xff\xff.",
        "bad_global": b"NN\x93.", "bad_call": b"NNR.", "bad_opcode": b"V", "bad_line": b"I42", "bad_take": b"X\xff\xff\xff\xff.",
        "float": b"G?\xe0\0\0\0\0\0\0.",
    }
    for name, seed in seeds.items():
        put("pickle", name, seed)


def local_header(name, body):
    return b"PK\3\4" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, 0, len(body), len(body), len(name), 0) + name + body


def archive(entries):
    """A zip whose checksums are 0, so that the fuzzer can change the bytes behind them."""
    out, directory = b"", b""
    for name, body in entries:
        name = name.encode("ascii")
        directory += b"PK\1\2" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, 0, len(body), len(body), len(name), 0,
                                             0, 0, 0, 0, len(out)) + name
        out += local_header(name, body)
    end = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(directory), len(out), 0)
    return out + directory + b"PK\5\6" + end


def checkpoint(content, order=b"little"):
    return archive([("a/data.pkl", content), ("a/byteorder", order), ("a/data/0", b"\0\0\x80?\0\0\0@")])


def zip64():
    body, name = b"N.", b"data.pkl"
    local = local_header(name, body)
    extra = struct.pack("<HHQQQ", 1, 24, len(body), len(body), 0)
    ones = 0xFFFFFFFF
    directory = b"PK\1\2" + struct.pack("<HHHHHHIIIHHHHHII", 45, 45, 0, 0, 0, 0, 0, ones, ones, len(name), len(extra), 0, 0,
                                         0, 0, ones) + name + extra
    record = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, len(directory), len(local))
    locator = b"PK\6\7" + struct.pack("<IQI", 0, len(local) + len(directory), 1)
    return local + directory + record + locator + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, ones, ones, 0)


LEGACY = b"\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\2M\xe9\3."
SYSTEM = b"\x80\2}" + string("little_endian") + b"\x88s."
KEYS = b"\x80\2](" + string("0") + b"e."
BODY = struct.pack("<q", 2) + b"\0\0\x80?\0\0\0@"


def legacy(content, keys=KEYS, body=BODY):
    return LEGACY + SYSTEM + content + keys + body


def pth_seeds():
    def add(name, seed, chosen=0):
        put("pth", name, bytes([chosen]) + seed)

    for name in sorted(os.listdir(DATA)):
        if not name.startswith("keras_") and name not in ("types.pth", "nested.pth", "lightning.pth"):
            add(name, data(name), 1 if name == "wrapped.pth" else 0)
    w = string("w") + tensor()
    add("zip64", zip64())
    deflated = io.BytesIO()
    with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr(zipfile.ZipInfo("a/data.pkl"), b"N.")
    add("deflated_seed", deflated.getvalue())
    good = checkpoint(dictionary(w))
    at = good.index(b"PK\1\2")

    def patched(offset, new):
        return good[:at + offset] + new + good[at + offset + len(new):]

    add("encrypted", patched(8, b"\1"))
    add("stored_sizes", patched(20, b"\1"))
    add("local", patched(42, b"\1"))
    add("name", patched(46, b"x"))
    add("entry", patched(0, b"x"))
    add("reach", patched(20, b"\xff\0\0\0\xff\0\0\0"))
    add("directory", good[:-6] + b"\1" + good[-5:])
    add("comment", good[:-2] + b"\2\0hi")
    add("double", archive([("a", b""), ("a", b"")]))
    add("two_pickles", archive([("a/data.pkl", b"N."), ("b/data.pkl", b"N.")]))
    add("no_folder", archive([("data.pkl", dictionary(w)), ("data/0", b"12345678")]))
    add("no_storage", archive([("data.pkl", dictionary(w))]))
    add("big", checkpoint(dictionary(w), b"big"))
    extra = struct.pack("<HH", 7, 9)
    bad_extra = good[:at + 30] + struct.pack("<H", 4) + good[at + 32:at + 56] + extra + good[at + 56:]
    end = bad_extra.index(b"PK\5\6")
    add("extra", bad_extra[:end + 12] + struct.pack("<I", end - at) + bad_extra[end + 16:])

    from_type = named("torch._tensor", "_rebuild_from_type_v2") + b"("
    parameter = named("torch._utils", "_rebuild_parameter") + b"("
    v3 = {"rest": b"\x89}" + named("torch", "float32"), "version": "_v3"}
    values = {
        "tensor": tensor(), "v1": tensor(rest=b"", version=""), "v3": tensor(**v3),
        "v3_untyped": tensor(b"(" + string("storage") + named("torch.storage", "UntypedStorage") + string("0")
                             + string("cpu") + b"K\10tQ", **v3),
        "v3_no_dtype": tensor(rest=b"\x89}N", version="_v3"), "v3_lazy": tensor(rest=v3["rest"] + b"}" + string("neg")
                                                                               + b"\x88s", version="_v3"),
        "parameter": parameter + tensor() + b"\x88}tR", "no_parameter": parameter + b"NtR",
        "from_type": from_type + named("torch._utils", "_rebuild_tensor_v2") + named("torch", "Tensor") + b"("
                     + storage() + b"K\0K\2\x85K\1\x85\x89}t}tR",
        "no_from_type": from_type + b"tR", "no_storage": tensor(b"N"), "no_id": tensor(b"NQ"),
        "no_type": tensor(storage(kind="Size")), "no_count": tensor(storage().replace(b"K\2tQ", b"NtQ")),
        "count": tensor(storage().replace(b"K\2tQ", b"J\xff\xff\xff\xfftQ")), "no_shape": tensor(shape=b"N"),
        "no_integer": tensor(shape=b"N\x85"), "sides": tensor(shape=b")"), "reach": tensor(offset=1),
        "negative": tensor(shape=b"J\xff\xff\xff\xff\x85"), "scalar": tensor(shape=b")", strides=b")"),
        "zero": tensor(shape=b"K\0\x85"), "expanded": tensor(shape=b"K\5K\2\x86", strides=b"K\0K\1\x86"),
        "transposed": tensor(shape=b"K\1K\2\x86", strides=b"K\1K\1\x86"),
        "vast": tensor(shape=b"J\0\0\0\x70J\0\0\0\x70\x86", strides=b"K\0K\0\x86"),
        "overflow": tensor(shape=b"J\0\0\0\x70J\0\0\0\x70J\0\0\0\x70\x87", strides=b"K\0K\0K\0\x87"),
        "far": tensor(strides=b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85", shape=b"K\3\x85"),
        "dimensions": tensor(shape=b"(" + b"K\1" * 65 + b"t", strides=b"(" + b"K\1" * 65 + b"t"),
        "offset": tensor().replace(b"K\0K\2\x85", b"J\xff\xff\xff\xffK\2\x85"),
    }
    for name, value in values.items():
        add("zip_" + name, checkpoint(dictionary(string("w") + value)))
        add("legacy_" + name, legacy(dictionary(string("w") + value)))
    trees = {
        "nested": dictionary(string("epoch") + b"K\1" + string("model") + b"}(" + string("state_dict") + b"}(" + w + b"uu"),
        "flat": dictionary(string("x") + b"}(" + string("y") + b"}(" + w + b"uuK\1N"),
        "prefix": dictionary(string("module.backbone.w") + tensor()), "root": b"\x80\2" + tensor() + b".", "list": b"].",
        "none": dictionary(b""), "double": dictionary(w + w), "keys": dictionary(w + b"K\1NNN)N"),
        "disagree": dictionary(w + string("v") + tensor(storage(count=1))),
        "many": dictionary(w + b"q\0" + b"".join(string(str(i)) + b"h\0" for i in range(20))),
    }
    for name, tree in trees.items():
        add("zip_" + name, checkpoint(tree))
        add("legacy_" + name, legacy(tree))
    add("storage_size", checkpoint(dictionary(string("w") + tensor(storage(count=1)))))
    doubled = b"\x80\2}(" + w + b"uq\0"
    for i in range(20):
        doubled += b"\x30}(" + string("a") + b"h" + bytes([i]) + string("b") + b"h" + bytes([i]) + b"uq" + bytes([i + 1])
    add("doubled", checkpoint(doubled + b"."))
    same = b"".join(string(str(i)) + b"h\0" for i in range(40))
    add("sides", checkpoint(dictionary(string("v") + tensor(shape=b"(" + b"K\1" * 64 + b"t", strides=b"(" + b"K\1" * 64
                                                                  + b"t") + b"q\0" + same)))
    ab = dictionary(string("a") + b"}(" + string("b") + b"}(" + w + b"uu" + string("c") + b"N")
    add("entry_found", checkpoint(ab), 2)
    add("entry_missing", checkpoint(dictionary(w)), 2)
    add("entry_no_dictionary", checkpoint(dictionary(string("a.b") + b"N")), 2)
    add("entry_no_tensors", checkpoint(dictionary(string("a.b") + b"}")), 2)
    add("entry_safetensors", data("small.safetensors"), 1)

    one = dictionary(w)
    add("legacy_protocol", LEGACY[:15] + b"K\7." + SYSTEM)
    add("legacy_big", LEGACY + SYSTEM.replace(b"\x88s", b"\x89s") + one + KEYS + BODY)
    add("legacy_no_list", legacy(one, b"N.", b""))
    add("legacy_unknown", legacy(one, b"](" + string("1") + b"e."))
    add("legacy_twice", legacy(one, b"](" + string("0") + string("0") + b"e.", BODY + BODY))
    add("legacy_fewer", legacy(one, b"].", b""))
    add("legacy_count", legacy(one, body=struct.pack("<q", 3) + b"123456789012"))
    add("legacy_cut", legacy(one, body=BODY[:-1]))
    add("legacy_trailing", legacy(one, body=BODY + b"x"))
    add("legacy_view", legacy(dictionary(string("w") + tensor(storage(view=b"(" + string("v") + b"K\1K\1t"), 0, b"K\1\x85"))))
    add("legacy_bad_view", legacy(dictionary(string("w") + tensor(storage(view=b"(" + string("v") + b"K\1K\2t")))))

    foreign = {
        "empty": b"", "lfs": b"version https://git-lfs.github.com/spec/v1\n", "html": b"\xef\xbb\xbf\n<!DOCTYPE HTML>",
        "xml": b"<?xml version='1.0'?>", "hdf5": b"\x89HDF\r\n\x1a\n", "gzip": b"\x1f\x8b\x08", "gguf": b"GGUF\3",
        "tar": b"x" * 257 + b"ustar" + b"\0" * 8, "numpy": b"\x93NUMPY", "tflite": b"\x1c\0\0\0TFL3",
        "darknet": b"\0\0\0\0\2\0\0\0\0\0\0\0\0\x7d\0\0", "pickle": b"\x80\2N.", "json": b'{"weight_map":{}}',
        "onnx": b"\x08\x07\x12\x04onnx", "zeros": b"\0" * 20, "text": b"hello", "short": b"PK\3\4", "no_zip": b"PK\5\6",
    }
    for name, seed in foreign.items():
        add("foreign_" + name, seed)


def json_seeds():
    seeds = {
        "all": '{"a":[1,-2,2.5e3,true,false,null,"\\u00e9\\n\\ud83d\\ude00é"],"b":{},"c":[],"d":18446744073709551615}',
        "nested": "[" * 16 + "]" * 16, "deep": "[" * 17, "twice": '{"a":1,"a":2}', "lines": '{\n"a":\n1,\n}', "empty": "",
        "number": "3", "overflow": "[1e999]", "zero": "1\0", "utf8": '"\x80"', "comment": "// a\n1", "cut": '{"a":"b',
        "escapes": '["\\"\\\\\\/\\b\\f\\r\\t\\u0001\\u20ac\\u1234", "€", "\u0800", "\U0001f600"]', "cut_unicode": '"\\u12',
        "zeros": "[-0, 0.5, -1.5e-3, 1e5, 12345678901234567890123, -9223372036854775808, -9223372036854775809]",
        "small": "[1e-400, 5e-324]", "control": '"\x01"', "high": '"\\udc00"', "low": '"\\ud800x"', "word": "[tru]", "no_colon": '{"a" 1}',
        "no_comma": "[1 2]", "behind": "1 2", "leading": "01", "point": "1.", "exponent": "1e", "sign": "-", "escape": '"\\x"',
        "coco": '{"images":[{"id":1,"file_name":"a.jpg","width":4,"height":3}],"annotations":[{"bbox":[0,0,1.5,2]}]}',
    }
    for name, seed in seeds.items():
        put("json", name, seed.encode("latin-1" if name == "utf8" else "utf-8"))


def packed(body):
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", filename="", mtime=0) as f:
        f.write(body)
    return out.getvalue()


def coco_seeds():
    truth = ('{"images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}, {"id": 2}],\n'
             '"categories": [{"id": 7, "name": "cup"}, {"id": 9, "name": "mug"}], "annotations": [\n'
             '{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2.5, 30, 40], "area": 1000, "iscrowd": 0},\n'
             '{"id": 2, "image_id": 2, "category_id": 7, "bbox": [1, 2, 300, 40], "iscrowd": 1}]}')
    found = ('[{"image_id": 1, "category_id": 7, "bbox": [1, 2, 30, 40], "score": 0.5},\n'
             '{"image_id": 2, "category_id": 9, "bbox": [5, 6, 7, 8], "score": -1e3}]')
    for name, seed in {
        "truth": truth, "both": truth + "\0" + found, "nothing": truth + "\0[]", "unknown": truth + "\0" + found.replace("9", "3"),
        "twice": truth.replace('"id": 2,', '"id": 1,'), "negative": truth.replace("30", "-30"),
        "lists": '{"images": [], "categories": [], "annotations": []}', "array": "[]",
        "form": truth.replace('{"id": 2}', "2"), "text": truth.replace('"a.jpg"', "3"), "no_box": truth.replace('"bbox"', '"box"'),
        "crowd": truth.replace('"iscrowd": 1', '"iscrowd": 2'), "box": truth.replace("[1, 2, 300, 40]", "[1, 2, 3]"),
        "side": truth.replace("2.5", '"2"'), "far": truth.replace("2.5", "2e12"), "id": truth.replace('"id": 7', '"id": 7.5'),
        "id_text": truth.replace('"id": 7', '"id": "7"'), "no_images": truth.replace('"images"', '"image"'),
        "no_list": truth.replace("[]", "{}").replace('"images": [', '"images": {}, "i": ['), "size": truth.replace("64", "-64"),
        "object": truth + "\0{}", "image": truth.replace('"image_id": 2', '"image_id": 3'), "escape": truth.replace("cup", 'c\\"up'),
        "category": truth.replace('"category_id": 7', '"category_id": 8'), "score": truth + "\0" + found.replace("0.5", "null"),
    }.items():
        put("coco", name, seed.encode("utf-8"))


def idx_seeds():
    def idx(kind, shape, body):
        return bytes([0, 0, kind, len(shape)]) + b"".join(struct.pack(">I", n) for n in shape) + body

    seeds = {
        "u8": idx(8, (2, 3), b"abcdef"), "i8": idx(9, (1,), b"\xff"), "i16": idx(11, (1,), b"\1\2"),
        "i32": idx(12, (1,), b"\1\2\3\4"), "f32": idx(13, (1,), b"\1\2\3\4"), "f64": idx(14, (1,), b"12345678"),
        "none": idx(8, (0, 5), b""), "text": b"hello", "header": b"\0\0\x08\2\0\0\0\1\0", "short": idx(8, (4,), b"abc"),
        "nothing": idx(8, (4,), b""), "long": idx(8, (2,), b"abc"), "vast": idx(8, (2 ** 32 - 1,) * 3, b""),
        "huge": idx(8, (2 ** 32 - 1,), b"abc"),
    }
    for name, seed in seeds.items():
        put("idx", name, seed)
        put("idx", name + ".gz", packed(seed))
    good = packed(seeds["u8"])
    put("idx", "members.gz", packed(seeds["u8"][:6]) + packed(seeds["u8"][6:]))
    put("idx", "cut.gz", good[:-9])
    put("idx", "trailing.gz", good + b"xy")
    put("idx", "checksum.gz", good[:-8] + b"\0" + good[-7:])
    put("idx", "damaged.gz", good[:12] + b"\xff\xff" + good[14:])
    put("idx", "large.gz", packed(idx(8, (300, 300), b"\7" * 90000)))


def cifar_seeds():
    for name, seed in {"ten": b"\0\0\3\x09", "hundred": b"\1\0\x13\x63\0\0", "label": b"\0\0\3\x0a", "coarse": b"\1\0\x14\1",
                       "fine": b"\1\0\1\x64", "size": b"\0\x80\3\4", "size100": b"\1\x80\1\2", "nothing": b"\0\0"}.items():
        put("cifar", name, seed)


def darknet_seeds():
    with open(os.path.join(HERE, "..", "data", "darknet", "layers.cfg"), "rb") as f:
        put("darknet_cfg", "layers", f.read())
    net, conv = "[net]\nwidth=32\nheight=32\n", "[convolutional]\nfilters=8\nsize=3\npad=1\nactivation=leaky\n"
    seeds = {
        "nothing": "", "no_net": conv, "before": "a=1\n" + net, "bracket": "[net", "line": "[net]\nwidth", "one": net,
        "height": "[net]\nwidth=3\n" + conv, "fraction": net + "channels=2.5\n" + conv, "range": net + "channels=0\n" + conv,
        "type": net + "[attention]\n", "filters": net + "[conv]\n", "word": net + "[conv]\nfilters=a\n",
        "activation": net + conv + "[conv]\nfilters=1\nactivation=x\n", "groups": net + "[conv]\nfilters=8\ngroups=2\n",
        "xnor": net + conv + "xnor=1\n", "dilation": net + "[conv]\nfilters=1\nsize=3\ndilation=2\n",
        "strides": net + conv + "stride_x=2\n", "large": net + "[conv]\nfilters=1\nsize=33\n", "route": net + conv + "[route]\n",
        "after": net + conv + "[route]\nlayers=1\n", "far": net + conv + "[route]\nlayers=-9223372036854775808\n",
        "list": net + conv + "[route]\nlayers=-1,\n", "thirds": net + conv + "[route]\nlayers=-1\ngroups=3\n",
        "group": net + conv + "[route]\nlayers=-1\ngroups=2\ngroup_id=2\n",
        "sides": net + conv + "[max]\nstride=2\n[route]\nlayers=-1,0\n",
        "double": net + conv + "[route]\nlayers=-1,-1\n" * 30, "sum": net + conv + "[upsample]\n[shortcut]\nfrom=0\n",
        "up": net + conv + "[upsample]\nstride=1024\n" * 3, "reorg": net + conv + "[reorg]\nstride=3\n",
        "soft": net + conv + "[soft]\ngroups=3\n", "yolo": net + conv + "[yolo]\nclasses=4\n",
        "mask": net + conv + "[yolo]\nnum=3\nmask=3\n", "anchors": net + conv + "[yolo]\nanchors=1,2,3\n",
        "infinite": net + conv + "[region]\nanchors=1e999,inf\n", "tree": net + conv + "[region]\ntree=a\n",
        "places": net + conv + "[detection]\n", "vast": net + conv + "[connected]\noutput=1048576\n",
        "drop": net + conv + "[dropout]\nprobability=.2\ndropblock=1\n[crop]\ncrop_width=1\ncrop_height=1\n[avg]\n",
        "local": net + conv + "[local]\nfilters=2\nsize=5\npad=1\n",
    }
    for name, seed in seeds.items():
        put("darknet_cfg", name, seed.encode())
    small = "[net]\nwidth=1\nheight=1\nchannels=1\n[conv]\nfilters=1\n[conn]\nbatch_normalize=1\noutput=1\n\0".encode()
    for name, floats in {"weights": 7, "weights_first": 2, "weights_none": 0, "weights_more": 8, "weights_inside": 3}.items():
        put("darknet_cfg", name, small + struct.pack("<iii", 0, 1002, 5) + bytes(8 + 4 * floats))
    put("darknet_cfg", "weights_old", small + struct.pack("<iii", 0, 1, 0) + bytes(4 + 4 * 7))
    put("darknet_cfg", "weights_cut", small + struct.pack("<iii", 0, 2, 0) + bytes(6))
    put("darknet_cfg", "weights_foreign", small + bytes(64))
    # The network of fuzz_darknet_weights.cpp: 8 + 2, 4 + 32, 2 + 8 + 6, 1 + 2 floats.
    floats = b"".join(struct.pack("<f", i) for i in range(65))
    new, old, turned = (struct.pack("<iii", 0, m, 5) for m in (2, 1, 1002))
    for name, seed in {"all": new + bytes(8) + floats, "old": old + bytes(4) + floats, "turned": turned + bytes(8) + floats,
                       "first": new + bytes(8) + floats[:40], "second": new + bytes(8) + floats[:184], "none": new + bytes(8),
                       "more": new + bytes(8) + floats + floats, "part": new + bytes(8) + floats[:-1], "zeros": bytes(64),
                       "inside": new + bytes(8) + floats[:44], "header": new + bytes(6), "short": new}.items():
        put("darknet_weights", name, seed)


def voc_seeds():
    size = "<size><width>640</width><height>480</height><depth>3</depth></size>"
    box = "<bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>+30</xmax><ymax>4e1</ymax></bndbox>"
    thing = f"<object><name>RBC</name><pose/><truncated>0</truncated><difficult>True</difficult>{box}</object>"
    seeds = {
        "whole": f'<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE annotation>\n<annotation verified="yes">\n'
                 f"<filename>a.jpg</filename>{size}\n{thing}\n{thing}</annotation>\n",
        "xml": "\ufeff<?p q?><!-- c --><a b='1 &lt; 2' c = \"'\"><![CDATA[<&]]]]>&amp;&#65;&#x20AC;&gt;&quot;&apos;\r\n<b/><?r?>"
               "<!-- d --></a ><!-- e --><?f?>",
        "deep": "<a>" * 70, "part": f"<annotation><object><part><name>x</name></part><name>y</name>{box}</object></annotation>",
        "none": "", "text": "a", "utf16": "\ufeff<a/>".encode("utf-16"), "latin": "<a>\u00e9</a>".encode("latin-1"),
        "encoding": '<?xml version="1.0" encoding="GBK"?><a/>', "encoding_none": "<?xml encoding?><a/>", "control": "<a>\x01</a>",
        "rules": '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "type_open": "<!DOCTYPE a", "late": " <?xml version='1.0'?><a/>",
        "comment": "<a><!-- b -- c --></a>", "comment_open": "<a><!-- b", "cdata_open": "<a><![CDATA[ b", "instruction": "<a><?b",
        "entity": "<a>&nbsp;</a>", "ampersand": "<a>& b</a>", "character": "<a>&#xD800;</a>", "end": "<a>]]></a>",
        "no_name": "<a>< b/></a>", "no_equals": "<a b></a>", "no_quotes": "<a b=1/>", "twice": "<a b='1' b='2'/>", "blank": "<a b='1'c='2'/>",
        "less": "<a b='<'/>", "value_open": "<a b='", "tag_open": "<a ", "wrong": "<a></b>", "open": "<a>", "close_open": "<a></a b>",
        "more": "<a/><b/>", "html": "<html></html>", "second": "<annotation><size/><size/></annotation>",
        "children": "<annotation><filename><a/></filename></annotation>", "number": "<annotation><size><width>x</width></size></annotation>",
        "side": "<annotation><size><width>1.5</width></size></annotation>", "no_box": "<annotation><object><name>a</name></object></annotation>",
        "empty_name": f"<annotation><object><name> </name>{box}</object></annotation>",
        "truth": f"<annotation><object><name>a</name><difficult>2</difficult>{box}</object></annotation>",
    }
    for name, seed in seeds.items():
        put("voc", name, seed if isinstance(seed, bytes) else seed.encode())


def yolo_text_seeds():
    seeds = {
        "boxes": "0 0.5 0.5 0.25 0.25\r\n1.0 1.0005 .1\t0 1\n\n2 40 .5 .5 -1\n", "few": "0 .5 .5", "many": "0 .5 .5 .5 .5 .5",
        "outline": "0 .1 .1 .2 .2 .3 .3", "word": "cat .5 .5 .5 .5", "not_number": "0 x .5 .5 .5", "inf": "0 inf .5 .5 .5",
        "yaml": "# c\npath: ../a # d\ntrain: [images/train, 'b # c']\nval: images/val\ntest:\nnc: 2\nnames:\n  0: a\n  1: it's\ndownload: |\n  x: 'y\n",
        "yaml_list": "---\ntrain:\n- a\n- b\nnames: ['a', \"b\\\"\",\n  'it''s',\n]\n", "yaml_map": "names: {0: a, 1: b}\n",
        "yaml_open": "names: [a", "yaml_comma": "names: [a,,b]", "yaml_no_comma": "names: ['a' 'b']", "yaml_behind": "names: [a] b",
        "yaml_order": "names:\n  1: a", "yaml_nc": "nc: x", "yaml_count": "nc: 2\nnames: [a]", "yaml_empty": "names:", "yaml_twice": "a: 1\na: 2",
        "yaml_indent": " a: 1", "yaml_tab": "names:\n\t- a", "yaml_escape": 'path: "a\\x"', "yaml_anchor": "path: &a b", "yaml_mixed": "names:\n- a\n  0: b",
        "yaml_both": "train: a\n  - b", "yaml_key": "a", "yaml_quoted_key": "'na''mes': 1\n\"nc\": 1",
        "data": "classes= 80\ntrain  = data/train.txt\n# c\nvalid = data/val.txt\nnames = obj.names\nbackup = x\n", "data_classes": "classes = x",
        "data_line": "classes 3",
    }
    for name, seed in seeds.items():
        put("yolo_text", name, seed.encode())


safetensors_seeds()
pickle_seeds()
pth_seeds()
json_seeds()
coco_seeds()
idx_seeds()
cifar_seeds()
darknet_seeds()
voc_seeds()
yolo_text_seeds()
