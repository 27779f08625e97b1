"""Every wrong argument raises before a kernel runs: exact type, the argument's name, what it got and wants."""

import re

import pytest
import torch

from stn_kernels import (
    affine_grid,
    affine_sample,
    grid_sample,
    homography_grid,
    homography_sample,
    tps_grid,
    tps_sample,
)

IMAGE = torch.rand(2, 3, 5, 6)
THETA = torch.eye(2, 3).expand(2, 2, 3)
GRID = torch.zeros(2, 4, 4, 2)
MATRIX = torch.eye(3).expand(2, 3, 3)
POINTS = torch.rand(2, 16, 2)

# Per argument: a bad value, the error, and what the message must hold beside the argument's name.
IMAGES = [
    (None, TypeError, ["torch.Tensor", "NoneType"]),
    ([[1.0]], TypeError, ["torch.Tensor", "list"]),
    (torch.zeros(2, 3, 5, 6, dtype=torch.int64), TypeError, ["float32", "torch.int64"]),
    (torch.zeros(2, 3, 5, 6, dtype=torch.bool), TypeError, ["float32", "torch.bool"]),
    (torch.zeros(2, 3, 5, 6, dtype=torch.complex64), TypeError, ["float32", "torch.complex64"]),
    (torch.zeros(2, 3, 5, 6).to_sparse(), TypeError, ["strided", "sparse"]),
    (torch.zeros(5, 6), ValueError, ["(B, C, W) or (B, C, H, W) or (B, C, D, H, W)", "(5, 6)"]),
    (torch.zeros(2, 3, 4, 5, 6, 7), ValueError, ["(B, C, H, W)", "(2, 3, 4, 5, 6, 7)"]),
    (torch.zeros(()), ValueError, ["(B, C, H, W)", "()"]),
    (torch.zeros(2, 3, 0, 6), ValueError, ["non-empty", "(2, 3, 0, 6)"]),
    (torch.zeros(2, 3, 5, 0), ValueError, ["non-empty", "(2, 3, 5, 0)"]),
]
ANY_IMAGE, PLANAR_IMAGE = "(B, C, W) or (B, C, H, W) or (B, C, D, H, W)", "(B, C, H, W)"
PLANAR_IMAGES = [(v, error, [p.replace(ANY_IMAGE, PLANAR_IMAGE) for p in parts]) for v, error, parts in IMAGES]
THETAS = [
    ("identity", TypeError, ["torch.Tensor", "str"]),
    (torch.zeros(2, 2, 3, dtype=torch.int32), TypeError, ["float32", "torch.int32"]),
    (torch.zeros(2, 3), ValueError, ["(B, 2, 3)", "(2, 3)"]),
    (torch.zeros(2, 3, 3), ValueError, ["(B, 2, 3)", "(2, 3, 3)"]),
    (torch.zeros(2, 6), ValueError, ["(B, 2, 3)", "(2, 6)"]),
    (torch.zeros(2, 3, 2), ValueError, ["(B, 2, 3)", "(2, 3, 2)"]),
    (torch.zeros(1, 2, 1, 2, 3), ValueError, ["(B, S, 2, 3)", "(1, 2, 1, 2, 3)"]),
]
PAIRED_THETAS = [
    (torch.zeros(2, 3, 4), ValueError, ["(B, 2, 3)", "(2, 3, 4)"]),
    (torch.zeros(3, 2, 3), ValueError, ["batch size", "(2)", "(3, 2, 3)"]),
    (torch.zeros(1, 2, 3), ValueError, ["batch size", "(2)", "(1, 2, 3)"]),
    (torch.zeros(2, 2, 3, device="meta"), ValueError, ["device", "cpu", "meta"]),
]
GRIDS = [
    (3.0, TypeError, ["torch.Tensor", "float"]),
    (torch.zeros(2, 4, 4, 2, dtype=torch.int8), TypeError, ["float32", "torch.int8"]),
    (torch.zeros(2, 4, 4, 3), ValueError, ["(B, Ho, Wo, 2)", "(2, 4, 4, 3)"]),
    (torch.zeros(2, 4, 2), ValueError, ["(B, Ho, Wo, 2)", "(2, 4, 2)"]),
    (torch.zeros(2, 1, 4, 4, 3), ValueError, ["(B, S, Ho, Wo, 2)", "(2, 1, 4, 4, 3)"]),
    (torch.zeros(2, 1, 1, 4, 4, 2), ValueError, ["(B, S, Ho, Wo, 2)", "(2, 1, 1, 4, 4, 2)"]),
    (torch.zeros(3, 4, 4, 2), ValueError, ["batch size", "(2)", "(3, 4, 4, 2)"]),
    (torch.zeros(2, 4, 4, 2, device="meta"), ValueError, ["device", "cpu", "meta"]),
]
MATRICES = [
    ("identity", TypeError, ["torch.Tensor", "str"]),
    (torch.zeros(2, 3, 3, dtype=torch.int32), TypeError, ["float32", "torch.int32"]),
    (torch.zeros(2, 2, 3), ValueError, ["(B, 3, 3)", "(2, 2, 3)"]),
    (torch.zeros(3, 3), ValueError, ["(B, 3, 3)", "(3, 3)"]),
]
PAIRED_MATRICES = [
    (torch.zeros(3, 3, 3), ValueError, ["batch size", "(2)", "(3, 3, 3)"]),
    (torch.zeros(2, 3, 3, device="meta"), ValueError, ["device", "cpu", "meta"]),
]
CONTROLLED_POINTS = [
    ([0.0], TypeError, ["torch.Tensor", "list"]),
    (torch.zeros(2, 16, 2, dtype=torch.int64), TypeError, ["float32", "torch.int64"]),
    (torch.zeros(2, 16, 4), ValueError, ["(B, K, 2)", "(2, 16, 4)"]),
    (torch.zeros(16, 2), ValueError, ["(B, K, 2)", "(16, 2)"]),
    (torch.zeros(2, 9, 2), ValueError, ["16 control points", "(2, 9, 2)"]),
]
PAIRED_POINTS = [
    (torch.zeros(3, 16, 2), ValueError, ["batch size", "(2)", "(3, 16, 2)"]),
    (torch.zeros(2, 16, 2, device="meta"), ValueError, ["device", "cpu", "meta"]),
]
CONTROL_POINTS = [
    (4, TypeError, ["torch.Tensor", "int"]),
    (torch.rand(16, 2).int(), TypeError, ["float32", "torch.int32"]),
    (torch.rand(2, 16, 2), ValueError, ["(K, 2)", "(2, 16, 2)"]),
    (torch.rand(2, 2), ValueError, ["K >= 3", "(2, 2)"]),
    (torch.rand(16, 3), ValueError, ["(K, 2)", "(16, 3)"]),
    (torch.zeros(16, 2), ValueError, ["distinct", "singular"]),
    (torch.rand(16, 2).requires_grad_(), ValueError, ["must not require a gradient"]),
    (torch.rand(16, 2, device="meta"), ValueError, ["device", "cpu", "meta"]),
]
AFFINES = [
    (0.5, TypeError, ["torch.Tensor", "float"]),
    (torch.zeros(2, 3, 3), ValueError, ["(B, 2, 3)", "(2, 3, 3)"]),
    (torch.zeros(3, 2, 3), ValueError, ["(2, 2, 3)", "(3, 2, 3)"]),
    (torch.zeros(2, 5, 2, 3), ValueError, ["(2, 2, 3)", "(2, 5, 2, 3)"]),
    (torch.zeros(2, 2, 3, device="meta"), ValueError, ["device", "cpu", "meta"]),
]
SIZES = [
    (None, TypeError, ["integers", "None"]),
    (7, TypeError, ["integers", "7"]),
    ("56", TypeError, ["integers", "'56'"]),
    ((), ValueError, ["2 integers", "()"]),
    ((5,), ValueError, ["2 integers", "(5,)"]),
    ((5, 6, 7), ValueError, ["2 integers", "(5, 6, 7)"]),
    ((2, 3, 5, 6), ValueError, ["2 integers", "(2, 3, 5, 6)", "last two"]),
    ((5.0, 6.0), TypeError, ["integers", "(5.0, 6.0)"]),
    ((True, 6), TypeError, ["integers", "(True, 6)"]),
    ((5, -6), ValueError, ["positive", "(5, -6)"]),
    ((0, 6), ValueError, ["positive", "(0, 6)"]),
]
MODES = [
    ("trilinear", ValueError, ["'bilinear' or 'nearest' or 'bicubic'", "'trilinear'"]),
    ("Bilinear", ValueError, ["'bilinear'", "'Bilinear'"]),
    (None, ValueError, ["'bilinear'", "None"]),
    (0, ValueError, ["'bilinear'", "0"]),
]
PADDINGS = [
    ("zero", ValueError, ["'zeros', 'border' or 'reflection'", "'zero'"]),
    ("constant", ValueError, ["'zeros', 'border' or 'reflection'", "'constant'"]),
    (None, ValueError, ["'zeros', 'border' or 'reflection'", "None"]),
    (1, ValueError, ["'zeros', 'border' or 'reflection'", "1"]),
    (["zeros"], ValueError, ["'zeros', 'border' or 'reflection'", "['zeros']"]),
]
ALIGNS = [
    (None, TypeError, ["True or False", "None"]),
    (1, TypeError, ["True or False", "1"]),
    ("no", TypeError, ["True or False", "'no'"]),
    (torch.tensor(True), TypeError, ["True or False", "tensor(True)"]),
]

