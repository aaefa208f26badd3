"""The command line ``xpmlp``: one file per command."""

import os
import platform
import sys
from collections.abc import Sequence

import click

import xpmlp
from xpmlp.commands._signals import Interrupted, raising
from xpmlp.commands.backends import backends
from xpmlp.commands.bench import bench
from xpmlp.commands.check import check
from xpmlp.commands.compare import compare
from xpmlp.commands.data import data
from xpmlp.commands.evaluate import evaluate
from xpmlp.commands.export import export
from xpmlp.commands.predict import predict
from xpmlp.commands.train import as_flags, train
from xpmlp.communication import abort, find_launch, is_first_of_host, wait_for_rank_0
from xpmlp.errors import ConfigError, JoiningError, XpmlpError, expected_one_of


class _Commands(click.Group):
    """The commands by their names; a misspelt name is refused with the nearest one."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return a command's name, itself and its arguments."""
        name = args[0]
        if name not in self.commands and not name.startswith("-") and not context.resilient_parsing:
            raise click.UsageError(f"unknown command {name!r}: {expected_one_of(name, self.commands)}", context)
        return super().resolve_command(context, args)


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(xpmlp.__version__, message="xpmlp %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Train multilayer perceptrons on any array library: NumPy, CuPy, PyTorch, JAX."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (train, evaluate, predict, export, compare, data, backends, check, bench):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None, *, command: click.Command = cli, program: str = "xpmlp") -> int:
    """Run a command and return its exit code.

    A user's error is one line on stderr and exit code 2; Ctrl-C is 130, SIGTERM 143. With several ranks, one prints the
    line and ends the others. The arguments are the process's by default. `program` is the name in help and errors.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # "×" must not raise on a terminal without it
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with raising():
            _require_one_process(command, arguments)
            code = command.main(arguments, program, standalone_mode=False)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else program
        message = error.format_message().rstrip(".")
        return _fail(path, f"{message}{' See' if message.endswith('?') else '; see'} {path} --help")
    except XpmlpError as error:
        if isinstance(error, JoiningError) and not is_first_of_host():
            wait_for_rank_0()
            return 2
        return _fail(program, as_flags(str(error)) if isinstance(error, ConfigError) else str(error))
    except Interrupted as interrupted:
        return _fail(program, str(interrupted), interrupted.exit_code)
    except (KeyboardInterrupt, click.Abort):  # if no handler could be set
        return _fail(program, "interrupted", 130)
    except (BrokenPipeError, SystemExit):  # the output's reader has gone (click then exits with 1): print no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        abort(141)
        return 141
    except OSError as error:
        return _fail(program, f"{error.filename or 'writing failed'}: {error.strerror or error}")
    return code if isinstance(code, int) else 0


def _require_one_process(command: click.Command, arguments: Sequence[str]) -> None:
    """Refuse several copies of a command that would all write the same files; only training shares its work."""
    launch = find_launch()
    if launch is None or (launch.size or 1) == 1:
        return
    name = next((word for word in arguments if word in cli.commands), None) if command is cli else command.name
    if name not in (None, "train") and not {"-h", "--help"} & set(arguments):
        raise JoiningError(
            f"{name} is for one process, and an MPI launcher has started {launch.size}: run it without the launcher"
        )


def _fail(who: str, message: str, code: int = 2) -> int:
    wait_for_rank_0()
    launch = find_launch()
    where = f"rank {launch.rank} on {platform.node()}: " if launch and launch.rank > 0 else ""  # rank 0 prints for all
    click.echo(f"{who}: {where}{' '.join(message.split())}", err=True)
    abort(code)
    return code
