"""Fine-tune a timm model on crops, from the crops to the results."""

from pathlib import Path

import msgspec
import torch
import torch.nn as nn
from accelerate.utils import set_seed

from timm_convattn.config import Config, flat
from timm_convattn.errors import InputError
from timm_convattn.factory import load_model
from timm_convattn.figures import plot_confusion_matrix
from timm_convattn.files import explain_full_disk, replace_file, replace_folder
from timm_convattn.hub import save_model
from timm_convattn.hub.publishing import check_right_to_write, publish, run_publication
from timm_convattn.metrics import format_metrics
from timm_convattn.models.config import Preprocessing, model_data_config
from timm_convattn.rejection import Rejection
from timm_convattn.results import TrainingSummary, write_results
from timm_convattn.training.evaluation import evaluate_model, evaluation_loader, predict
from timm_convattn.training.loop import Training
from timm_convattn.training.networks import create_network, network_input
from timm_convattn.training.processes import join_processes, use_threads
from timm_convattn.training.run_folder import choose_folder, claim_folder, lock_folder
from timm_convattn.training.setup import create_accelerator, open_splits

__all__ = ['finetune']


def finetune(config: Config) -> Path:
    """Fine-tune a model, evaluate the saved model, and publish it if `run.push_to_hub` names a repository.

    The run folder holds `config.yaml`, `log.jsonl` (one line per epoch), `checkpoints/`, `model/` (for
    `timm.create_model('local-dir:...')`), `results.json`, `confusion_matrix.png` and `validation.safetensors`, the
    logits of each crop (`Predictions`). With `data.hold_out` it also holds `held_out.safetensors` and
    `model/rejection.json`.

    Args:
        config: The configuration. With `run.resume`, one that `parse_run` returned.

    Returns:
        The run folder.

    Raises:
        InputError: If options, data or weights cannot be used; nothing is written then.
        Interrupted: If a signal stopped the run; a checkpoint was written.
    """
    config.check()
    join_processes()
    folder = choose_folder(config)
    accelerator = create_accelerator(config, folder)
    use_threads(accelerator, config.run.threads)
    if config.run.push_to_hub and accelerator.is_main_process:
        check_right_to_write(config.run.push_to_hub)  # before hours of training
    set_seed(config.run.seed)
    with accelerator.main_process_first():
        splits = open_splits(config.data, config.run.seed)
    img_size = (config.data.img_size,) * 2 if isinstance(config.data.img_size, int) else config.data.img_size
    with accelerator.main_process_first():  # one process downloads the weights
        model = create_network(config.model, splits.class_names, img_size)
    preprocessing = network_input(config.model, model, img_size)
    train = Training(config, accelerator, model, splits, preprocessing, folder)
    hint = f'Make room, then use --resume {folder}, or repeat the command if the folder has no config.yaml.'
    with explain_full_disk(folder, hint), lock_folder(folder, accelerator):
        if config.run.resume is None:
            claim_folder(folder, config, accelerator)
        train.run()
        trained = train.weights()
        if accelerator.is_main_process:
            _save(trained, folder / 'model', splits.class_names, preprocessing)
        accelerator.wait_for_everyone()
        _report(train)
    accelerator.end_training()
    if config.run.push_to_hub and accelerator.is_main_process:
        _publish(folder, config.run.push_to_hub)
    return folder


def _save(model: nn.Module, folder: Path, class_names: list[str], preprocessing: Preprocessing) -> None:
    with replace_folder(folder) as temporary:
        save_model(model.to(memory_format=torch.contiguous_format), temporary, class_names, preprocessing)


def _publish(folder: Path, repo_id: str) -> None:
    try:
        print(f'published: {publish(run_publication(folder, repo_id))}')
    except InputError as error:
        again = f'python train_scripts/publish.py --run {folder} --repo-id {repo_id}'
        raise InputError(f'{error} The run is complete; publish it with: {again}') from None


def _report(train: Training) -> None:
    """Evaluate the saved model, as `validate.py` does, and write the results to the run folder."""
    accelerator, folder, splits, progress = train.accelerator, train.folder, train.splits, train.progress
    model = load_model(folder / 'model')
    source, num_workers = train.config.data.data, train.config.data.num_workers
    results, predictions = evaluate_model(
        model, splits.validation, source, 'validation', accelerator, num_workers=num_workers
    )
    held_out = None
    if splits.held_out is not None:
        loader = evaluation_loader(splits.held_out, model_data_config(model), num_workers=num_workers)
        held_out = predict(model, accelerator.prepare(loader), accelerator, predictions.class_names, progress=True)
    if not accelerator.is_main_process:
        return
    predictions.save(folder / 'validation.safetensors')
    if held_out is not None:
        held_out.save(folder / 'held_out.safetensors')
        Rejection.learn(held_out).save(folder / 'model')
    training = TrainingSummary(
        flat(train.config), splits.class_counts(), progress.epoch, progress.step, round(progress.seconds, 1)
    )
    results = msgspec.structs.replace(results, training=training)
    with replace_file(folder / 'confusion_matrix.png') as temporary:
        plot_confusion_matrix(results, temporary)
    write_results(folder / 'results.json', results)
    accelerator.print(format_metrics(results.metrics))
    accelerator.print(f'run folder: {folder}')
