"""Evaluate a trained model on a split of crops, exactly as its training run did.

Examples:
    python train_scripts/validate.py --model runs/NAME --data crops/four_class --out results.json
    python train_scripts/validate.py --model runs/NAME --data crops/four_class --reject-at 0.01
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import tyro
from accelerate import Accelerator

from timm_convattn.data.sources import open_crops
from timm_convattn.entry_point import entry_point
from timm_convattn.errors import InputError
from timm_convattn.figures import draw_predicted, plot_confusion_matrix, rejected_crops
from timm_convattn.inference import load_classifier
from timm_convattn.metrics import format_metrics
from timm_convattn.predictions import Predictions
from timm_convattn.results import RejectionResults, write_results
from timm_convattn.selective import confidence, format_answers, selective_metrics
from timm_convattn.training.evaluation import BATCH_SIZE, evaluate_model
from timm_convattn.training.processes import join_processes, use_threads

COLUMNS = 12  # drawn crops per class


@dataclass(frozen=True)
class Args:
    """The model, the crops and the outputs."""

    model: str
    """Folder of a run or a model, local-dir:FOLDER, hf-hub:OWNER/NAME, or the name of a timm model with weights."""
    data: str | None = None
    """Folder of crops (from build_dataset.py) or id of a dataset on the Hub. None: the embedded thermal scenes."""
    data_config: str | None = None
    """Configuration of the dataset on the Hub, such as two_class. None: its default configuration."""
    split: str = 'validation'
    """The split to evaluate on."""
    out: Path | None = None
    """JSON file to write the results to."""
    confusion_matrix: Path | None = None
    """PNG to draw the confusion matrix to."""
    reject_at: float | None = None
    """Target error rate: reject crops below the confidence threshold that keeps the share of wrong answers at most
    this. The threshold is chosen on the frames that the training run held out (finetune.py --hold-out)."""
    rejected: Path | None = None
    """PNG to draw rejected crops to, the least confident of each class."""
    batch_size: int = BATCH_SIZE
    """Batch size."""
    num_workers: int = 0
    """Number of processes that load crops."""
    threads: int | None = None
    """Number of CPU threads. None: one per core."""


def main(args: Args) -> None:
    """Evaluate the model and write the results."""
    if args.rejected is not None and args.reject_at is None:
        raise InputError('--rejected draws the crops that --reject-at rejects: give both.')
    classifier = load_classifier(args.model, args.reject_at)
    join_processes()
    accelerator = Accelerator(mixed_precision='no')
    use_threads(accelerator, args.threads)
    crops = open_crops(args.data, (args.split,), args.data_config)[args.split]
    results, predictions = evaluate_model(
        classifier.model, crops, args.data, args.split, accelerator, args.batch_size, args.num_workers
    )
    if not accelerator.is_main_process:
        return
    print(format_metrics(results.metrics))
    if args.reject_at is not None:
        confidences = confidence(predictions.logits, classifier.temperature)
        answers = selective_metrics(confidences, predictions.hits, classifier.threshold)
        found = RejectionResults(
            **asdict(answers), target_error_rate=args.reject_at, temperature=classifier.temperature
        )
        results = msgspec.structs.replace(results, rejection=found)
        print(format_answers(answers, args.reject_at))
        if args.rejected is not None:
            draw_rejected(args.rejected, crops, predictions, confidences, classifier.threshold)
    if args.out is not None:
        write_results(args.out, results)
    if args.confusion_matrix is not None:
        plot_confusion_matrix(results, args.confusion_matrix)


def draw_rejected(path: Path, crops: Any, predictions: Predictions, confidences: Any, threshold: float) -> None:
    """Draw the rejected crops, if there are any."""
    rows = rejected_crops(predictions, confidences, threshold, COLUMNS)
    if rows:
        draw_predicted(crops, predictions, confidences, rows, COLUMNS).savefig(path, dpi=120)
    else:
        print(f'no crop is rejected: {path} is not written')


if __name__ == '__main__':
    with entry_point():
        main(tyro.cli(Args, description=__doc__))
