"""What is measured on a GPU, the most important first: a run that is out of time leaves the end out."""

from dataclasses import replace

import torch

from ..cases import Case, all_cases, label

PAPER_SUITES = ("large", "papers", "layout", "dtype", "samples", "matrices", "overhead")
SUITES = (*PAPER_SUITES, "cpab", "linearized", "samplers", "volumes")
# Beyond every cache, where the share of the copy bandwidth counts: batch, channels and size with more than 64 MB.
LARGE = ((64, 1, 512, 512), (64, 3, 512, 512), (64, 64, 112, 112))
TINY = 6  # most channels, height and width of a rehearsal


def large_cases() -> list[Case]:
    cases = [Case("affine_sample", label(s), "large", s) for s in LARGE]
    cases += [Case("affine_sample", f"{label(s)} channels last", "large", s, channels_last=True) for s in LARGE[1:]]
    half = {"dtype": torch.bfloat16}
    cases.append(Case("affine_sample", f"{label(LARGE[1])} bfloat16", "large", LARGE[1], **half))
    name = f"{label(LARGE[2])} bfloat16 channels last"
    cases.append(Case("affine_sample", name, "large", LARGE[2], channels_last=True, **half))
    others = ("grid_sample", "homography_sample", "tps_sample", "affine_grid", "homography_grid", "tps_grid")
    return cases + [Case(op, label(LARGE[1]), "large", LARGE[1]) for op in others]


def gpu_cases(ops=None, tiny: bool = False) -> list[Case]:
    """The cases of `ops` (None: all) on random images; tiny: one of every suite and operator, shrunk to rehearse."""
    cases = [
        case for case in large_cases() + all_cases(ops) if case.suite in SUITES and (ops is None or case.op in ops)
    ]
    cases = sorted((replace(case, noise=True) for case in cases), key=lambda case: SUITES.index(case.suite))
    if not tiny:
        return cases
    chosen = {}
    for case in cases:
        if case.suite not in {c.suite for c in chosen.values()} or case.op not in {c.op for c in chosen.values()}:
            chosen[case.suite, case.op] = case
    return [_shrunk(case) for case in chosen.values()]


def _shrunk(case: Case) -> Case:
    _, channels, *size = case.shape
    shape = (1, min(channels, TINY), *(min(n, TINY) for n in size))
    return replace(case, shape=shape, out_size=None, samples=case.samples and 2)
