"""Fetches CIFAR-10 in its binary layout from its home page into a folder: fetch_cifar10.py FOLDER"""
import hashlib
import pathlib
import shutil
import sys
import tarfile
import tempfile
import urllib.request

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
NAMES = ["batches.meta.txt", "readme.html", "test_batch.bin"] + [f"data_batch_{i}.bin" for i in range(1, 6)]
INSIDE = "cifar-10-batches-bin"


def main():
    folder = pathlib.Path(sys.argv[1])
    answer = urllib.request.urlopen(URL, timeout=5)
    print(f"Fetching CIFAR-10 (162 MB) into {folder}", file=sys.stdout, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        archive = pathlib.Path(scratch, "archive.tar.gz")
        digest = hashlib.sha256()
        with archive.open("wb") as out:
            while piece := answer.read(1 << 20):
                digest.update(piece)
                out.write(piece)
        if digest.hexdigest() != SHA256:
            sys.exit(f"{URL}: SHA-256 is {digest.hexdigest()}, expected {SHA256}; the file was thrown away")
        unpacked = pathlib.Path(scratch, INSIDE)
        unpacked.mkdir()
        with tarfile.open(archive) as tar:
            for name in NAMES:
                source = tar.extractfile(f"{INSIDE}/{name}")
                with source, (unpacked / name).open("wb") as out:
                    shutil.copyfileobj(source, out)
        unpacked.rename(folder / INSIDE)


main()
