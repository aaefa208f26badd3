"""``xpmlp backends``: which array libraries can run here."""

import click


@click.command()
def backends() -> None:
    """List the array libraries on this machine.

    Prints version, device and free memory, or why a library cannot run. Each is tried in its own process.
    """
    from xpmlp.backends.base import format_bytes
    from xpmlp.backends.probe import probe_all

    for report in probe_all():
        if report.problem is not None:
            said = report.problem.removeprefix(f"{report.spec} cannot run: ")
            click.echo(f"{report.spec:<26} cannot run: {said}")
        else:
            memory = "memory unknown" if report.memory is None else f"{format_bytes(report.memory)} free"
            click.echo(f"{report.spec:<26} {report.version:<12} {report.device:<24} {memory}")
