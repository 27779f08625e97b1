"""Fast, checked kernels for spatial transformer networks."""

from ._library import backends, load_native, use_backend
from .ops.affine_grid import affine_grid
from .ops.affine_sample import affine_sample
from .ops.grid_sample import grid_sample

__version__ = "0.1.0"
__all__ = ["affine_grid", "affine_sample", "backends", "grid_sample", "use_backend"]

load_native()
