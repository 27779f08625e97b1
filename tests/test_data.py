"""Loaders: real data that packages bring, and the real formats of data that they do not, made small."""

import pickle
import shutil

import numpy as np
import pytest
import torch

from models import data

from . import data_samples


def test_split_is_balanced_disjoint_and_seeded():
    examples = data.Examples(torch.arange(40.0).reshape(40, 1), torch.arange(40) % 4)
    train, test = data.split(examples, 12, 20, 3)
    assert train.labels.bincount().tolist() == [3, 3, 3, 3]
    assert test.labels.bincount().tolist() == [5, 5, 5, 5]
    assert not set(train.inputs.flatten().tolist()) & set(test.inputs.flatten().tolist())
    again, _ = data.split(examples, 12, 20, 3)
    other, _ = data.split(examples, 12, 20, 4)
    assert torch.equal(train.inputs, again.inputs)
    assert not torch.equal(train.inputs, other.inputs)
    with pytest.raises(ValueError, match="at most 40 examples, got 30 \\+ 20"):
        data.split(examples, 30, 20, 0)


@pytest.mark.parametrize(
    ("load", "shape", "classes"),
    [(data.digits, (5000, 1, 28, 28), 10), (data.small_digits, (1797, 1, 8, 8), 10), (data.faces, (200, 1, 25, 25), 2)],
)
def test_packaged(load, shape, classes):
    found = load()
    assert found.inputs.shape == shape
    assert found.labels.unique().tolist() == list(range(classes))
    assert found.inputs.min() >= 0
    assert found.inputs.max() == 1
    assert load() is found