GOOD = {
    affine_sample: {"input": IMAGE, "theta": THETA, "size": (4, 4)},
    grid_sample: {"input": IMAGE, "grid": GRID},
    affine_grid: {"theta": THETA, "size": (4, 4)},
    homography_sample: {"input": IMAGE, "matrix": MATRIX, "size": (4, 4)},
    homography_grid: {"matrix": MATRIX, "size": (4, 4)},
    tps_sample: {"input": IMAGE, "points": POINTS, "size": (4, 4)},
    tps_grid: {"points": POINTS, "size": (4, 4)},
}
SPLINE = {"control_points": CONTROL_POINTS, "affine": AFFINES}
OPTIONS = {"mode": MODES, "padding_mode": PADDINGS, "align_corners": ALIGNS}
BAD = {
    affine_sample: {"input": IMAGES, "theta": THETAS + PAIRED_THETAS, "size": SIZES, **OPTIONS},
    grid_sample: {"input": IMAGES, "grid": GRIDS, **OPTIONS},
    affine_grid: {"theta": THETAS, "size": SIZES, "align_corners": ALIGNS},
    homography_sample: {"input": PLANAR_IMAGES, "matrix": MATRICES + PAIRED_MATRICES, "size": SIZES, **OPTIONS},
    homography_grid: {"matrix": MATRICES, "size": SIZES, "align_corners": ALIGNS},
    tps_sample: {
        "input": PLANAR_IMAGES,
        "points": CONTROLLED_POINTS + PAIRED_POINTS,
        "size": SIZES,
        **OPTIONS,
        **SPLINE,
    },
    tps_grid: {"points": CONTROLLED_POINTS, "size": SIZES, "align_corners": ALIGNS, **SPLINE},
}
CASES = [
    pytest.param(op, name, *case, id=f"{op.__name__}-{name}-{i}")
    for op, arguments in BAD.items()
    for name, cases in arguments.items()
    for i, case in enumerate(cases)
]


