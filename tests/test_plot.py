"""Pictures of CPAB transformations: what is drawn lies where it should."""

import numpy as np
import pytest
import torch

from stn_kernels import Tessellation, cpab_transform, plot

SQUARE, LINE = Tessellation((2, 3)), Tessellation((4,))


def drawn(axes):
    """The points of all lines (P, 2)."""
    return np.concatenate([line.get_xydata() for line in axes.lines])


def test_cells():
    points = drawn(plot.tessellation(SQUARE))
    edges = points[~np.isnan(points).any(1)]
    assert len(edges) == 4 * SQUARE.cells
    corners = {(0, 0), (0.5, 0), (1, 1), (0.25, 0.5)}
    assert corners <= {tuple(p) for p in edges.round(12).tolist()}
    assert [line.get_xdata()[0] for line in plot.tessellation(LINE).lines] == [0, 0.25, 0.5, 0.75, 1]


def test_velocity():
    theta = SQUARE.sample(1, dtype=torch.float64)
    arrows = plot.velocity(SQUARE, theta, count=5).collections[0]
    expected = SQUARE.velocity(torch.from_numpy(arrows.XY), theta)[0]
    np.testing.assert_allclose(np.stack([arrows.U, arrows.V], 1), expected)
    theta = LINE.sample(1, dtype=torch.float64)
    points = drawn(plot.velocity(LINE, theta[0]))
    np.testing.assert_allclose(points[:, 1:], LINE.velocity(torch.from_numpy(points[:, :1]), theta)[0])


@pytest.mark.parametrize("inverse", [False, True])
def test_deformed_grid(inverse):
    theta = SQUARE.sample(1, dtype=torch.float64)
    points = torch.from_numpy(drawn(plot.deformed_grid(SQUARE, theta, lines=4, inverse=inverse)))
    points = points[~points.isnan().any(1)]
    assert len(points) == 2 * 4 * 201
    back = cpab_transform(points, theta, SQUARE, inverse=not inverse)[0]
    steps = (3 * back - (3 * back).round()).abs().amin(1)  # each on a line x = k / 3 or y = k / 3
    assert steps.max() < 1e-9
    theta = LINE.sample(1, dtype=torch.float64)
    points = torch.from_numpy(drawn(plot.deformed_grid(LINE, theta, inverse=inverse)))
    moved = cpab_transform(points[:, :1], theta, LINE, inverse=inverse)[0]
    torch.testing.assert_close(points[:, 1:], moved)


def test_draws_into_given_axes():
    axes = plot.tessellation(SQUARE)
    assert plot.deformed_grid(SQUARE, SQUARE.identity(), axes, color="red") is axes
    assert axes.lines[-1].get_color() == "red"


@pytest.mark.parametrize("draw", [plot.velocity, plot.deformed_grid])
def test_bad_arguments(draw):
    with pytest.raises(TypeError, match="tessellation must be"):
        draw((2, 2), torch.zeros(14))
    with pytest.raises(ValueError, match="one or two dimensions"):
        draw(Tessellation((1, 1, 1), False), torch.zeros(15))
    with pytest.raises(ValueError, match=r"theta must be \(d,\) or \(1, d\).*\(2, 22\)"):
        draw(SQUARE, torch.zeros(2, SQUARE.dim))
    with pytest.raises(ValueError, match="theta must be"):
        draw(SQUARE, torch.zeros(3))
