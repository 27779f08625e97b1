"""Fast, checked kernels for spatial transformer networks."""

from ._library import backends, load_native, use_backend
from .ops.affine_grid import affine_grid
from .ops.affine_sample import affine_sample
from .ops.cpab_grid import cpab_grid
from .ops.cpab_jacobian import cpab_jacobian
from .ops.cpab_sample import cpab_sample
from .ops.cpab_transform import cpab_transform
from .ops.grid_sample import grid_sample
from .ops.homography_grid import homography_grid
from .ops.homography_sample import homography_sample
from .ops.linearized import Linearized
from .ops.tps_grid import tps_grid
from .ops.tps_sample import tps_sample
from .tessellation import Tessellation

__version__ = "0.1.0"
__all__ = [
    "Linearized",
    "Tessellation",
    "affine_grid",
    "affine_sample",
    "backends",
    "cpab_grid",
    "cpab_jacobian",
    "cpab_sample",
    "cpab_transform",
    "grid_sample",
    "homography_grid",
    "homography_sample",
    "tps_grid",
    "tps_sample",
    "use_backend",
]

load_native()
