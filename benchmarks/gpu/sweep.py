"""Small calls that between them run every kernel of a backend, against the reference: for compute-sanitizer."""

import argparse
import itertools
import time

import torch

from stn_kernels import verify
from stn_kernels._library import device_of, hole
from stn_kernels._tolerances import relative_error
from stn_kernels.op_cases import DTYPES, OP_CASES, SAMPLERS, OpCase, Sample

from .machine import register

LAYOUTS = (("contiguous", 1), ("contiguous", 3), ("contiguous", 5), ("channels_last", 3), ("channels_last", 16))


def samples(case: OpCase, backend: str) -> list[Sample]:
    """float32 first, so that a sweep that is cut short has seen what is used most."""
    dtypes = sorted(DTYPES, key=lambda dtype: dtype != torch.float32)
    paddings = ["zeros" if padding == "none" else padding for padding in case.paddings]
    plain = [
        Sample(dtype, padding_mode=padding, layout=layout, channels=channels, samples=2, size=(4, 5), out_size=(3, 17))
        for dtype, padding, (layout, channels) in itertools.product(dtypes, paddings, LAYOUTS)
    ]
    if case.name not in ("affine_sample", "grid_sample", "homography_sample", "tps_sample"):
        return plain
    dimensions = (1, 2, 3) if case.name in ("affine_sample", "grid_sample") else (2,)
    others = [s for s in SAMPLERS if s != ("bilinear", 2) and s[1] in dimensions and not hole(backend, s)]
    turns = itertools.cycle(itertools.product(paddings, ("contiguous", "channels_last")))
    return plain + [
        Sample(
            dtype, padding_mode=padding, layout=layout, samples=2, mode=mode, size=(4, 5), out_size=(3, 17)
        ).in_dimension(n)
        for (dtype, (mode, n)), (padding, layout) in zip(itertools.product(dtypes, others), turns, strict=False)
    ]


def errors(case: OpCase, sample: Sample, backend: str, deterministic: bool) -> list[str]:
    """What is wrong with the value and the gradients of one call."""
    inputs = case.draw(sample)
    truth = verify.expected(case, inputs, sample.layout)
    torch.use_deterministic_algorithms(deterministic)
    try:
        results = verify.evaluate(case, inputs.to(device=device_of(backend)), backend, sample.layout)
    finally:
        torch.use_deterministic_algorithms(False)
    found = []
    for name, expected in truth.items():
        error, allowed = (
            relative_error(results[name], expected),
            verify.allowed_error(case, inputs, name, results[name]),
        )
        if not error <= allowed:
            found.append(f"{case.name} {backend} {name}: {error:.1e} > {allowed:.1e} at {sample}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--ops", default="")
    parser.add_argument("--seconds", type=float, default=600.0, help="no call is begun after this long")
    options = parser.parse_args()
    register([options.backend])
    ops = options.ops.split(",") if options.ops else list(OP_CASES)
    ops = [op for op in ops if OP_CASES[op].runs_on(options.backend)]
    each = (
        [(OP_CASES[op], sample, d) for sample in samples(OP_CASES[op], options.backend) for d in (False, True)]
        for op in ops
    )
    calls = [call for turn in itertools.zip_longest(*each) for call in turn if call]  # operators in turn
    torch.utils.deterministic.fill_uninitialized_memory = False  # initcheck is to see it
    start, done, wrong = time.monotonic(), 0, []
    for case, sample, deterministic in calls:
        if time.monotonic() - start > options.seconds:
            break
        wrong += errors(case, sample, options.backend, deterministic)
        done += 1
    for line in wrong:
        print(f"WRONG {line}")
    print(f"{done} of {len(calls)} calls on {options.backend}, {len(wrong)} wrong results")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
