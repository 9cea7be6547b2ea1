"""Make `src/vfm_transfer/fashion/images.xz` again, byte for byte, from Debian's package dataset-fashion-mnist.

    apt-get install dataset-fashion-mnist
    python tests/reference/build_fashion.py /usr/share/datasets/fashion-mnist src/vfm_transfer/fashion/images.xz
"""

import gzip
import lzma
import sys
from pathlib import Path

import numpy as np

SIZES = {"labelled": 100, "pool": 250, "gallery": 200, "val": 50, "test": 200}  # images of each of ten classes
DUPLICATE = 0.99  # correlation of pixels


def read(folder, name, offset):
    return np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8)[offset:]


def load(folder, part):
    images = read(folder, f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    return images, read(folder, f"{part}-labels-idx1-ubyte.gz", 8)


def directions(images):
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def draw(images, labels, sizes, near):
    """Take images of each class in their order, without one that is nearly the same as any taken before."""
    found = {name: [] for name in sizes}
    left = {name: dict.fromkeys(range(10), size) for name, size in sizes.items()}
    for number, (vector, label) in enumerate(zip(directions(images), labels.tolist(), strict=True)):
        name = next((name for name in sizes if left[name][label]), None)
        if name is None or (len(near) and max(float((block @ vector).max()) for block in near) > DUPLICATE):
            continue
        found[name].append(number)
        left[name][label] -= 1
        near.append(vector[None])
        if len(near) > 500:
            near[:] = [np.concatenate(near)]
    return {name: np.array(rows) for name, rows in found.items()}


def main(folder, out):
    near, images, labels = [], [], []
    test_images, test_labels = load(folder, "t10k")
    train_images, train_labels = load(folder, "train")
    parts = draw(test_images, test_labels, {"test": SIZES["test"]}, near)
    parts |= draw(train_images, train_labels, {n: s for n, s in SIZES.items() if n != "test"}, near)
    for name in SIZES:
        source = (test_images, test_labels) if name == "test" else (train_images, train_labels)
        images.append(source[0][parts[name]])
        labels.append(source[1][parts[name]])
    content = np.concatenate(labels).tobytes() + np.concatenate(images).tobytes()
    out.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    print({name: len(rows) for name, rows in parts.items()}, out.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
