"""`make gpu`: builds, tests, checks, measures and profiles the kernels on a machine with a GPU, part by part."""
