"""The folder of a run: claimed before work starts, found again to go on with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from timm_convattn.errors import InputError
from timm_convattn.files import write_text
from timm_convattn.training.config import Config, flat, parse_config

__all__ = ['choose_folder', 'claim_folder', 'hold_folder', 'lock_path', 'resume_config']

# what may differ between a run and its resumption: nothing that the weights depend on, but for how long to train
MAY_CHANGE = {
    *('epochs', 'output', 'resume', 'config', 'num_workers', 'compile'),
    *('tracker', 'evaluate_every', 'checkpoint_every', 'keep', 'threads', 'push_to_hub'),
}


def choose_folder(config: Config) -> Path:
    """Name the run folder, the same for all processes; nothing is written."""
    folder = str(config.run.output or Path('runs') / f'{config.model.model}-{datetime.now():%Y%m%d-%H%M%S}')
    return Path(broadcast_object_list([folder])[0])


@contextmanager
def hold_folder(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Keep other runs out of the folder as long as this one works on it.

    Raises:
        InputError: If another run works on it.
    """
    lock = FileLock(lock_path(folder))
    if accelerator.is_main_process:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise InputError(f'Another run works on {folder}. Wait for it, or give another --output.') from None
    try:
        yield
    finally:
        lock.release()


def lock_path(folder: Path) -> Path:
    """Give the file, beside the folder, that a run holds locked while it works; it stays when the run is over."""
    return folder.with_name(f'.{folder.name}.lock')


def claim_folder(folder: Path, config: Config, accelerator: Accelerator) -> None:
    """Make the folder of a new run and write its configuration there.

    Raises:
        InputError: If the folder holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f'{folder} already holds something. Give another --output, or go on with --resume {folder}.')
    accelerator.wait_for_everyone()  # all have looked before one writes
    if accelerator.is_main_process:
        options = {key: value for key, value in flat(config).items() if key not in ('config', 'output', 'resume')}
        write_text(folder / 'config.yaml', yaml.safe_dump(options, sort_keys=False))
    accelerator.wait_for_everyone()


def resume_config(config: Config, args: list[str]) -> Config:
    """Find the run to go on with and give its configuration, with what the command line changes.

    Args:
        config: The parsed command line, in which `run.resume` is given.
        args: The command line.

    Raises:
        InputError: If there is no such run, or the command line changes what a run cannot change.
    """
    if config.run.config is not None:
        raise InputError('--resume takes its options from the run, so --config has no meaning beside it.')
    folder = _find_run(str(config.run.resume), config.run.output)
    recorded = parse_config([], recipe=folder / 'config.yaml')
    asked = parse_config(args, recipe=folder / 'config.yaml')
    before, after = flat(recorded), flat(asked)
    changed = [f'{key} ({before[key]} -> {after[key]})' for key in before if before[key] != after[key]]
    refused = [change for change in changed if change.split()[0] not in MAY_CHANGE]
    if refused:
        raise InputError(
            f'The run in {folder} cannot go on with other options: {", ".join(refused)}. '
            'Leave them out, or start a new run with --init-from.'
        )
    return replace(asked, run=replace(asked.run, output=folder))


def _find_run(resume: str, output: Path | None) -> Path:
    folder = Path(resume)
    if resume == 'latest':
        runs = sorted(Path('runs').glob('*/config.yaml'), key=lambda path: path.stat().st_mtime)
        if output is None and not runs:
            raise InputError('There is no run in runs/ to go on with. Name its folder: --resume DIR.')
        folder = output or runs[-1].parent
    if not (folder / 'config.yaml').is_file():
        raise InputError(f'{folder} is no run folder: it has no config.yaml. Give the folder of a run to --resume.')
    return folder
