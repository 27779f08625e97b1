"""Writes small samples of the papers' data sets in their real formats."""

import gzip
import pathlib
import pickle
import struct

import h5py
import numpy as np
from PIL import Image


def idx(array, compress: bool = True) -> bytes:
    """MNIST's format."""
    raw = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    return gzip.compress(raw, 1) if compress else raw


def fashion(folder, part, images, labels):
    """Of "train" or "t10k": uint8 (N, 28, 28) and (N,)."""
    (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
    (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels))


def cifar10(folder, name, pixels, labels):
    """A batch: uint8 (N, 3072) and a list, pickled as Python 2 did."""
    content = {b"data": pixels, b"labels": labels, b"batch_label": b"a batch"}
    (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def house_numbers(folder, part, images, labels, boxes=None):
    """uint8 (H, W, 3), the digits, and left, top, width and height of each; boxes=None: all of the picture."""
    boxes = boxes or [[(0, 0, *image.shape[1::-1])] * len(row) for image, row in zip(images, labels, strict=True)]
    (folder / part).mkdir()
    # MATLAB puts a header of 512 bytes before HDF5's own.
    with h5py.File(folder / part / "digitStruct.mat", "w", userblock_size=512) as file:

        def column(values):
            return np.array(values).reshape(-1, 1)

        def kept(content):
            number = len(file.require_group("#refs#"))
            return file["#refs#"].create_dataset(str(number), data=content).ref

        def record(row, places):
            group = file.create_group(f"#refs#/{len(file['#refs#'])}")
            values = [[float(digit or 10) for digit in row], *np.array(places, float).T]
            for name, several in zip(("label", "left", "top", "width", "height"), values, strict=True):
                if len(several) == 1:
                    group[name] = column(several)
                else:
                    references = column([kept(column(one)) for one in several])
                    group.create_dataset(name, data=references, dtype=h5py.ref_dtype)
            return group.ref

        names = [f"{number}.png" for number in range(1, len(images) + 1)]
        for name, image in zip(names, images, strict=True):
            Image.fromarray(image).save(folder / part / name)
        columns = {
            "name": [kept(column([ord(letter) for letter in name]).astype(np.uint16)) for name in names],
            "bbox": [record(*row) for row in zip(labels, boxes, strict=True)],
        }
        for name, references in columns.items():
            file.create_dataset(f"digitStruct/{name}", data=column(references), dtype=h5py.ref_dtype)


def pictures(folder, classes):
    """Name of a class -> uint8 images (H, W) or (H, W, 3)."""
    for name, images in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{number}.png")


def celeb_faces(folder, images, signs):
    """uint8 (H, W, 3) and 40 times 1 or -1, each."""
    (folder / "img_align_celeba").mkdir()
    lines = [str(len(images)), "5_o_Clock_Shadow ..."]
    for number, (image, row) in enumerate(zip(images, signs, strict=True), 1):
        Image.fromarray(image).save(folder / "img_align_celeba" / f"{number:06d}.jpg")
        lines.append(f"{number:06d}.jpg " + " ".join(map(str, row)))
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")


def face_pairs(folder, people, **pairs):
    """Name -> uint8 images (H, W, 3); pairsDevTrain and pairsDevTest: lines of their lists."""
    for name, images in people.items():
        (folder / "lfw" / name).mkdir(parents=True)
        for number, image in enumerate(images, 1):
            Image.fromarray(image).save(folder / "lfw" / name / f"{name}_{number:04d}.jpg")
    for listing, lines in pairs.items():
        (folder / f"{listing}.txt").write_text("\n".join([str(len(lines)), *lines]) + "\n")


def series(folder, name, part, labels, values):
    """Of "TRAIN" or "TEST": (N,) and (N, L)."""
    (folder / name).mkdir(exist_ok=True)
    np.savetxt(folder / name / f"{name}_{part}.tsv", np.c_[labels, values], delimiter="\t")


def everything(root: pathlib.Path) -> dict[str, str]:
    """A sample of each; returns the environment variables that lead to them."""
    draw = np.random.default_rng(0)

    def pixels(*shape):
        return draw.integers(0, 256, shape, np.uint8)

    variables = (
        "FASHION_MNIST_DIR",
        "CIFAR10_DIR",
        "SVHN_DIR",
        "PLANKTON_DIR",
        "CELEBA_DIR",
        "LFW_DIR",
        "UCR_DIR",
        "CUB_DIR",
    )
    folders = {name: root / name for name in variables}
    for folder in folders.values():
        folder.mkdir()
    many = 20_100  # the frozen classifier of Fashion-MNIST is trained on 20,000
    for part, count in (("train", many), ("t10k", 100)):
        images, labels = np.tile(pixels(100, 28, 28), (count // 100, 1, 1)), (np.arange(count) % 10).astype(np.uint8)
        fashion(folders["FASHION_MNIST_DIR"], part, images, labels)
    for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        cifar10(folders["CIFAR10_DIR"], name, pixels(20, 3072), [i % 10 for i in range(20)])
    for part in ("train", "test"):
        house_numbers(folders["SVHN_DIR"], part, pixels(24, 48, 80, 3), [[i % 10] * (1 + i % 5) for i in range(24)])
    pictures(folders["PLANKTON_DIR"], {name: pixels(10, 40, 60) for name in ("copepod", "jellyfish", "shrimp")})
    pictures(
        folders["CUB_DIR"], {name: pixels(10, 40, 60, 3) for name in ("001.Albatross", "002.Auklet", "003.Bunting")}
    )
    celeb_faces(folders["CELEBA_DIR"], pixels(42, 218, 178, 3), draw.choice([-1, 1], (42, 40)))
    lines = ["Ann\t1\t2"] * 12 + ["Ann\t1\tBob\t1"] * 12
    people = {name: pixels(2, 250, 250, 3) for name in ("Ann", "Bob")}
    face_pairs(folders["LFW_DIR"], people, pairsDevTrain=lines, pairsDevTest=lines)
    for name in ("FaceAll", "TwoPatterns", "Wafer", "UWaveGestureLibraryX", "PhalangesOutlinesCorrect"):
        for part in ("TRAIN", "TEST"):
            series(folders["UCR_DIR"], name, part, np.arange(20) % 4, draw.normal(size=(20, 60)))
    return {name: str(folder) for name, folder in folders.items()}
