"""The command `stn-kernels`. Every command imports what it needs when it runs."""

import json
import os
import sys

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stn-kernels")
def main():
    """Kernels for spatial transformer networks: what is here, whether it is right, how fast it is."""


def _in_a_folder(context, parameter, path):
    """A click callback: hours of work should not end at a file that cannot be written."""
    if path and not os.access(os.path.dirname(path) or ".", os.W_OK):
        raise click.BadParameter(f"there is no folder for {path!r} that can be written to")
    return path


json_option = click.option(
    "--json", "json_file", type=click.Path(dir_okay=False), callback=_in_a_folder, help="Write the same to FILE."
)


def _names(kind: str, known):
    """A click callback that accepts names of `known()` only, given one by one or separated by commas."""

    def check(context, parameter, values):
        names = [name for value in values for name in value.split(",") if name]
        for name in names:
            if name not in known():
                raise click.BadParameter(f"{kind} must be one of {', '.join(sorted(known()))}, got {name!r}")
        return names or None

    return check


def _ops():
    from .op_cases import OP_CASES

    return OP_CASES


def _verified():
    from .op_cases import VERIFIED

    return VERIFIED


def _backends():
    from ._library import NAMESPACES

    return NAMESPACES


op_option = click.option("--op", "ops", multiple=True, callback=_names("op", _ops), help="An operator (default: all).")
case_option = click.option(
    "--op", "ops", multiple=True, callback=_names("op", _verified), help="An operator or a sampler (default: all)."
)
backend_option = click.option(
    "--backend", "backends", multiple=True, callback=_names("backend", _backends), help="A backend (default: all here)."
)


def _write_json(path, content):
    if path:
        with open(path, "w") as file:
            json.dump(content, file, indent=1)
            file.write("\n")


def _progress():
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    return Progress(*columns, console=Console(stderr=True))


TEXT_COLUMNS = ("op", "backend", "dtype", "padding", "quantity", "case", "provider", "", "reason")
TEXT_COLUMNS += ("name", "paper", "about", "networks", "network", "data")


def _table(title, *columns):
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in columns:
        numeric = name not in TEXT_COLUMNS
        table.add_column(name, justify="right" if numeric else "left", no_wrap=name == "name")
    return table


def _print(renderable):
    from rich.console import Console

    console = Console()
    console.print(renderable) if console.is_terminal else Console(width=150).print(renderable)


@main.command()
@json_option
def info(json_file):
    """What is installed, which backends run, why the others do not, and the command that adds them."""
    from .info import collect

    content = collect()
    table = _table("backends", "backend", "", "reason")
    for name, reason in content["backends"].items():
        table.add_row(name, "no" if reason else "yes", reason)
    _print(table)
    for name, value in content["versions"].items():
        click.echo(f"{name:<19}{value}")
    _write_json(json_file, content)


@main.command()
@case_option
@backend_option
@json_option
def verify(ops, backends, json_file):
    """Check every operator on every backend here against the float64 reference; exit 1 if a cell fails."""
    import torch

    from . import verify as checks

    torch.set_num_threads(1)  # the tensors are small: more threads would wait for each other
    try:
        total = len(checks.cells(ops, backends))
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    with _progress() as progress:
        task = progress.add_task("", total=total)
        records = checks.run(ops, backends, progress=lambda text: progress.update(task, advance=1, description=text))
    table = _table(
        "largest relative error / tolerance", "op", "backend", "dtype", "padding", "quantity", "error", "tolerance", ""
    )
    for r in records:
        checked = r.quantity.endswith("check")
        numbers = ("-", "-") if checked else (f"{r.error:.1e}", f"{r.tolerance:.1e}")
        table.add_row(r.op, r.backend, r.dtype, r.padding, r.quantity, *numbers, "ok" if r.passed else "FAILED")
    _print(table)
    _write_json(json_file, checks.as_json(records))
    failed = [r for r in records if not r.passed]
    for r in failed:
        click.echo(f"FAILED {r.cell}: error {r.error:.1e}, tolerance {r.tolerance:.1e}; {r.detail}")
    click.echo(f"{len(failed)} of {len(records)} cells failed" if failed else f"every cell passed ({len(records)})")
    sys.exit(1 if failed else 0)


