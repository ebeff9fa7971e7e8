"""Files and folders that appear whole or not at all: written beside, then renamed; and files that people write.

What is renamed lies on the disk before: a machine that loses power leaves the old or the new, and nothing between.
"""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from timm_convattn.errors import InputError

__all__ = [
    'describe_free_space',
    'explain_full_disk',
    'file_beside',
    'fresh_folder',
    'read_yaml',
    'renewed_folder',
    'sync',
    'sync_folder',
    'write_bytes',
    'write_json',
    'write_text',
]

# what a disk says that takes no more; Windows knows no quotas
REFUSALS = {errno.ENOSPC, errno.EROFS, errno.EFBIG, getattr(errno, 'EDQUOT', errno.ENOSPC)}


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
        sync_folder(beside)
        if out.exists():
            out.rmdir()
        beside.rename(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync(out.parent)


@contextmanager
def renewed_folder(out: Path) -> Iterator[Path]:
    """Give a place for a folder that takes that of `out` when the block ends well, and goes away when it does not."""
    beside = out.with_name(f'.{out.name}')
    shutil.rmtree(beside, ignore_errors=True)  # what a process that died left there
    try:
        yield beside
        sync_folder(beside)
        shutil.rmtree(out, ignore_errors=True)
        beside.rename(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync(out.parent)


@contextmanager
def file_beside(path: Path) -> Iterator[Path]:
    """Give a place for a file that takes that of `path` when the block ends well, and goes away when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f'.{path.name}')
    try:
        yield beside
        sync(beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync_folder(folder: Path) -> None:
    """Have a folder on the disk, with everything in it."""
    for path in (*folder.rglob('*'), folder):
        sync(path)


def sync(path: Path) -> None:
    """Have a file on the disk, or the names in a folder, where the system can."""
    if path.is_dir() and os.name == 'nt':
        return
    descriptor = os.open(path, os.O_RDWR if os.name == 'nt' else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # some shared disks write no folders
            raise
    finally:
        os.close(descriptor)


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
    with file_beside(path) as beside:
        beside.write_bytes(content)


@contextmanager
def explain_full_disk(folder: Path, hint: str) -> Iterator[None]:
    """Turn what a disk that takes no more leads to into a sentence.

    Args:
        folder: Where the block writes.
        hint: What to do.

    Raises:
        InputError: If the disk is full, its quota is used up, or nothing can be written to it.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # those who write from Rust or C++ say it in errors of their own
        if not _is_refusal(error):
            raise
        named = getattr(error, 'filename', None)
        where = Path(named) if isinstance(named, str) else folder
        raise InputError(f'{where} could not be written ({error}); {describe_free_space(where)}. {hint}') from error


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in REFUSALS
    return any(os.strerror(number) in str(error) for number in REFUSALS)


def describe_free_space(folder: Path) -> str:
    """Say how much room is left where a folder is, or would be."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return f'{shutil.disk_usage(place).free / 1e6:,.0f} MB are free on its disk'
