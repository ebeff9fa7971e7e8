"""Snippets and commands of the documents. Each command is parsed by the program that it calls."""

import re
import runpy
import shlex
import subprocess
import sys
import textwrap
import tomllib
from functools import partial, wraps
from pathlib import Path
from types import FunctionType
from unittest import mock

import pytest
import tyro

ROOT = Path(__file__).parent.parent
WHOLE = (
    r'(python3? (-m \w|\w+/)|accelerate launch .*\.py|timm-convattn [a-z-])'  # how a command within a sentence starts
)


def snippets(text: str, language: str) -> list[str]:
    """Return the fenced snippets of one language, in their order."""
    fences = re.findall(rf'^( *)```{language}\n(.*?)^\1```$', text, flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for _, code in fences]


def commands(text: str) -> list[list[str]]:
    """Return the commands of all shell snippets, and complete commands within the text, as words."""
    lines = [line for code in snippets(text, 'bash') for line in code.replace('\\\n', ' ').splitlines()]
    prose = re.sub(r'^( *)```.*?^\1```$', '', text, flags=re.DOTALL | re.MULTILINE)
    spans = [' '.join(span.split()) for span in re.findall(r'`([^`]+)`', prose)]
    lines += [span for span in spans if re.match(WHOLE, span)]
    words = [shlex.split(part, comments=True) for line in lines for part in line.split(' && ')]
    return [command for command in words if command]


def sections(text: str) -> dict[str, str]:
    """Return the text below each heading of the second level."""
    parts = re.split(r'^## (.+)$', text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def run_python(code: list[str], name: str) -> dict:
    """Run snippets one after the other, and return their global names."""
    names = {'__name__': '__snippet__'}
    for snippet in code:
        exec(compile(snippet, name, 'exec'), names)
    return names


def launched(words: list[str]) -> tuple[Path, list[str]]:
    """Let accelerate parse its part of a launch command; return the script and the script's arguments."""
    from accelerate.commands.launch import launch_command_parser

    assert words[:2] == ['accelerate', 'launch'], words
    args = launch_command_parser().parse_args(words[2:])
    assert args.config_file is None or (ROOT / args.config_file).is_file(), args.config_file
    return ROOT / args.training_script, args.training_script_args


def read_command(words: list[str]) -> None:
    """Let the program of a command parse its arguments, without running it.

    Fails if the program refuses them, or is not listed here.
    """
    program, *args = words
    known = {
        'accelerate': lambda _: read_script(*launched(['accelerate', *args])),
        'cd': lambda _: None,
        'git': _read_git,
        'hf': partial(_read_by_help, 'hf'),
        'mkdocs': partial(_read_by_help, 'mkdocs'),
        'pip': _read_pip,
        'pip-audit': lambda args: None if not args else pytest.fail(f'pip-audit {args}'),
        'pre-commit': _read_pre_commit,
        'pytest': _read_pytest,
        'python': _read_python,
        'python3': _read_python,
        'ruff': partial(_read_by_help, 'ruff'),
        'sbatch': _read_sbatch,
        'timm-convattn': _read_command_line,
    }
    name = Path(program).name
    if program.startswith('.ci/'):
        assert (ROOT / program).stat().st_mode & 0o100, f'{program} cannot be run'
        return
    assert name in known, f'no parser for "{shlex.join(words)}"'
    known[name](args)


class _ReadError(Exception):
    """The arguments were read: go no further."""


_TYRO = tyro.cli


def _stop_when_read(function, **kwargs):
    """Replace `tyro.cli`: parse the command line as it does, and stop."""
    if isinstance(function, FunctionType):  # it would run what it read

        @wraps(function)
        def target(*args, **kwargs):
            return None

        _TYRO(target, **kwargs)
    else:
        _TYRO(function, **kwargs)
    raise _ReadError


def read_script(script: Path, args: list[str]) -> None:
    """Let a script parse its command line as it does when it is started."""
    assert script.is_file(), f'there is no {script}'
    if script.name == 'finetune.py':  # which reads the recipe first
        from timm_convattn.config import parse_config

        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            parse_config(args)
        return
    if 'tyro' not in script.read_text():
        assert args == [], f'{script.name} takes no arguments'
        return
    _read_by_tyro(partial(runpy.run_path, str(script), run_name='__main__'), [script.name, *args])


def _read_by_tyro(start, argv: list[str]) -> None:
    patches = mock.patch.object(sys, 'argv', argv), mock.patch.object(tyro, 'cli', _stop_when_read)
    with patches[0], patches[1], pytest.raises(_ReadError):
        start()


def _read_command_line(args: list[str]) -> None:
    from timm_convattn_cli import main

    if args == ['--version']:
        return
    try:
        _read_by_tyro(main, ['timm-convattn', *args])
    except SystemExit as asked:  # --help and the like exit at once
        assert {'--help', '--tyro-print-completion'} & set(args) and not asked.code, args


def _read_python(args: list[str]) -> None:
    if args[0] != '-m':
        return read_script(ROOT / args[0], args[1:])
    module, *rest = args[1:]
    assert module in ('venv', 'build', 'timm_convattn.run'), f'no parser for python -m {module}'
    assert len(rest) >= (module != 'build')
    return None


def _read_pip(args: list[str]) -> None:
    extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
    assert args[0] == 'install'
    for named in re.findall(r'\[([\w,]+)\]', ' '.join(args)):
        assert set(named.split(',')) <= set(extras), f'there is no extra {named}'


def _read_pytest(args: list[str]) -> None:
    for path in (arg for arg in args if arg.startswith('tests')):
        assert (ROOT / path).exists(), f'there is no {path}'
    for number in (arg for index, arg in enumerate(args) if args[index - 1] == '-n'):
        assert number == 'auto' or number.isdigit()
    assert {arg for arg in args if arg.startswith('-')} <= {'-m', '-n', '-k'}, args


def _read_sbatch(args: list[str]) -> None:
    script = ROOT / args[0]
    subprocess.run(['bash', '-n', str(script)], check=True)
    read_script(ROOT / 'train_scripts' / 'finetune.py', args[1:])


def _read_by_help(program: str, args: list[str]) -> None:
    """Ask an external program for the help of its subcommand, and find each option in it."""
    subcommands = [arg for arg in args if not arg.startswith('-')]
    if not (Path(sys.prefix) / 'bin' / program).exists():
        return  # part of the extra `dev`; checked where that is installed
    asked = subprocess.run(
        [Path(sys.prefix) / 'bin' / program, *subcommands, '--help'], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    for option in (arg for arg in args if arg.startswith('--')):
        assert option in asked.stdout, f'{program} has no {option}'


def _read_pre_commit(args: list[str]) -> None:
    assert args in (['install'], ['run', '--all-files']), args
    assert (ROOT / '.pre-commit-config.yaml').is_file()


def _read_git(args: list[str]) -> None:
    assert args[0] in ('clone', 'switch'), args
