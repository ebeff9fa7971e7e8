"""Finished runs as finetune.py leaves them, with made-up logits: for tests of what reads them, without training."""

import zlib
from dataclasses import replace

import numpy as np
import yaml

from timm_convattn.config import flat, parse_config
from timm_convattn.environment import describe_environment
from timm_convattn.predictions import Predictions
from timm_convattn.results import RunData, RunModel, RunResults, TrainingSummary, write_results
from timm_convattn.training.evaluation import score


def make_run(run, folder, gain=3.0):
    """Write the folder of a run whose logits are noise, plus `gain` for the true class."""
    path = folder / run.name
    path.mkdir(parents=True)
    rng = np.random.default_rng(zlib.crc32(run.name.encode()))
    labels, _ = run.data.validation_labels_and_frames()

    def predictions(labels):
        logits = rng.normal(size=(len(labels), len(run.data.class_names))).astype(np.float32)
        logits[np.arange(len(labels)), labels] += gain
        return Predictions(logits, labels.astype(np.int64), run.data.class_names)

    validation = predictions(labels)
    validation.save(path / 'validation.safetensors')
    if share := run.options.get('hold_out'):
        predictions(run.data.labels_and_frame_names(share)[0]).save(path / 'held_out.safetensors')
    start = ['--init-from', f'local-dir:{folder / run.start.name / "model"}'] if run.start else []
    config = flat(parse_config([*run.args(), *start, '--output', str(path)]))
    (path / 'config.yaml').write_text(yaml.safe_dump(config))
    results = RunResults(
        model=RunModel(run.options['model'], 11, {}),
        data=RunData(
            source=run.data.source,
            origin=run.data.origin,
            split='validation',
            sha256=run.data.validation_sha256,
            class_names=list(run.data.class_names),
        ),
        metrics=score(validation),
        environment=replace(describe_environment(), command=f'finetune.py --data {run.data.source} --output={path}'),
        training=TrainingSummary(config, {}, config['epochs'], 1, 1.5),
    )
    write_results(path / 'results.json', results)
    return path
