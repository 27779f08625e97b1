"""How kernels are launched: block shapes, offset types, vector widths. Nothing here waits for the device."""

from dataclasses import asdict, dataclass

import numpy
import torch
import triton
import triton.language as tl

COMPUTE = {torch.float32: tl.float32, torch.float64: tl.float64}
INT32_MAX = 2**31 - 1
VECTOR_BYTES = 16
NUM_WARPS = 4
# Without a limit ptxas aims at occupancy on sm_80 and spills; this one leaves 4 blocks of 4 warps on a processor.
OPTIONS = {"num_warps": NUM_WARPS, "maxnreg": 128, "enable_fp_fusion": True}
LONG = {**OPTIONS, "num_warps": 1, "maxnreg": 255}  # loops of many steps: a warp waits for its longest path alone
ROOMY = {**OPTIONS, "maxnreg": 200}  # for the many taps of cubic and volume gradients
ROOMIEST = {**OPTIONS, "maxnreg": 255}  # for those of volumes in float64: no fewer blocks on a processor than ROOMY
INTERPRETED = triton.knobs.runtime.interpret
PROGRAMS = 1 if INTERPRETED else 2048  # enough for a large GPU: 132 processors of 16 blocks
MOST_REPEATS = 4
POINTS_FACTOR = 8 if INTERPRETED else 1  # the interpreter's time goes with the programs, not with their points


@dataclass(frozen=True)
class Block:
    """One program's work; the fields are the kernels' constants of the same name."""

    C_LAST: bool
    CHUNK: int
    BLOCK_C: int
    TILE_H: int
    TILE_W: int

    def rows(self, points: int, rows: int) -> int:
        """The rows of a program's tile: several TILE_H if the whole work of `points` still fills a large GPU."""
        repeats = points // (self.TILE_H * self.TILE_W * PROGRAMS)
        return self.TILE_H * max(1, min(repeats, MOST_REPEATS, triton.cdiv(rows, self.TILE_H)))

    def tiles(self, rows: int, width: int, tile_rows: int | None = None) -> int:
        return triton.cdiv(rows, tile_rows or self.TILE_H) * triton.cdiv(width, self.TILE_W)


# Planar: lanes along x, 16 x 2 points a warp (a rotated row of 32 touches twice the cache lines), and the weights of a
# point serve up to 8 channels. Channels last: 16-byte pieces of a pixel on neighbouring lanes.
PLANAR_CHUNK = 8
TILE_W = 16
CHANNELS_LAST_FROM = 8


def block_shape(
    n: int, channels: int, channels_last: bool, itemsize: int = 4, backward: bool = False, warps: int = NUM_WARPS
) -> Block:
    """The static table: no autotuning, which would run kernels with atomics several times."""
    if warps == 1:  # 8 x 4 points, whose paths are alike
        points = 32 * POINTS_FACTOR
        return Block(False, min(channels, PLANAR_CHUNK), 1, 1 if n == 1 else points // 8, points if n == 1 else 8)
    if not channels_last:
        one_a_thread = backward or channels > 4  # two would take the registers of 4 warps
        points, chunk, block = 128 if one_a_thread else 256, min(channels, PLANAR_CHUNK if n < 3 else 4), 1
    else:
        block = chunk = min(triton.next_power_of_2(channels), 256 // itemsize)
        points = 32 * NUM_WARPS * VECTOR_BYTES // (itemsize * block) * (1 if backward else 2)
    points *= POINTS_FACTOR
    width = points if n == 1 else min(points, TILE_W)
    return Block(channels_last, chunk, block, points // width, width)


def offset_type(n: int, *images: torch.Tensor) -> tl.dtype:
    """int32 if that reaches every pixel of an image with n axes, from four pixels before its first."""
    reach = (sum((t.shape[d] + 4) * abs(t.stride(d)) for d in range(-n, 0)) for t in images)
    return tl.int32 if max(reach, default=0) <= INT32_MAX else tl.int64


def vector_width(n: int, *images: torch.Tensor) -> int:
    """How many channels fit a 16-byte access to each of (..., C, *in), if all allow it; else 1."""
    width = VECTOR_BYTES // max(t.element_size() for t in images if t.is_floating_point())
    counts = [t.shape[-n - 1] for t in images]
    strides = [t.stride(d) for t in images for d in range(t.dim()) if d != t.dim() - n - 1]
    aligned = all(t.data_ptr() % VECTOR_BYTES == 0 for t in images)
    return width if aligned and all(count % width == 0 for count in counts + strides) else 1


def has_channels_last(n: int, *images: torch.Tensor) -> bool:
    """Whether all (..., C, *in) have enough channels, stored next to each other."""
    return all(t.shape[-n - 1] >= CHANNELS_LAST_FROM and t.stride(-n - 1) == 1 for t in images)


def memory_constants(n: int, channels_last: bool, chunk: int, *images: torch.Tensor) -> dict:
    """What kernels may assume of the images' memory, and that all channels of a chunk exist."""
    return {
        "INDEX": offset_type(n, *images),
        "VECTOR": vector_width(n, *images) if channels_last else 1,
        "X_UNIT": not channels_last and all(t.stride(-1) == 1 for t in images),
        "WHOLE": images[0].shape[-n - 1] % chunk == 0,
    }


def launch(kernel, programs: int, arguments: dict, block: Block | None = None, options: dict = OPTIONS) -> None:
    """Launches a kernel; it gets those fields of the block that it takes."""
    if block is not None:
        arguments = arguments | {k: v for k, v in asdict(block).items() if k in kernel.arg_names}
    run(kernel, programs, arguments, options)


def run(kernel, programs: int, arguments: dict, options: dict) -> None:
    """Runs a kernel on the device of its tensors; tests/triton_aot.py puts the compiler alone here."""
    device = next(a.device for a in arguments.values() if isinstance(a, torch.Tensor))
    # The interpreter computes in numpy, which would warn of every Inf and NaN.
    guard = torch.cuda.device(device) if device.type == "cuda" else numpy.errstate(all="ignore")
    with guard:
        kernel[(programs,)](**arguments, **options)
