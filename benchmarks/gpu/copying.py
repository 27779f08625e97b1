"""Copy bandwidth of the device: bytes read and written a second, the ceiling that shares are taken of."""

import argparse
import pathlib
import statistics

import torch

from ..harness import clock
from .files import write_json

SIZES = (2**24, 2**26, 2**28, 2**30, 2**32)  # bytes


def bandwidth(size: int, device: str, rounds: int = 15) -> float:
    """Bytes a second, read and written, of copies of `size` bytes of random numbers."""
    source = torch.rand(size // 4, device=device)
    target = torch.empty_like(source)
    times = [clock(lambda: target.copy_(source), 4, device) for _ in range(rounds)]
    return 2 * size / statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=pathlib.Path, required=True)
    options = parser.parse_args()
    sizes = SIZES if options.device == "cuda" else SIZES[:1]
    found = {size: bandwidth(size, options.device) for size in sizes}
    for size, value in found.items():
        print(f"{size / 2**20:8.0f} MiB  {value / 1e12:.3f} TB/s")
    write_json(options.json, {"bandwidth": found[sizes[-1]], "by bytes": found})


if __name__ == "__main__":
    main()
