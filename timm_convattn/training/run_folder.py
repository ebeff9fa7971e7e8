"""The folder of a run: locked and created before training, and read to resume the run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from timm_convattn.config import Config, Trait, flat, named_paths, options_with, parse_config, read_recipe
from timm_convattn.errors import InputError
from timm_convattn.files import write_text
from timm_convattn.model_source import ModelSource

__all__ = ['choose_folder', 'claim_folder', 'lock_folder', 'lock_path', 'parse_run']


def choose_folder(config: Config) -> Path:
    """Choose the run folder, the same in all processes; nothing is written."""
    title = ModelSource.parse(config.model.model).title
    folder = str(config.run.output or Path('runs') / f'{title}-{datetime.now():%Y%m%d-%H%M%S}')
    return Path(broadcast_object_list([folder])[0])


@contextmanager
def lock_folder(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Lock the folder against other runs within the block.

    Raises:
        InputError: If another run has locked it.
    """
    lock = FileLock(lock_path(folder))
    if accelerator.is_main_process:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise InputError(f'Another run works on {folder}. Wait for it, or name another --output.') from None
    try:
        yield
    finally:
        lock.release()


def lock_path(folder: Path) -> Path:
    """Return the lock file next to the folder, which is not removed after the run."""
    return folder.with_name(f'.{folder.name}.lock')


def claim_folder(folder: Path, config: Config, accelerator: Accelerator) -> None:
    """Create the folder of a new run and write its configuration there.

    Raises:
        InputError: If the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f'{folder} is not empty. Name another --output, or resume the run in it: --resume {folder}.')
    accelerator.wait_for_everyone()  # until all have checked
    if accelerator.is_main_process:
        left_out = options_with(Trait.PER_CALL)
        options = {key: value for key, value in flat(config).items() if key not in left_out}
        write_text(folder / 'config.yaml', yaml.safe_dump(options, sort_keys=False))
    accelerator.wait_for_everyone()


def parse_run(args: Sequence[str], description: str | None = None) -> Config:
    """Parse the command line of a run as `parse_config` does; with `--resume`, the base is the run to resume.

    Raises:
        InputError: If there is no run to resume, or the command line changes an option that cannot change.
    """
    named = named_paths(args)
    if named.resume is None:
        return parse_config(args, description=description)
    if named.config is not None:
        raise InputError('--resume takes its options from the run: leave out --config.')
    folder = _find_run(named.resume, named.output)
    recorded = read_recipe(folder / 'config.yaml')
    config = parse_config(args, recorded, description)
    before, after = flat(recorded), flat(config)
    can_change = options_with(Trait.NEUTRAL, Trait.EXTENDABLE)
    refused = [key for key in before if before[key] != after[key] and key not in can_change]
    if refused:
        changes = ', '.join(f'{key} ({before[key]} -> {after[key]})' for key in refused)
        raise InputError(
            f'The run in {folder} cannot be resumed with other options: {changes}. '
            'Leave them out, or start a new run with --init-from.'
        )
    return replace(config, run=replace(config.run, output=folder))


def _find_run(resume: str, output: str | None) -> Path:
    folder = Path(resume)
    if resume == 'latest':
        runs = sorted(Path('runs').glob('*/config.yaml'), key=lambda path: path.stat().st_mtime)
        if output is None and not runs:
            raise InputError('There is no run in runs/ to resume. Name its folder: --resume DIR.')
        folder = runs[-1].parent if output is None else Path(output)
    if not (folder / 'config.yaml').is_file():
        raise InputError(f'{folder} is not a run folder: it has no config.yaml. Name that of a run: --resume DIR.')
    return folder
