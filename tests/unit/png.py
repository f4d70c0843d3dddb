"""A picture as a PNG file, without a library."""
import struct
import zlib


def png(path, colour, noise):
    """32 pixels square, a colour (R, G, B) and noise by a `random.Random`."""
    rows = b"".join(b"\0" + bytes(min(255, max(0, c + noise.randint(-40, 40))) for _ in range(32) for c in colour)
                    for _ in range(32))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
