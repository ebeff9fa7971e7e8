"""Cards state what the results contain."""

import json

import msgspec
import pytest
import yaml
from huggingface_hub import ModelCard

from timm_convattn.errors import InputError
from timm_convattn.hub.cards import model_card, weights_origin
from timm_convattn.results import RunResults, read_results


@pytest.fixture
def results(finished_run):
    return read_results(finished_run / 'results.json', RunResults)


@pytest.fixture
def record(finished_run):
    return json.loads((finished_run / 'results.json').read_text())


def test_model_index_holds_every_metric_of_the_results(results, record):
    card = ModelCard(model_card(results, 'you/x', 'apache-2.0'))
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    metrics = record['metrics']
    expected = {'Accuracy': metrics['accuracy'], 'Macro F1': metrics['macro_f1'], 'Weighted F1': metrics['weighted_f1']}
    expected['Cross entropy'] = metrics['loss']
    for name in ('person', 'vehicle', 'bicycle'):  # there are no crops of dogs to evaluate
        scores = metrics['per_class'][name]
        expected |= {f'{kind.capitalize()} ({name})': scores[kind] for kind in ('precision', 'recall', 'f1')}
    assert found == {name: pytest.approx(value, abs=1e-6) for name, value in expected.items()}
    assert card.data.library_name == 'timm'
    assert card.data.pipeline_tag == 'image-classification'
    assert card.data.license == 'apache-2.0'


def test_card_lists_weaknesses_and_classes_without_evaluation(results, record):
    text = model_card(results, 'you/x')
    assert 'Not evaluated: dog.' in text
    assert 'Its confidence was not calibrated' in text
    assert f'Rarest class in training: dog, 0 of {sum(record["training"]["crops"].values())} crops' in text
    assert f'accelerate launch train_scripts/{record["environment"]["command"]}' in text


def test_card_changes_with_its_results(results):
    metrics = msgspec.structs.replace(results.metrics, accuracy=0.123456)
    assert '0.1235' in model_card(msgspec.structs.replace(results, metrics=metrics))
    assert '0.1235' not in model_card(results)


def test_recipe_in_a_card_can_be_parsed(results, tmp_path):
    from timm_convattn.config import parse_config

    text = model_card(results)
    (tmp_path / 'recipe.yaml').write_text(text.split('```yaml\n')[1].split('```')[0])
    config = parse_config(['--config', str(tmp_path / 'recipe.yaml')])
    assert config.model.model == 'aresnet18_relmha'
    assert config.train.batch_size == 8
    assert 'output' not in yaml.safe_load((tmp_path / 'recipe.yaml').read_text())


def test_results_without_training_are_refused(results):
    with pytest.raises(InputError, match='The results lack training'):
        model_card(msgspec.structs.replace(results, training=None))


@pytest.mark.parametrize(
    ('options', 'base_model', 'license'),
    [
        ({}, None, None),
        ({'pretrained': True}, 'timm/resnet50.a1_in1k', 'apache-2.0'),
        ({'pretrained': True, 'model': 'vgg16'}, 'timm/vgg16.tv_in1k', 'bsd-3-clause'),
        (
            {'pretrained': True, 'model': 'convattn', 'model_args': ['backbone=convnext_tiny.fb_in1k', 'stage=-1']},
            'timm/convnext_tiny.fb_in1k',
            'apache-2.0',
        ),
        ({'init_from': 'hf-hub:you/model@main'}, 'you/model', None),
        ({'init_from': 'local-dir:runs/x/model'}, None, None),
        ({'pretrained': True, 'model_args': ['pretrained_cfg_overlay={file: x}']}, None, None),
    ],
)
def test_card_names_the_weights_that_the_run_started_from(options, base_model, license):
    defaults = {'model': 'aresnet50_relmha', 'pretrained': False, 'init_from': None, 'model_args': []}
    origin = weights_origin({**defaults, **options})
    assert (origin.base_model, origin.license) == (base_model, license)
