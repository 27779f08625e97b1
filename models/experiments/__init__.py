"""Every experiment by its name: what `stn-kernels train --list` shows."""

from . import ddtn, estn, finnveden, jaderberg, pstn

EXPERIMENTS = {
    experiment.name: experiment
    for module in (finnveden, jaderberg, pstn, ddtn, estn)
    for experiment in module.EXPERIMENTS
}
