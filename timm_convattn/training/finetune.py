"""Fine-tuning a timm model on crops, from the crops to the report."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import datasets
import torch
import torch.nn as nn
from accelerate import Accelerator, DistributedType
from accelerate.utils import set_seed

from timm_convattn.config import Config, DataConfig, flat
from timm_convattn.data.sources import class_names_of, open_crops
from timm_convattn.data.splits import hold_out_frames
from timm_convattn.data.streams import open_stream
from timm_convattn.errors import InputError
from timm_convattn.factory import load_network
from timm_convattn.figures import plot_confusion_matrix
from timm_convattn.files import explain_full_disk, replace_file, replace_folder, write_json
from timm_convattn.hub import save_model
from timm_convattn.hub.publishing import check_right_to_write, publish, run_publication
from timm_convattn.metrics import format_metrics
from timm_convattn.models.config import Preprocessing, model_data_config
from timm_convattn.rejection import Rejection
from timm_convattn.training.evaluation import evaluation_loader, evaluation_record, predict, use_threads
from timm_convattn.training.loop import Training
from timm_convattn.training.networks import create_network, network_input
from timm_convattn.training.processes import join_processes
from timm_convattn.training.run_folder import choose_folder, claim_folder, hold_folder

__all__ = ['finetune']


def finetune(config: Config) -> Path:
    """Fine-tune a model, evaluate what was saved, leave a run folder, and publish it where that is asked for.

    The folder holds `config.yaml`, `log.jsonl` (a line an epoch), `checkpoints/`, `model/` (for
    `timm.create_model('local-dir:...')`), `results.json`, `confusion_matrix.png` and `validation.safetensors`, the
    logits of each crop (`Predictions`). With `data.hold_out` it also holds `held_out.safetensors`, and the model
    `rejection.json`.

    Args:
        config: What to do. With `run.resume`, a configuration that `parse_run` returned.

    Returns:
        The run folder.

    Raises:
        InputError: If options, data or weights cannot be used; nothing is written then.
        Interrupted: If a signal asked for it; a checkpoint was written.
    """
    config.check()
    join_processes()
    folder = choose_folder(config)
    accelerator = _create_accelerator(config, folder)
    use_threads(accelerator, config.run.threads)
    if config.run.push_to_hub and accelerator.is_main_process:
        check_right_to_write(config.run.push_to_hub)  # now, not after hours of training
    set_seed(config.run.seed)
    with accelerator.main_process_first():
        crops = _open_crops(config.data)
    class_names = class_names_of(crops['validation'])
    if class_names_of(crops['train']) != class_names:
        raise InputError('The splits train and validation have different classes.')
    img_size = (config.data.img_size,) * 2 if isinstance(config.data.img_size, int) else config.data.img_size
    with accelerator.main_process_first():  # one download, if any
        model = create_network(config.model, class_names, img_size)
    data_config = network_input(config.model, model, img_size)

    held_out = None
    if config.data.hold_out:
        crops['train'], held_out = hold_out_frames(crops['train'], config.data.hold_out)
    train = Training(config, accelerator, model, crops, class_names, data_config, folder)
    again = f'Make room, then go on with --resume {folder}, or begin anew if it holds no config.yaml yet.'
    with explain_full_disk(folder, again), hold_folder(folder, accelerator):
        if config.run.resume is None:
            claim_folder(folder, config, accelerator)
        train.run()
        trained = train.weights()
        if accelerator.is_main_process:
            _save_finished(trained, folder / 'model', class_names, data_config)
        accelerator.wait_for_everyone()
        _report(config, accelerator, crops['validation'], held_out, folder, train)
    accelerator.end_training()
    if config.run.push_to_hub and accelerator.is_main_process:
        _publish(folder, config.run.push_to_hub)
    return folder


def _open_crops(config: DataConfig) -> dict[str, Any]:
    """Open the splits train and validation."""
    if not config.streaming:
        return dict(open_crops(config.data, ('train', 'validation'), config.data_config))
    train, validation = (open_stream(config.data, split, config.data_config) for split in ('train', 'validation'))
    return {'train': train, 'validation': validation.load()}


def _create_accelerator(config: Config, folder: Path) -> Accelerator:
    tracker = None if config.run.tracker == 'none' else config.run.tracker
    if tracker is not None and importlib.util.find_spec(tracker) is None:  # accelerate would go on without a word
        raise InputError(f"{tracker} is not installed: pip install 'timm-convattn[track]', or give --tracker none.")
    os.environ.setdefault('TRACKIO_DIR', str(folder / 'trackio'))
    try:
        accelerator = Accelerator(
            mixed_precision=config.run.mixed_precision,
            gradient_accumulation_steps=config.train.gradient_accumulation,
            log_with=tracker,
            project_dir=folder,
        )
    except (ValueError, ImportError) as error:
        raise InputError(f'accelerate cannot start: {error}') from error
    if accelerator.mixed_precision == 'fp16' and accelerator.device.type == 'cpu':  # accelerate would go on in float32
        raise InputError('fp16 needs a GPU, this run has a cpu. Give --mixed-precision bf16, or no.')
    if config.train.sync_batchnorm and accelerator.num_processes > 1 and accelerator.device.type == 'cpu':
        raise InputError('torch synchronises batch norms on GPUs alone: leave --sync-batchnorm out.')
    if config.train.ema and accelerator.distributed_type == DistributedType.FSDP:
        raise InputError('No process has all weights to average where FSDP shares them out: give --no-ema.')
    return accelerator


def _save_finished(model: nn.Module, folder: Path, class_names: list[str], data_config: Preprocessing) -> None:
    with replace_folder(folder) as beside:
        save_model(model.to(memory_format=torch.contiguous_format), beside, class_names, data_config)


def _publish(folder: Path, repo_id: str) -> None:
    try:
        print(f'published: {publish(run_publication(folder, repo_id))}')
    except InputError as error:
        again = f'python train_scripts/publish.py --run {folder} --repo-id {repo_id}'
        raise InputError(f'{error} The run is complete; publish it with: {again}') from None


def _report(
    config: Config,
    accelerator: Accelerator,
    validation: datasets.Dataset,
    held_out: datasets.Dataset | None,
    folder: Path,
    train: Training,
) -> None:
    """Evaluate the model that was saved, as `validate.py` does, and write what came out."""
    model, names = load_network(f'local-dir:{folder / "model"}')
    source, num_workers = config.data.data, config.data.num_workers
    record, predictions = evaluation_record(
        model, names, validation, source, 'validation', accelerator, num_workers=num_workers
    )
    chosen_on = None
    if held_out is not None:
        loader = accelerator.prepare(evaluation_loader(held_out, model_data_config(model), num_workers=num_workers))
        chosen_on = predict(model, loader, accelerator, names, progress=True)
    if not accelerator.is_main_process:
        return
    predictions.save(folder / 'validation.safetensors')
    if chosen_on is not None:
        chosen_on.save(folder / 'held_out.safetensors')
        Rejection.learn(chosen_on).save(folder / 'model')
    record['training'] = {
        'config': flat(config),
        'crops': train.class_counts(),
        'epochs': train.progress.epoch,
        'steps': train.progress.step,
        'seconds': round(train.progress.seconds, 1),
    }
    with replace_file(folder / 'confusion_matrix.png') as beside:
        plot_confusion_matrix(record, beside)
    write_json(folder / 'results.json', record)
    accelerator.print(format_metrics(record['metrics']))
    accelerator.print(f'run folder: {folder}')
