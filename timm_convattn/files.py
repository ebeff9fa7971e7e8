"""Atomic writes of files and folders, explanations of a full disk, and YAML files.

A file or folder is written under a temporary name in the same folder, flushed to disk with fsync, then renamed: after a
crash or a loss of power there is either the old version or the complete new one.
"""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from timm_convattn.errors import InputError

__all__ = [
    'create_folder',
    'describe_free_space',
    'explain_full_disk',
    'read_yaml',
    'replace_file',
    'replace_folder',
    'sync',
    'sync_folder',
    'write_bytes',
    'write_json',
    'write_text',
]

# errors of a disk that cannot be written to; Windows has no EDQUOT
DISK_ERRORS = {errno.ENOSPC, errno.EROFS, errno.EFBIG, getattr(errno, 'EDQUOT', errno.ENOSPC)}


@contextmanager
def create_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, which is renamed to `out` if the block succeeds, and removed if it fails.

    Raises:
        InputError: If `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f'{out} already exists, wanted a new or empty folder. Choose another path, or remove it.')
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    temporary.chmod(0o755)  # mkdtemp makes folders for their owner alone
    with _moved(temporary, out, clear=_remove_empty):
        yield temporary


@contextmanager
def replace_folder(out: Path) -> Iterator[Path]:
    """Yield a path for a folder, which replaces `out` if the block succeeds, and is removed if it fails."""
    temporary = out.with_name(f'.{out.name}')
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    with _moved(temporary, out, clear=partial(shutil.rmtree, ignore_errors=True)):
        yield temporary


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a path for a file, which replaces `path` if the block succeeds, and is removed if it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}')
    with _moved(temporary, path, clear=lambda _: None):
        yield temporary


@contextmanager
def _moved(temporary: Path, out: Path, clear: Callable[[Path], object]) -> Iterator[None]:
    """Flush and rename what the block wrote to `temporary`; `clear` is called with `out` before."""
    try:
        yield
        sync_folder(temporary)
        clear(out)
        temporary.replace(out)
    except BaseException:
        temporary.unlink() if temporary.is_file() else shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(out.parent)


def _remove_empty(folder: Path) -> None:
    if folder.exists():
        folder.rmdir()


def sync_folder(path: Path) -> None:
    """Flush a file, or a folder with everything in it, to disk."""
    for child in path.rglob('*') if path.is_dir() else ():
        sync(child)
    sync(path)


def sync(path: Path) -> None:
    """Flush a file, or the list of names in a folder, to disk, where the system can."""
    if path.is_dir() and os.name == 'nt':
        return
    descriptor = os.open(path, os.O_RDWR if os.name == 'nt' else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # some network disks refuse folders
            raise
    finally:
        os.close(descriptor)


def read_yaml(path: Path, wanted: str, hint: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        InputError: If it is missing or holds something else; `wanted` is the expected content for the message.
    """
    if not path.is_file():
        raise InputError(f'There is no file {path}, wanted {wanted}. {hint}')
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # impossible dates are a ValueError
        raise InputError(f'{path} is not a YAML file: {error}') from error
    if not isinstance(content, dict):
        raise InputError(f'{path} holds a {type(content).__name__}, wanted {wanted}.')
    return content


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2) + '\n')


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replace_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def explain_full_disk(folder: Path, hint: str) -> Iterator[None]:
    """Turn errors of the disk of a folder into an `InputError`.

    Raises:
        InputError: If the disk is full or read-only, or its quota is used up. `hint` says what to do.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries in Rust and C++ raise other errors than OSError
        if not _is_disk_error(error):
            raise
        filename = getattr(error, 'filename', None)
        path = Path(filename) if isinstance(filename, str) else folder
        raise InputError(f'{path} could not be written ({error}); {describe_free_space(path)}. {hint}') from error


def _is_disk_error(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in DISK_ERRORS
    return any(os.strerror(number) in str(error) for number in DISK_ERRORS)


def describe_free_space(path: Path) -> str:
    """Describe the free space of the disk of a path, which need not exist."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return f'{shutil.disk_usage(existing).free / 1e6:,.0f} MB are free on its disk'
