"""Files and folders that appear whole or not at all: written beside, then renamed; and files that people write."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from timm_convattn.errors import InputError

__all__ = ['describe_free_space', 'fresh_folder', 'read_yaml', 'write_bytes', 'write_json', 'write_text']


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """Give a folder to fill that becomes `out` when the block ends well, and goes away when it does not.

    Raises:
        InputError: If `out` exists and holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f'{out} already holds something. Name a folder that does not exist, or remove this one.')
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    try:
        yield beside
        beside.chmod(0o755)  # mkdtemp's folders are for their owner alone
        if out.exists():
            out.rmdir()
        beside.rename(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def read_yaml(path: Path, wanted: str, hint: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: The file.
        wanted: What it should hold, for the message.
        hint: Where such files are.

    Raises:
        InputError: If it is missing, or holds something else.
    """
    if not path.is_file():
        raise InputError(f'There is no file {path}, wanted {wanted}. {hint}')
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates that do not exist are a ValueError
        raise InputError(f'{path} is no YAML file: {error}') from error
    if not isinstance(content, dict):
        raise InputError(f'{path} holds a {type(content).__name__}, wanted {wanted}.')
    return content


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + '\n')


def write_text(path: Path, text: str) -> None:
    """Write a text file beside its place and move it there."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f'.{path.name}')
    beside.write_bytes(content)
    beside.replace(path)


def describe_free_space(folder: Path) -> str:
    """Say how much room is left where a folder is, or would be."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return f'{shutil.disk_usage(place).free / 1e6:,.0f} MB are free on its disk'