def test_fashion(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    data_samples.fashion(tmp_path, "t10k", images, np.array([1, 0, 9], np.uint8))
    found = data.fashion("test", str(tmp_path))
    torch.testing.assert_close(found.inputs[:, 0], torch.from_numpy(images) / 255)
    assert found.labels.tolist() == [1, 0, 9]
    with pytest.raises(data.MissingDataError, match="apt-get install dataset-fashion-mnist"):
        data.fashion("train", str(tmp_path))


@pytest.mark.parametrize("raw", [b"", b"\0\0\x08\x01", data_samples.idx(np.zeros(4, np.uint8), False)[:-1]])
def test_damaged_idx(tmp_path, raw):
    path = tmp_path / "labels"
    path.write_bytes(raw)
    with pytest.raises(data.DamagedDataError, match="labels is not an idx file of bytes"):
        data.read_idx(path)


def test_series(tmp_path, monkeypatch):
    train = data.series("GunPoint", "train")
    assert train.inputs.shape == (50, 1, 150)
    assert train.labels.unique().tolist() == [0, 1]
    data_samples.series(tmp_path, "FaceAll", "TEST", [3, -1], [[0.5, 1.5], [2, 3]])
    with pytest.raises(data.MissingDataError, match="FaceAll is not in"):
        data.series("FaceAll", "test")
    monkeypatch.setenv("UCR_DIR", str(tmp_path))
    found = data.series("FaceAll", "test")
    assert found.inputs.tolist() == [[[0.5, 1.5]], [[2, 3]]]
    assert found.labels.tolist() == [1, 0]


class TestLocal:
    def test_absent(self, monkeypatch, tmp_path):
        monkeypatch.delenv("CIFAR10_DIR", raising=False)
        with pytest.raises(data.MissingDataError, match="set CIFAR10_DIR to a folder with test_batch"):
            data.cifar10("test")
        monkeypatch.setenv("CIFAR10_DIR", str(tmp_path))
        with pytest.raises(data.MissingDataError, match="lacks test_batch"):
            data.cifar10("test")

    def test_cifar10(self, monkeypatch, tmp_path):
        monkeypatch.setenv("CIFAR10_DIR", str(tmp_path))
        pixels = np.random.default_rng(0).integers(0, 256, (12, 3072), np.uint8)
        for number, name in enumerate(("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")):
            data_samples.cifar10(tmp_path, name, pixels[2 * number : 2 * number + 2], [number, 9 - number])
        data_samples.cifar10(tmp_path, "test_batch", pixels[10:], [4, 7])
        train, test = data.cifar10("train"), data.cifar10("test")
        torch.testing.assert_close(train.inputs, torch.from_numpy(pixels[:10]).reshape(10, 3, 32, 32) / 255)
        torch.testing.assert_close(test.inputs, torch.from_numpy(pixels[10:]).reshape(2, 3, 32, 32) / 255)
        assert train.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
        assert test.labels.tolist() == [4, 7]

    def test_a_pickle_runs_no_code(self, monkeypatch, tmp_path):
        monkeypatch.setenv("CIFAR10_DIR", str(tmp_path))
        (tmp_path / "test_batch").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        with pytest.raises(data.DamagedDataError, match=r"test_batch is not a batch of .* may not hold os\.system"):
            data.cifar10("test")

    def test_house_numbers(self, monkeypatch, tmp_path):
        monkeypatch.setenv("SVHN_DIR", str(tmp_path))
        images = np.random.default_rng(0).integers(0, 256, (4, 90, 100, 3), np.uint8)
        side = 64 / 1.3
        boxes = [
            [(20.0, 10.0, side, side)],  # expanded, 12.6 to 76.6 across and 2.6 to 66.6 down
            [(25, 30, 10, 20), (40, 10, 5, side), (60, 12, side - 35, 8)],  # columns 25 to 74, 10 to 59 down
            [(-3, 60, 5, 25), (2, 60, 20, 40)],  # -6.75 to 25.75 across, 54 to 106 down
            [(20, 10, 5, 5)] * 6,
        ]
        images[2, 54:, :26] = 7
        labels = [[0], [1, 0, 9], [3, 4], [1, 2, 3, 4, 5, 6]]
        data_samples.house_numbers(tmp_path, "train", images, labels, boxes)
        found = data.house_numbers("train")
        assert found.labels.tolist() == [[0, 10, 10, 10, 10], [1, 0, 9, 10, 10], [3, 4, 10, 10, 10]]
        cuts = [images[0, 3:67, 13:77], images[1, 3:67, 18:82], np.full((64, 64, 3), 7)]
        expected = torch.from_numpy(np.stack(cuts)).movedim(-1, 1) / 255
        expected -= expected.mean((0, 2, 3), keepdim=True)
        torch.testing.assert_close(found.inputs, expected / expected.std((0, 2, 3), keepdim=True))

    @pytest.mark.parametrize(
        ("labels", "box", "message"),
        [
            ([11], (0, 0, 8, 8), "digitStruct.mat is not SVHN's .* not of 1 to 10"),
            ([1] * 6, (0, 0, 8, 8), "digitStruct.mat is not SVHN's .* no number of up to 5 digits"),
            ([1], (90, 0, 8, 8), r"1\.png is not a picture with its digits"),
        ],
    )
    def test_numbers_that_cannot_be(self, monkeypatch, tmp_path, labels, box, message):
        monkeypatch.setenv("SVHN_DIR", str(tmp_path))
        data_samples.house_numbers(
            tmp_path, "test", np.zeros((1, 20, 30, 3), np.uint8), [labels], [[box] * len(labels)]
        )
        with pytest.raises(data.DamagedDataError, match=message):
            data.house_numbers("test")

    def test_pictures(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PLANKTON_DIR", str(tmp_path))
        with pytest.raises(data.MissingDataError, match="no sub-folder"):
            data.pictures("PLANKTON_DIR", (10, 12))
        black = np.zeros((30, 20), np.uint8)
        data_samples.pictures(tmp_path, {"copepod": [black + 255], "shrimp": [black]})
        found = data.pictures("PLANKTON_DIR", (10, 12), grey=True)
        assert found.inputs.shape == (2, 1, 10, 12)
        assert found.inputs.mean((1, 2, 3)).tolist() == [1, 0]
        assert found.labels.tolist() == [0, 1]

    def test_celeb_faces(self, monkeypatch, tmp_path):
        monkeypatch.setenv("CELEBA_DIR", str(tmp_path))
        red = np.zeros((218, 178, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
        data_samples.celeb_faces(tmp_path, [red], [[1, -1] * 20])
        found = data.celeb_faces((20, 16))
        assert found.inputs.shape == (1, 3, 20, 16)
        assert found.labels.tolist() == [[1, 0] * 20]

    def test_face_pairs(self, monkeypatch, tmp_path):
        monkeypatch.setenv("LFW_DIR", str(tmp_path))
        grey = np.ones((250, 250, 3), np.uint8)
        people = {"Ann": [0 * grey, 255 * grey], "Bob": [128 * grey]}
        data_samples.face_pairs(tmp_path, people, pairsDevTest=["Ann\t1\t2", "Ann\t2\tBob\t1"])
        found = data.face_pairs("test", (10, 10))
        assert found.labels.tolist() == [1, 0]
        assert found.inputs.shape == (2, 6, 10, 10)
        means = found.inputs.unflatten(1, (2, 3)).mean((2, 3, 4))
        torch.testing.assert_close(means, torch.tensor([[0, 1], [1, 128 / 255]]), atol=0.01, rtol=0)


LOADERS = {
    "fashion": lambda: data.fashion("test"),
    "cifar10": data.cifar10,
    "house_numbers": data.house_numbers,
    "pictures": lambda: data.pictures("PLANKTON_DIR", (10, 12)),
    "celeb_faces": lambda: data.celeb_faces((20, 16)),
    "face_pairs": lambda: data.face_pairs("train", (10, 10)),
    "series": lambda: data.series("FaceAll"),
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_loaders_keep_what_they_read(samples, load):
    assert load() is load()


def test_another_folder_is_read_anew(samples, monkeypatch, tmp_path):
    before = data.house_numbers("test")
    data_samples.house_numbers(tmp_path, "test", np.arange(2 * 192).astype(np.uint8).reshape(2, 8, 8, 3), [[1], [2]])
    monkeypatch.setenv("SVHN_DIR", str(tmp_path))
    assert len(data.house_numbers("test")) == 2
    monkeypatch.setenv("SVHN_DIR", samples["SVHN_DIR"])
    assert data.house_numbers("test") is before


DAMAGE = [
    ("fashion", "FASHION_MNIST_DIR", "t10k-images-idx3-ubyte.gz", b"not gzip", "is not an idx file of bytes"),
    ("fashion", "FASHION_MNIST_DIR", "t10k-labels-idx1-ubyte.gz", None, "is not an idx file of bytes"),
    (
        "fashion",
        "FASHION_MNIST_DIR",
        "t10k-labels-idx1-ubyte.gz",
        data_samples.idx(np.zeros(3, np.uint8)),
        "the images of",
    ),
    ("cifar10", "CIFAR10_DIR", "data_batch_3", None, "is not a batch of CIFAR-10"),
    ("cifar10", "CIFAR10_DIR", "data_batch_5", pickle.dumps({b"data": 3}), "is not a batch of CIFAR-10"),
    ("house_numbers", "SVHN_DIR", "train/digitStruct.mat", None, "is not SVHN's digitStruct.mat"),
    ("house_numbers", "SVHN_DIR", "train/digitStruct.mat", b"MATLAB 5.0", "is not SVHN's digitStruct.mat"),
    ("house_numbers", "SVHN_DIR", "train/3.png", None, "is not a picture with its digits"),
    ("pictures", "PLANKTON_DIR", "shrimp/notes.txt", b"no picture", "is not a picture"),
    ("pictures", "PLANKTON_DIR", "shrimp/0.png", None, "is not a picture"),
    ("celeb_faces", "CELEBA_DIR", "list_attr_celeba.txt", b"1\nnames\n000001.jpg 1 -1\n", "is not CelebA's list"),
    ("celeb_faces", "CELEBA_DIR", "img_align_celeba/000002.jpg", b"", "is not a picture"),
    ("face_pairs", "LFW_DIR", "pairsDevTrain.txt", b"1\nAnn\t1\n", "is not LFW's list"),
    ("face_pairs", "LFW_DIR", "lfw/Ann/Ann_0001.jpg", b"", "is not a picture"),
    ("series", "UCR_DIR", "FaceAll/FaceAll_TRAIN.tsv", b"1\t0.5\tword\n", "is not a table of numbers"),
    ("series", "UCR_DIR", "FaceAll/FaceAll_TRAIN.tsv", b"1\t2\n3\n", "is not a table of numbers"),
]


@pytest.mark.parametrize(("name", "variable", "file", "content", "message"), DAMAGE, ids=[d[2] for d in DAMAGE])
def test_damaged_files_are_named(samples, monkeypatch, tmp_path, name, variable, file, content, message):
    """What a file should be and is not; None cuts it off in the middle."""
    shutil.copytree(samples[variable], tmp_path / "copy")
    path = tmp_path / "copy" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    monkeypatch.setenv(variable, str(tmp_path / "copy"))
    with pytest.raises(data.DamagedDataError, match=message) as caught:
        LOADERS[name]()
    assert str(path) in str(caught.value) or "the images of" in message


def test_what_svhn_should_be(monkeypatch):
    monkeypatch.delenv("SVHN_DIR", raising=False)
    with pytest.raises(data.MissingDataError, match=r"train/digitStruct\.mat: unpack SVHN's full-number format"):
        data.house_numbers("train")


def test_svhn_without_h5py(monkeypatch, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "digitStruct.mat").touch()
    monkeypatch.setenv("SVHN_DIR", str(tmp_path))
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(data.MissingDataError, match=r"package h5py: run `pip install 'stn-kernels\[train\]'`"):
        data.house_numbers("train")
