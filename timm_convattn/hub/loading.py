"""Weights from the Hub into its cache, safetensors or nothing."""

from pathlib import Path

import safetensors
import timm
import torch.nn as nn
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from timm.models import parse_model_name

from timm_convattn.errors import InputError
from timm_convattn.hub_errors import explain_hub_failures
from timm_convattn.rejection import FILE_NAME as REJECTION
from timm_convattn.rejection import Rejection

__all__ = ['check_weights', 'fetch_beside', 'fetch_weights', 'find_rejection', 'load_rejection']

WEIGHTS = 'model.safetensors'
PICKLES = ('.bin', '.pth', '.pt', '.ckpt', '.pkl', '.tar')


def fetch_weights(name: str) -> Path | None:
    """Bring what timm will load for a model into the cache, or refuse it.

    timm itself falls back to a pickle where there is no safetensors file.

    Args:
        name: What `timm.create_model` takes: a name with weights, hf-hub:OWNER/NAME[@REVISION], or local-dir:FOLDER.

    Returns:
        The file of weights; None for a name of timm whose weights are not on the Hub.

    Raises:
        InputError: If there is no model.safetensors, or it cannot be fetched.
    """
    source, place = parse_model_name(name)
    if source == 'local-dir':
        _check_folder(Path(place))
        return Path(place) / WEIGHTS
    if source == 'hf-hub':
        return _download(place, ('config.json', WEIGHTS))
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id:
        return None
    return _download(cfg.hf_hub_id, (cfg.hf_hub_filename or WEIGHTS,))


def check_weights(path: Path, model: nn.Module, name: str) -> None:
    """Refuse what loads without a word, and makes of a model what it was not: integers for floats, and no numbers.

    Args:
        path: The file of weights.
        model: The model that they were loaded into.
        name: Of the model, for the message.

    Raises:
        InputError: Naming the tensor.
    """
    with safetensors.safe_open(path, 'pt') as file:
        stored = set(file.keys())
        for key, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            kind = file.get_slice(key).get_dtype() if key in stored else 'F32'
            if not kind.startswith(('F', 'BF')):
                raise InputError(f'{name}: its weights {key} are of type {kind}, wanted floating point numbers.')
            if not value.isfinite().all():
                raise InputError(f'{name}: its weights {key} hold values that are no numbers. Train it again.')


def fetch_beside(name: str, file: str) -> Path | None:
    """Bring a file that lies beside a model's weights here; None where there is none.

    Args:
        name: hf-hub:OWNER/NAME[@REVISION], or local-dir:FOLDER; a name of timm has nothing beside its weights.
        file: Name of the file.

    Raises:
        InputError: If the Hub cannot be reached, or has no such repository.
    """
    source, place = parse_model_name(name)
    if source == 'local-dir':
        path = Path(place) / file
        return path if path.is_file() else None
    if source != 'hf-hub':
        return None
    repo_id, _, revision = place.partition('@')
    with explain_hub_failures(repo_id, f'fetch {file} of'):
        try:
            return Path(HfApi(library_name='timm-convattn').hf_hub_download(repo_id, file, revision=revision or None))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):
                raise
            return None


def _check_folder(folder: Path) -> None:
    if not (folder / 'config.json').is_file():
        raise InputError(f'{folder} holds no model: it has no config.json. A run has it in its folder model.')
    if not (folder / WEIGHTS).is_file():
        raise InputError(_no_safetensors(str(folder), [path.name for path in folder.iterdir()]))


def _download(place: str, files: tuple[str, ...]) -> Path:
    """Bring files into the cache, and say where the last one lies."""
    repo_id, _, revision = place.partition('@')
    api = HfApi(library_name='timm-convattn')
    with explain_hub_failures(repo_id, 'fetch the weights of'):
        for file in files:
            try:
                path = Path(api.hf_hub_download(repo_id, file, revision=revision or None))
            except EntryNotFoundError as error:
                if isinstance(error, LocalEntryNotFoundError) or file != WEIGHTS:
                    raise
                there = api.list_repo_files(repo_id, revision=revision or None)
                raise InputError(_no_safetensors(repo_id, there)) from None
    return path


def _no_safetensors(place: str, files: list[str]) -> str:
    pickles = [file for file in files if file.endswith(PICKLES)]
    seen = f'only {", ".join(pickles)}, which can run any code when it is opened' if pickles else 'no weights at all'
    return (
        f'{place} has no {WEIGHTS}, {seen}. Ask its owner for safetensors, or convert it yourself where that is safe.'
    )


def load_rejection(model: str) -> Rejection:
    """Find what a model needs in order to reject, beside its weights.

    Args:
        model: hf-hub:OWNER/NAME, or local-dir:FOLDER.

    Raises:
        InputError: If there is none, or it cannot be read.
    """
    path = fetch_beside(model, REJECTION)
    if path is None:
        raise InputError(
            f'{model} has no {REJECTION}, so nothing tells how sure it has to be. Fine-tune it with --hold-out 0.1: a '
            'tenth of the training frames is kept to find that out.'
        )
    return Rejection.load(path)


def find_rejection(name: str) -> Rejection | None:
    """Read what a model's run learned of its sureness, where it did."""
    if name.startswith('hf-hub:'):
        repo_id, _, revision = name.removeprefix('hf-hub:').partition('@')
        known = try_to_load_from_cache(repo_id, REJECTION, revision=revision or None)
        if known is not None and not isinstance(known, str):  # the cache remembers that there is none
            return None
    path = fetch_beside(name, REJECTION)
    return None if path is None else Rejection.load(path)
