"""Every experiment by its name: what `stn-kernels train --list` shows."""

from . import ddtn, finnveden, jaderberg, pstn

EXPERIMENTS = {
    experiment.name: experiment for module in (finnveden, jaderberg, pstn, ddtn) for experiment in module.EXPERIMENTS
}
