"""Finished runs as finetune.py leaves them, with made-up logits: for tests of what reads them, without training."""

import json
import zlib
from dataclasses import asdict

import numpy as np
import yaml

from timm_convattn.config import flat, parse_config
from timm_convattn.environment import describe_environment
from timm_convattn.predictions import Predictions
from timm_convattn.training.evaluation import score


def make_run(run, folder, sure=3.0):
    """Write the folder of a run whose logits are noise, plus `sure` for the true class."""
    place = folder / run.name
    place.mkdir(parents=True)
    rng = np.random.default_rng(zlib.crc32(run.name.encode()))
    labels, _ = run.data.validation_labels_and_frames()

    def predictions(labels):
        logits = rng.normal(size=(len(labels), len(run.data.class_names))).astype(np.float32)
        logits[np.arange(len(labels)), labels] += sure
        return Predictions(logits, labels.astype(np.int64), run.data.class_names)

    said = predictions(labels)
    said.save(place / 'validation.safetensors')
    if share := run.options.get('hold_out'):
        predictions(run.data.labels_and_frame_names(share)[0]).save(place / 'held_out.safetensors')
    start = ['--init-from', f'local-dir:{folder / run.start.name / "model"}'] if run.start else []
    config = flat(parse_config([*run.args(), *start, '--output', str(place)]))
    (place / 'config.yaml').write_text(yaml.safe_dump(config))
    data = {'source': run.data.source, 'origin': run.data.origin, 'repo_id': None, 'split': 'validation'}
    data |= {'sha256': run.data.validation_sha256, 'class_names': list(run.data.class_names)}
    command = f'finetune.py --data {run.data.source} --output={place}'
    environment = {**asdict(describe_environment()), 'command': command}
    record = {
        'model': {'architecture': run.options['model'], 'parameters': 11, 'input': {}},
        'data': data,
        'metrics': score(said),
        'environment': environment,
        'training': {'config': config, 'crops': {}, 'epochs': config['epochs'], 'steps': 1, 'seconds': 1.5},
    }
    (place / 'results.json').write_text(json.dumps(record))
    return place
