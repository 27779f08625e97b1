"""Measurements: cases, providers, the harness with its correctness gate, reports. Run by `stn-kernels bench`."""
