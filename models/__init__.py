"""Networks of five papers on the public API only, and the experiments that `stn-kernels train` runs.

jaderberg, finnveden, pstn, ddtn, estn: the networks, a file a paper. data, distortions: what they learn from.
experiments: what is trained and measured, a file a paper. training, timing, session, report: how.
"""