@pytest.mark.parametrize(("op", "name", "value", "error", "parts"), CASES)
def test_message(op, name, value, error, parts):
    with pytest.raises(error) as raised:
        op(**{**GOOD[op], name: value})
    assert type(raised.value) is error
    message = str(raised.value)
    assert re.search(rf"\b{name}\b", message), message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("op", GOOD, ids=lambda op: op.__name__)
def test_the_arguments_used_here_are_good(op):
    assert op(**GOOD[op]).isfinite().all()


@pytest.mark.parametrize("op", [affine_sample, grid_sample], ids=lambda op: op.__name__)
def test_an_empty_image_is_fine_but_not_an_empty_plane(op):
    good = {**GOOD[op], "input": IMAGE[:0]}
    coords = "theta" if "theta" in good else "grid"
    assert op(**{**good, coords: good[coords][:0]}).shape[0] == 0


@pytest.mark.parametrize("size", [[4, 5], torch.Size([4, 5]), (4, 5)])
def test_size_may_be_any_sequence(size):
    assert affine_sample(IMAGE, THETA, size).shape == (2, 3, 4, 5)


def test_meta_tensors_give_the_shape():
    output = affine_sample(IMAGE.to("meta"), THETA.to("meta"), (4, 7))
    assert (output.shape, output.device.type) == ((2, 3, 4, 7), "meta")


VOLUME, THETA_3D, GRID_3D = torch.rand(2, 3, 4, 5, 6), torch.eye(3, 4).expand(2, 3, 4), torch.zeros(2, 4, 4, 4, 3)
SIGNAL, THETA_1D, GRID_1D = torch.rand(2, 3, 7), torch.eye(1, 2).expand(2, 1, 2), torch.zeros(2, 4, 1)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: affine_sample(VOLUME, THETA, (4, 4, 4)), ["theta", "(B, 3, 4)", "(2, 2, 3)"]),
        (lambda: affine_sample(VOLUME, THETA_3D, (4, 4)), ["size", "3 integers", "(4, 4)"]),
        (lambda: affine_sample(SIGNAL, THETA_1D, (4, 4)), ["size", "1 integer (width,)", "(4, 4)"]),
        (lambda: affine_sample(IMAGE, THETA_3D, (4, 4)), ["theta", "(B, 2, 3)", "(2, 3, 4)"]),
        (lambda: grid_sample(VOLUME, GRID), ["grid", "(B, Do, Ho, Wo, 3)", "(2, 4, 4, 2)"]),
        (lambda: grid_sample(IMAGE, GRID_3D), ["grid", "(B, Ho, Wo, 2)", "(2, 4, 4, 4, 3)"]),
        (lambda: grid_sample(SIGNAL, GRID), ["grid", "(B, Wo, 1)", "(2, 4, 4, 2)"]),
        (lambda: affine_grid(THETA_3D, (4, 4)), ["size", "3 integers", "(4, 4)"]),
        (lambda: affine_grid(THETA_1D, (2, 3, 4)), ["size", "1 integer", "(2, 3, 4)", "last one"]),
    ],
)
def test_dimensions_that_do_not_fit(call, parts):
    with pytest.raises(ValueError, match=parts[0]) as raised:
        call()
    for part in parts:
        assert part in str(raised.value)
