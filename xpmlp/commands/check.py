"""``xpmlp check``: compare a backend with NumPy in float64."""

import click


@click.command()
@click.option("--backend", default="auto", show_default=True, help="Library and device: cupy, torch:cuda, …")
@click.pass_context
def check(context: click.Context, backend: str) -> None:
    """Compare a backend with NumPy in float64.

    Checks the forward pass, the loss, every gradient, 100 steps of each optimizer and the round trip of arrays. It does
    so in float32 and float64, with plain and compiled kernels. The exit code is 0 if all figures are within their
    bounds, else 1.
    """
    from xpmlp.backends import get_backend, own_process
    from xpmlp.benchmark.checking import check_backend

    own_process(backend, "float64")
    chosen = get_backend(backend)
    for what, said in {"backend": str(chosen), **chosen.describe(), "note": chosen.note}.items():
        if said:
            click.echo(f"{what:<10}{said}")
    click.echo(f"{'':<42}{'kernels':<10}{'dtype':<9}{'error':>9}  {'bound':>7}")
    within = []
    for measured in check_backend(backend):
        within.append(measured.is_within)
        error, bound = (".2g", ".0e") if measured.bound else (".0f", ".0f")
        figures = f"{measured.error:>9{error}}  {measured.bound:>7{bound}}{'' if measured.is_within else '  OUTSIDE'}"
        click.echo(f"{measured.what:<42}{measured.kernels:<10}{measured.dtype:<9}{figures}")
    if outside := within.count(False):
        click.echo(f"{chosen.name}: {outside} of {len(within)} figures are outside their bounds")
        context.exit(1)
    click.echo(f"{chosen.name}: all {len(within)} figures are within their bounds")