@main.command()
@op_option
@backend_option
@click.option("--quick", is_flag=True, help="Fewer shapes and rounds: about two minutes on two cores.")
@click.option("--threads", default="1,2", show_default=True, help="CPU threads to measure with.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: cuda if there is one.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder of the results (default: stn-kernels-results).")
@json_option
def bench(ops, backends, quick, threads, device, out, json_file):
    """Measure every operator beside torch eager, torch.compile and kornia; wrong results get no ratio."""
    from . import bench as glue

    try:
        counts = [int(n) for n in threads.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"must be integers separated by commas, got {threads!r}", param_hint="--threads"
        ) from None
    if min(counts) < 1:
        raise click.BadParameter(f"must be positive, got {threads!r}", param_hint="--threads")
    try:
        plan = glue.plan(ops, backends, quick, counts, device)
    except (ImportError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    with _progress() as progress:
        task = progress.add_task("", total=len(plan.steps))
        rows = glue.run(plan, lambda text: progress.update(task, advance=1, description=text))
    for table in glue.tables(rows, _table):
        _print(table)
    for line in glue.gated_out(rows):
        click.echo(line)
    for path in glue.write(rows, out, quick):
        click.echo(f"wrote {path}")
    _write_json(json_file, rows)


@main.command()
@click.argument("name", type=click.Choice(["affine", "cpab", "linearized"]), default="affine")
@click.option("--out", type=click.Path(dir_okay=False), default="stn-kernels-demo.png", show_default=True)
@backend_option
@json_option
def demo(name, out, backends, json_file):
    """Photographs, with "cpab" a time series too, under several transformations; or aligned by "linearized" sampling.

    The first two save a picture of them side by side; the last one saves how far its gradients reach, and --json.
    """
    from .demo import contact_sheet

    backend = backends[0] if backends else None
    try:
        path = _linearized(out, backend, json_file) if name == "linearized" else contact_sheet(out, backend, name)
    except (ImportError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"wrote {path}")


def _linearized(out, backend, json_file):
    from dataclasses import asdict

    from . import demo_linearized as demonstration

    names = demonstration.SAMPLERS
    with _progress() as progress:
        task = progress.add_task("", total=len(demonstration.FACTORS) * len(demonstration.OFFSETS) * len(names))
        rows = demonstration.study(backend, lambda text: progress.update(task, advance=1, description=text))
    table = _table("starts from which a photograph is aligned again", "resolution", "offset", *names)
    cells = {(r.factor, r.offset, r.sampler): f"{100 * r.success:.0f} %" for r in rows}
    for factor in demonstration.FACTORS:
        for offset in demonstration.OFFSETS:
            table.add_row(f"1/{factor}", f"{offset}", *(cells[factor, offset, name] for name in names))
    _print(table)
    _write_json(json_file, [asdict(r) for r in rows])
    return demonstration.plot(rows, out, backend)


@main.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--list", "listing", is_flag=True, help="Show every experiment, and whether its data is here.")
@click.option("--preset", default="quick", show_default=True, help="quick: minutes on two cores; paper: its settings.")
@click.option("--seeds", type=click.IntRange(1), help="Runs of every network (default: the preset's).")
@click.option("--network", "networks", multiple=True, help="Only this network; may be repeated.")
@click.option("--device", default="cpu", show_default=True, help="Where to train.")
@click.option(
    "--out", type=click.Path(file_okay=False), default="runs", show_default=True, help="Folder of the results."
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoints in --out; the result is the same.")
@json_option
def train(names, listing, preset, seeds, networks, device, out, resume, json_file):
    """Train the papers' networks NAME... on real data; torchrun trains one on several processes."""
    try:
        from . import train as glue
    except ImportError as error:
        raise click.ClickException(f"{error}; run `pip install 'stn-kernels[train]'`") from None

    if listing or not names:
        table = _table("experiments", "name", "paper", "about", "networks", "data", "")
        for row in glue.listing():
            table.add_row(*row)
        _print(table)
        return
    found = []
    try:
        plans = glue.plans(names, preset, seeds, device, out, resume, networks or None)
        for plan in plans:
            with _progress() as progress:
                result = glue.run(progress, plan)
            if result is None:  # a process of torchrun that does not report
                continue
            summary, folder, heads, rows = result
            title = f"{summary['experiment']}, {preset}: mean (standard deviation over seeds)"
            table = _table(title, *heads)
            for row in rows:
                table.add_row(*row)
            _print(table)
            for line in glue.verdicts(summary):
                click.echo(line)
            click.echo(f"wrote {folder}")
            found.append(summary)
            _write_json(json_file, found)  # after each, so that none is lost if a later one fails
    except glue.ERRORS as error:
        raise click.ClickException(str(error)) from None


@main.command()
def build():
    """Compile the native libraries against the torch that is installed."""
    from . import _build

    for name, value in _build.configuration().items():
        click.echo(f"{name.lower():<16}{value}")
    try:
        lines = _build.build()
    except _build.BuildError as error:
        raise click.ClickException(f"the compiler failed:\n{error}") from None
    for line in lines:
        click.echo(line)
    if lines[0].startswith("cpu: not built"):
        sys.exit(1)


if __name__ == "__main__":
    main()
