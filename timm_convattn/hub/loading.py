"""Files of models, from their folders or from the Hub into its cache: safetensors only."""

from pathlib import Path

import safetensors
import timm
import torch.nn as nn
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from timm_convattn.errors import InputError
from timm_convattn.hub_errors import explain_hub_failures
from timm_convattn.model_source import ModelSource, Source
from timm_convattn.rejection import FILE_NAME as REJECTION
from timm_convattn.rejection import Rejection

__all__ = ['check_weights', 'fetch_file', 'fetch_weights', 'find_rejection', 'load_rejection']

WEIGHTS = 'model.safetensors'
PICKLES = ('.bin', '.pth', '.pt', '.ckpt', '.pkl', '.tar')


def fetch_file(source: Source, file: str) -> Path | None:
    """Return the path of a file of a model, fetched into the cache if it is on the Hub.

    Args:
        source: Any spelling of `ModelSource`.
        file: Name of the file.

    Returns:
        None if the model has no such file, or is a name of timm.

    Raises:
        InputError: If there is no such model, or the Hub cannot be reached.
    """
    source = ModelSource.parse(source).resolve()
    if source.folder is not None:
        path = source.folder / file
        return path if path.is_file() else None
    if source.repo_id is None:
        return None
    with explain_hub_failures(source.repo_id, f'fetch {file} of'):
        try:
            api = HfApi(library_name='timm-convattn')
            return Path(api.hf_hub_download(source.repo_id, file, revision=source.revision))
        except LocalEntryNotFoundError:  # there is no network; the cache remembers which files do not exist
            if try_to_load_from_cache(source.repo_id, file, revision=source.revision) is None:
                raise
            return None
        except EntryNotFoundError:
            return None


def fetch_weights(source: Source) -> Path | None:
    """Return the file of weights that timm will load, fetched into the cache if it is on the Hub.

    timm itself falls back to a pickle if there is no safetensors file.

    Args:
        source: Any spelling of `ModelSource`.

    Returns:
        None for a name of timm whose weights are not on the Hub.

    Raises:
        InputError: If there is no model.safetensors, or it cannot be fetched.
    """
    source = ModelSource.parse(source).resolve()
    file = WEIGHTS
    if source.name is not None:
        cfg = timm.get_pretrained_cfg(source.name)
        if cfg is None or not cfg.hf_hub_id:
            return None
        source, file = ModelSource.parse(f'hf-hub:{cfg.hf_hub_id}'), cfg.hf_hub_filename or WEIGHTS
    elif fetch_file(source, 'config.json') is None:
        raise InputError(f'{source} holds no model: it has no config.json.')
    path = fetch_file(source, file)
    if path is None:
        raise InputError(_no_safetensors(source, file))
    return path


def _no_safetensors(source: ModelSource, wanted: str) -> str:
    if source.folder is not None:
        files = [path.name for path in source.folder.iterdir()]
    else:
        repo_id = str(source.repo_id)
        with explain_hub_failures(repo_id, 'fetch the weights of'):
            files = HfApi(library_name='timm-convattn').list_repo_files(repo_id, revision=source.revision)
    pickles = [file for file in files if file.endswith(PICKLES)]
    seen = f'only {", ".join(pickles)}, which can run any code when it is opened' if pickles else 'no weights at all'
    where = source.repo_id or source.folder
    return f'{where} has no {wanted}, {seen}. Ask its owner for safetensors, or convert it yourself where that is safe.'


def check_weights(path: Path, model: nn.Module, name: str) -> None:
    """Check that loaded weights are floating point numbers and finite; integers load as floats without an error.

    Args:
        path: The file of weights.
        model: The model that they were loaded into.
        name: Name for the message.

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
                raise InputError(f'{name}: its weights {key} contain NaN or infinite values. Train it again.')


def load_rejection(source: Source) -> Rejection:
    """Load the calibration that a model needs to reject.

    Args:
        source: Any spelling of `ModelSource`.

    Raises:
        InputError: If there is none, or it cannot be read.
    """
    rejection = find_rejection(source)
    if rejection is None:
        raise InputError(
            f'{source} has no {REJECTION}, so its confidence is not calibrated. Fine-tune it with --hold-out 0.1, '
            'which calibrates it on a tenth of the training frames.'
        )
    return rejection


def find_rejection(source: Source) -> Rejection | None:
    """Load the calibration of a model if it has one.

    Raises:
        InputError: If it cannot be read.
    """
    path = fetch_file(source, REJECTION)
    return None if path is None else Rejection.load(path)
