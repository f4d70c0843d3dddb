"""Makes the small pictures of tests/data/pictures and, beside each, Pillow's pixels of it as .ppm or .pgm.

    python make_pictures.py OUT        (needs numpy and Pillow with libjpeg-turbo)

Expected are the pixels of `ImageOps.exif_transpose(image).convert("RGB")`; of grey pictures the one channel, of which
16 bits the high 8.
"""

import io
import pathlib
import struct
import sys
import zlib

import numpy as np
from PIL import Image, ImageOps


def pattern(h, w, c, seed=0):
    """Smooth colours with some edges: no noise, which JPEG would make large."""
    y, x = np.mgrid[0:h, 0:w]
    planes = [127 + 100 * np.sin((x * (k + 1) + y * (3 - k) + 7 * seed) / 5.0) for k in range(c)]
    a = np.stack(planes, -1)
    a[h // 3 : h // 2, w // 4 : w // 2] = np.array([250, 10, 128, 200])[:c]
    return a.clip(0, 255).astype(np.uint8)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, rows, extra=b"", interlace=0):
    """A PNG by hand, for the depths and the interlacing that Pillow does not write."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
        + extra
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def adam7(array, bits):
    """Rows of the seven passes, unfiltered; `array` is (h, w) or (h, w, c) of uint8."""
    out = b""
    for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]:
        part = array[y0::dy, x0::dx]
        if part.size == 0:
            continue
        for row in part:
            out += b"\0" + pack(row, bits)
    return out


def pack(row, bits):
    row = np.asarray(row)
    if bits == 16:
        return row.astype(">u2").tobytes()
    if bits == 8:
        return row.astype(np.uint8).tobytes()
    spread = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]
    return np.packbits(spread.reshape(-1)).tobytes()


def main(out):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    files, expected = {}, {}

    def by_pillow(name, image, **options):
        data = io.BytesIO()
        image.save(data, name.rsplit(".")[-1].replace("jpg", "jpeg"), **options)
        files[name] = data.getvalue()

    rgb, grey = Image.fromarray(pattern(13, 19, 3)), Image.fromarray(pattern(13, 19, 1)[..., 0])
    by_pillow("rgb_444.jpg", rgb, quality=90, subsampling=0)
    by_pillow("rgb_422.jpg", rgb, quality=80, subsampling=1)
    by_pillow("rgb_420.jpg", Image.fromarray(pattern(17, 33, 3, 2)), quality=75, subsampling=2)
    by_pillow("rgb_progressive.jpg", rgb, quality=85, progressive=True)
    by_pillow("rgb_restart.jpg", Image.fromarray(pattern(24, 33, 3, 1)), quality=75, restart_marker_blocks=1)
    by_pillow("rgb_kept.jpg", rgb, quality=90, keep_rgb=True)
    by_pillow("grey.jpg", grey, quality=85)
    by_pillow("grey_progressive.jpg", grey, quality=85, progressive=True)
    by_pillow("cmyk.jpg", Image.fromarray(pattern(13, 19, 4), "CMYK"), quality=90)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        by_pillow(f"exif_{orientation}.jpg", Image.fromarray(pattern(7, 12, 3)), quality=90, exif=exif)
    # The same in big-endian TIFF, and one with an entry of another kind first.
    tiff = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + struct.pack(">HHI4s", 0x010F, 2, 4, b"abc\0")
    tiff += struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + b"\0\0\0\0"
    plain = io.BytesIO()
    Image.fromarray(pattern(7, 12, 3)).save(plain, "jpeg", quality=90)
    files["exif_big_endian.jpg"] = plain.getvalue()[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 2) + tiff + plain.getvalue()[2:]

    by_pillow("rgb.png", rgb)
    by_pillow("grey.png", grey)
    by_pillow("rgba.png", Image.fromarray(pattern(13, 19, 4), "RGBA"))
    by_pillow("grey_alpha.png", Image.fromarray(pattern(13, 19, 2), "LA"))
    by_pillow("palette.png", rgb.quantize(40))
    by_pillow("palette_2bit.png", rgb.quantize(4), bits=2)
    by_pillow("palette_transparent.png", rgb.quantize(16), transparency=3)
    by_pillow("rgb_transparent.png", rgb, transparency=(250, 10, 128))
    by_pillow("one_bit.png", grey.convert("1"))
    small = pattern(9, 11, 1)[..., 0]
    for bits in (2, 4):
        rows = b"".join(b"\0" + pack(row >> (8 - bits), bits) for row in small)
        files[f"grey_{bits}bit.png"] = png(11, 9, bits, 0, rows)
    wide = pattern(9, 11, 3).astype(np.uint16) * 257 + 3
    files["rgb_16bit.png"] = png(11, 9, 16, 2, b"".join(b"\0" + pack(row.reshape(-1), 16) for row in wide))
    files["grey_16bit.png"] = png(11, 9, 16, 0, b"".join(b"\0" + pack(row[:, 0], 16) for row in wide))
    expected["grey_16bit.png"] = (wide[..., 0] >> 8).astype(np.uint8)
    files["rgb_interlaced.png"] = png(11, 9, 8, 2, adam7(pattern(9, 11, 3), 8), interlace=1)
    files["grey_interlaced_4bit.png"] = png(11, 9, 4, 0, adam7(small >> 4, 4), interlace=1)
    files["one_pixel.png"] = png(1, 1, 8, 2, b"\0\x01\x02\x03")

    for name, data in files.items():
        (out / name).write_bytes(data)
        if name in expected:
            pixels = expected[name]
        else:
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
            pixels = np.array(image.convert("L" if image.mode in ("L", "LA", "1") else "RGB"))
        kind, ending = ("P5", ".pgm") if pixels.ndim == 2 else ("P6", ".ppm")
        header = f"{kind}\n{pixels.shape[1]} {pixels.shape[0]}\n255\n".encode()
        (out / (name + ending)).write_bytes(header + pixels.tobytes())


if __name__ == "__main__":
    main(sys.argv[1])
