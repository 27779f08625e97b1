"""The performance model counts bytes: exact small cases, added up by hand."""

import pytest
import torch

from benchmarks.roofline import Call, call_of
from stn_kernels.op_cases import OP_CASES, Inputs, Sample

OPTIONS = {"padding_mode": "zeros", "align_corners": False}


def affine(theta, size=(8, 8), out_size=(8, 8), batch=1, channels=2, dtype=torch.float32):
    image, matrices = torch.zeros(batch, channels, *size, dtype=dtype), torch.tensor(theta).expand(batch, 2, 3)
    return Inputs({"input": image, "theta": matrices}, {"size": out_size, **OPTIONS})


IDENTITY = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_affine_sample():
    call = call_of("affine_sample", affine(IDENTITY, (4, 4), (8, 8), batch=2, channels=3))
    theta, image, output = 2 * 6 * 4, 2 * 3 * 4 * 4 * 4, 2 * 3 * 8 * 8 * 4
    assert call == Call(theta, output, image, image)
    assert call.moved("forward") == theta + image + output
    backward = output + image + theta + image + theta  # reads cotangent, image, theta; writes two gradients
    assert call.moved("forward+backward") == theta + image + output + backward
    assert call.moved("input gradient") == output + theta + image


def test_samples_read_the_image_once():
    image, theta = torch.zeros(2, 3, 4, 4), torch.tensor(IDENTITY).expand(2, 10, 2, 3)
    call = call_of("affine_sample", Inputs({"input": image, "theta": theta}, {"size": (4, 4), **OPTIONS}))
    assert call.moved("forward") == 20 * 6 * 4 + 2 * 3 * 16 * 4 + 20 * 3 * 16 * 4


def test_half_precision_images_have_float32_coordinates():
    image, grid = torch.zeros(2, 3, 5, 7, dtype=torch.bfloat16), torch.zeros(2, 4, 5, 2)
    call = call_of("grid_sample", Inputs({"input": image, "grid": grid}, OPTIONS))
    assert call == Call(2 * 4 * 5 * 2 * 4, 2 * 3 * 4 * 5 * 2, 2 * 3 * 5 * 7 * 2, 2 * 3 * 1 * 2)  # all at the centre


def test_coordinates_alone():
    call = call_of("affine_grid", Inputs({"theta": torch.zeros(2, 2, 3)}, {"size": (4, 5), "align_corners": False}))
    theta, grid = 2 * 6 * 4, 2 * 4 * 5 * 2 * 4
    assert call == Call(theta, grid)
    assert call.moved("forward+backward") == 2 * (theta + grid)


def test_pixels_that_no_output_reads_are_not_counted():
    whole, part = Call(params=1, output=10, image=100, read=100), Call(params=1, output=10, image=100, read=30)
    assert whole.moved("forward") - part.moved("forward") == 70
    assert whole.moved("forward+backward") - part.moved("forward+backward") == 2 * 70
    assert whole.moved("input gradient") == part.moved("input gradient")  # every pixel's gradient is written


@pytest.mark.parametrize(
    ("theta", "pixels"),
    [
        (IDENTITY, 8 * 8),
        ([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]], 8 * 8),
        ([[1.0, 0.0, 0.25], [0.0, 1.0, 0.0]], 7 * 8),  # shifted by a pixel
        ([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]], 6 * 6),  # from a quarter of a pixel into pixel 1 on
        ([[1.0, 0.0, 5.0], [0.0, 1.0, 0.0]], 0),
        ([[0.0, 0.0, 0.125], [0.0, 0.0, 0.125]], 1),
    ],
)
def test_pixels_read(theta, pixels):
    assert call_of("affine_sample", affine(theta)).read == pixels * 2 * 4


@pytest.mark.parametrize("op", OP_CASES)
def test_every_operator_has_a_floor(op):
    inputs = OP_CASES[op].draw(Sample())
    call = call_of(op, inputs)
    assert call.output == OP_CASES[op].call(inputs).nbytes
    assert call.floor("forward", 2.0) == (call.read + call.params + call.output) / 2


def test_unknown_direction():
    with pytest.raises(ValueError, match="got 'sideways'"):
        Call(1, 1).moved("sideways")
