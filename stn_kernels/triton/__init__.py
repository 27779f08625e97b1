"""Triton kernels, imported on first use."""
