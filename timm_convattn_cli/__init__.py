"""The command line `timm-convattn`: what models there are, and what they make of images.

One file for each command: a dataclass that holds its options and whose `run` gives the exit status.
"""

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Union

import tyro

import timm_convattn
from timm_convattn.entry_point import entry_point
from timm_convattn_cli.data import Data
from timm_convattn_cli.explain import Explain
from timm_convattn_cli.export import Export
from timm_convattn_cli.info import Info
from timm_convattn_cli.models import Models
from timm_convattn_cli.predict import Predict

__all__ = ['main']

DESCRIPTION = """Convolutional-attentional networks for low-resolution infrared images.

MODEL is the name of a timm model with weights, hf-hub:OWNER/NAME, local-dir:FOLDER, or the folder of a run.

Exit status: 0 all is done; 1 something given cannot be used, and is named; 2 the command line cannot be read;
130 stopped by Ctrl-C.

$ timm-convattn COMMAND --help
$ timm-convattn --version
$ timm-convattn --tyro-print-completion bash > ~/.local/share/bash-completion/completions/timm-convattn"""

COMMANDS = {'models': Models, 'info': Info, 'predict': Predict, 'explain': Explain, 'export': Export, 'data': Data}


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and give its exit status.

    Args:
        args: The command line without the program's name. None: that of this process.

    Raises:
        SystemExit: If the command line cannot be parsed, asks for help, or gives what cannot be used.
    """
    args = sys.argv[1:] if args is None else args
    if list(args) == ['--version']:
        print(f'timm-convattn {timm_convattn.__version__}')
        return 0
    with entry_point():
        return _end_quietly(_parse(list(args)).run)


def _parse(args: list[str]) -> Models | Info | Predict | Explain | Export | Data:
    """Find the command and fill its options; the help of all commands together gives one line to each."""
    choices = [
        Annotated[command, tyro.conf.subcommand(name, description=None if args[:1] == [name] else _first_line(command))]
        for name, command in COMMANDS.items()
    ]
    parsed: Models | Info | Predict | Explain | Export | Data = tyro.cli(  # type: ignore[call-overload]  # a union that is made of a list
        Union[tuple(choices)],  # noqa: UP007
        prog='timm-convattn',
        description=DESCRIPTION,
        args=args or ['--help'],
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return parsed


def _first_line(command: type) -> str:
    return inspect.cleandoc(command.__doc__ or '').splitlines()[0]


def _end_quietly(run: Callable[[], int]) -> int:
    """Run, and end without a traceback where the user stops it, the reader of its output, or the disk."""
    try:
        status = run()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end of the process
        return 141
    except OSError as error:
        print(f'error: {error.filename or "the system"}: {error.strerror or error}', file=sys.stderr)
        return 1
