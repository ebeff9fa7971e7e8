"""The command line `timm-convattn`.

It is not part of the package `timm_convattn`, whose import registers the models with timm and so takes the seconds that
torch and timm need: `--help`, `models` and mostly `info` answer without them. `commands` declares the commands; the
module with the name of a command implements it as `run(options)`, which returns the exit status.
"""

import atexit
import gc
import inspect
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Union

import tyro

from timm_convattn_cli.commands import COMMANDS, Command, Data, Explain, Export, Info, Models

__all__ = ['main']

DESCRIPTION = """Convolutional-attentional networks for low-resolution infrared images.

MODEL is the folder of a run or a model, local-dir:FOLDER, hf-hub:OWNER/NAME, hf-hub:OWNER/NAME@REVISION, or the name of
a timm model with weights.

Exit status:
    0    success
    1    invalid input, described on standard error
    2    invalid command line
    130  stopped by Ctrl-C

Examples:
    timm-convattn COMMAND --help
    timm-convattn --version
    timm-convattn --tyro-print-completion bash > ~/.local/share/bash-completion/completions/timm-convattn"""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        args: The command line without the program's name. None: that of this process.

    Raises:
        SystemExit: If the command line is invalid or asks for help.
    """
    args = sys.argv[1:] if args is None else list(args)
    if args == ['--version']:
        print(f'timm-convattn {version("timm-convattn")}')
        return 0
    options = _parse(args)
    atexit.register(gc.freeze)  # else the interpreter collects everything that torch and timm created, for a second
    try:
        status = _run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end of the process
        return 141
    except OSError as error:
        print(f'error: {error.filename or "the system"}: {error.strerror or error}', file=sys.stderr)
        return 1
    except ValueError as error:
        from timm_convattn.errors import InputError

        if not isinstance(error, InputError):
            raise
        print(f'error: {error}', file=sys.stderr)
        return 1


def _parse(args: list[str]) -> Command:
    """Parse the command line. The help of all commands together shows one line for each."""
    choices = [
        Annotated[command, tyro.conf.subcommand(name, description=None if args[:1] == [name] else _first_line(command))]
        for name, command in COMMANDS.items()
    ]
    parsed: Command = tyro.cli(  # type: ignore[call-overload]  # a union that is built from a list
        Union[tuple(choices)],  # noqa: UP007
        prog='timm-convattn',
        description=DESCRIPTION,
        args=args or ['--help'],
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return parsed


def _run(options: Command) -> int:
    """Run a command; its module is imported only now."""
    if isinstance(options, Models):
        from timm_convattn_cli import models

        return models.run(options)
    if isinstance(options, Info):
        from timm_convattn_cli import info

        return info.run(options)
    if isinstance(options, Explain):
        from timm_convattn_cli import explain

        return explain.run(options)
    if isinstance(options, Export):
        from timm_convattn_cli import export

        return export.run(options)
    if isinstance(options, Data):
        from timm_convattn_cli import data

        return data.run(options)
    from timm_convattn_cli import predict

    return predict.run(options)


def _first_line(command: type) -> str:
    return inspect.cleandoc(command.__doc__ or '').splitlines()[0]
