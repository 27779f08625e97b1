"""Loaders: real data that packages bring, and the real formats of data that they do not, made small."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from models import data


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


def idx(array, compress):
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    raw = head + array.tobytes()
    return gzip.compress(raw) if compress else raw


def test_fashion(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(idx(images, True))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(np.array([1, 0, 9], np.uint8), True))
    found = data.fashion("test", str(tmp_path))
    torch.testing.assert_close(found.inputs[:, 0], torch.from_numpy(images) / 255)
    assert found.labels.tolist() == [1, 0, 9]
    with pytest.raises(data.MissingDataError, match="apt-get install dataset-fashion-mnist"):
        data.fashion("train", str(tmp_path))


@pytest.mark.parametrize("raw", [b"", b"\0\0\x08\x01", idx(np.zeros(4, np.uint8), False)[:-1]])
def test_damaged_idx(tmp_path, raw):
    path = tmp_path / "labels"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="is not an idx file of bytes"):
        data.read_idx(path)


def test_series(tmp_path, monkeypatch):
    train = data.series("GunPoint", "train")
    assert train.inputs.shape == (50, 1, 150)
    assert train.labels.unique().tolist() == [0, 1]
    (tmp_path / "FaceAll").mkdir()
    (tmp_path / "FaceAll" / "FaceAll_TEST.tsv").write_text("3\t0.5\t1.5\n-1\t2\t3\n")
    with pytest.raises(data.MissingDataError, match="FaceAll is not in"):
        data.series("FaceAll", "test")
    monkeypatch.setenv("UCR_DIR", str(tmp_path))
    data.series.cache_clear()
    found = data.series("FaceAll", "test")
    assert found.inputs.tolist() == [[[0.5, 1.5]], [[2, 3]]]
    assert found.labels.tolist() == [1, 0]
    data.series.cache_clear()


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
        pixels = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)
        content = {b"data": pixels, b"labels": [4, 9], b"batch_label": b"testing batch 1 of 1"}
        (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
        found = data.cifar10("test")
        torch.testing.assert_close(found.inputs, torch.from_numpy(pixels).reshape(2, 3, 32, 32) / 255)
        assert found.labels.tolist() == [4, 9]

    def test_a_pickle_runs_no_code(self, monkeypatch, tmp_path):
        monkeypatch.setenv("CIFAR10_DIR", str(tmp_path))
        (tmp_path / "test_batch").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        with pytest.raises(pickle.UnpicklingError, match=r"may not hold os\.system"):
            data.cifar10("test")

    def test_house_numbers(self, monkeypatch, tmp_path):
        monkeypatch.setenv("SVHN_DIR", str(tmp_path))
        images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
        np.savez(tmp_path / "train.npz", images=images, labels=np.full((4, 5), 10))
        found = data.house_numbers("train")
        assert found.inputs.shape == (4, 3, 64, 64)
        torch.testing.assert_close(found.inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(found.inputs.std((0, 2, 3)), torch.ones(3))
        assert found.labels.shape == (4, 5)

    def test_pictures(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PLANKTON_DIR", str(tmp_path))
        with pytest.raises(data.MissingDataError, match="no sub-folder"):
            data.pictures("PLANKTON_DIR", (10, 12))
        for name, value in (("copepod", 255), ("shrimp", 0)):
            (tmp_path / name).mkdir()
            Image.new("L", (20, 30), value).save(tmp_path / name / "1.png")
        found = data.pictures("PLANKTON_DIR", (10, 12), grey=True)
        assert found.inputs.shape == (2, 1, 10, 12)
        assert found.inputs.mean((1, 2, 3)).tolist() == [1, 0]
        assert found.labels.tolist() == [0, 1]

    def test_celeb_faces(self, monkeypatch, tmp_path):
        monkeypatch.setenv("CELEBA_DIR", str(tmp_path))
        (tmp_path / "img_align_celeba").mkdir()
        Image.new("RGB", (178, 218), (255, 0, 0)).save(tmp_path / "img_align_celeba" / "000001.jpg")
        signs = " ".join(["1", "-1"] * 20)
        (tmp_path / "list_attr_celeba.txt").write_text(f"1\nnames\n000001.jpg {signs}\n")
        found = data.celeb_faces((20, 16))
        assert found.inputs.shape == (1, 3, 20, 16)
        assert found.labels.tolist() == [[1, 0] * 20]

    def test_face_pairs(self, monkeypatch, tmp_path):
        monkeypatch.setenv("LFW_DIR", str(tmp_path))
        for name, number, value in (("Ann", 1, 0), ("Ann", 2, 255), ("Bob", 1, 128)):
            (tmp_path / "lfw" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (250, 250), (value,) * 3).save(tmp_path / "lfw" / name / f"{name}_{number:04d}.jpg")
        (tmp_path / "pairsDevTest.txt").write_text("1\nAnn\t1\t2\nAnn\t2\tBob\t1\n")
        found = data.face_pairs("test", (10, 10))
        assert found.labels.tolist() == [1, 0]
        assert found.inputs.shape == (2, 6, 10, 10)
        means = found.inputs.unflatten(1, (2, 3)).mean((2, 3, 4))
        torch.testing.assert_close(means, torch.tensor([[0, 1], [1, 128 / 255]]), atol=0.01, rtol=0)
