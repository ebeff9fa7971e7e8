"""Options, recipes and their precedence."""

import dataclasses
import itertools
import json

import pytest
import torch
import yaml

from timm_convattn.config import Config, Trait, flat, options_with, parse_config, read_recipe
from timm_convattn.errors import InputError
from timm_convattn.training.loop import learning_rate
from timm_convattn.training.networks import create_network


def recipe(tmp_path, text):
    path = tmp_path / 'recipe.yaml'
    path.write_text(text)
    return path


def test_command_line_wins_over_recipe_and_recipe_over_defaults(tmp_path):
    path = recipe(tmp_path, 'epochs: 7\nlr: 1e-4\npretrained: true\nimg_size: [60, 48]\nmean: null\n')
    config = parse_config(['--config', str(path), '--epochs', '9', '--no-pretrained'])
    assert (config.train.epochs, config.train.lr, config.train.batch_size) == (9, 1e-4, 64)
    assert config.model.pretrained is False
    assert config.data.img_size == (60, 48)
    assert config.model.mean is None


@pytest.mark.parametrize(
    ('model', 'recipe_of', 'args'),
    [
        ('resnet50', 'aresnet50', []),
        ('aaresnet50', 'aresnet50', []),
        ('vgg16_gap', 'avgg16', []),
        ('aavgg16', 'avgg16', []),
        ('vit_base_patch16_224', 'aresnet50', ['--model-args', 'patch_size=12']),
    ],
)
def test_the_papers_recipes_build_its_baselines(root, model, recipe_of, args):
    recipe = root / 'train_scripts' / 'recipes' / f'{recipe_of}_paper.yaml'
    config = parse_config(['--config', str(recipe), '--model', model, '--no-pretrained', *args])
    network = create_network(config.model, ['person', 'vehicle', 'bicycle', 'dog'], (60, 60)).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 60, 60)).shape == (1, 4)


def test_a_recipe_changes_what_it_names_and_nothing_else(tmp_path):
    config = parse_config(['--config', str(recipe(tmp_path, 'seed: 3\nmean: 0.5\n'))])
    base = flat(Config())
    assert {key: value for key, value in flat(config).items() if value != base[key]} == {
        'config': str(tmp_path / 'recipe.yaml'),
        'seed': 3,
        'mean': [0.5],
    }


def test_the_defaults_are_the_quickstart_whose_results_the_readme_shows(root):
    recorded = json.loads((root / 'hub_cards' / 'results' / 'quickstart.json').read_text())['training']['config']
    of_that_machine = {'threads', *options_with(Trait.PER_CALL)}
    base = flat(parse_config([]))
    assert {key for key, value in recorded.items() if base[key] != value} <= of_that_machine


@pytest.mark.parametrize('epochs', ['7', '300'])
def test_help_shows_the_defaults_of_the_call(root, capsys, epochs):
    args = ['--config', str(root / 'train_scripts' / 'recipes' / 'avgg16_paper.yaml')] if epochs == '300' else []
    with pytest.raises(SystemExit):
        parse_config([*args, '--help'])
    shown = ' '.join(capsys.readouterr().out.replace('│', ' ').split())
    assert f'Passes over the training crops. (default: {epochs})' in shown


def test_every_shipped_recipe_parses_and_every_key_is_commented_or_grouped(root):
    recipes = sorted((root / 'train_scripts' / 'recipes').glob('*.yaml'))
    assert {path.name for path in recipes} == {'avgg16_paper.yaml', 'aresnet50_paper.yaml'}
    for path in recipes:
        config = parse_config(['--config', str(path)])
        wanted = yaml.safe_load(path.read_text())
        assert {key: flat(config)[key] for key in wanted} == wanted


@pytest.mark.parametrize(('name', 'optimizer'), [('avgg16_paper', 'momentum'), ('aresnet50_paper', 'adam')])
def test_paper_recipes_hold_the_papers_numbers(root, name, optimizer):
    train = parse_config(['--config', str(root / 'train_scripts' / 'recipes' / f'{name}.yaml')]).train
    assert (train.optimizer, train.lr, train.lr_decay, train.batch_size, train.epochs) == (
        optimizer,
        1e-4,
        1e-5,
        32,
        300,
    )
    assert (train.weight_decay, train.warmup_epochs, train.label_smoothing) == (0, 0, 0)
    assert learning_rate(train, 0, 1000) == 1e-4
    assert learning_rate(train, 100_000, 1000) == pytest.approx(1e-4 / 2)  # Keras: lr / (1 + decay * step)


def test_options_survive_being_written_and_read_back(tmp_path):
    config = parse_config(
        ['--img-size', '60', '48', '--mean', '0.5', '--ema', '--model-args', 'num_heads=4', '--lr', '3e-5']
    )
    path = recipe(tmp_path, yaml.safe_dump(flat(config)))
    again = read_recipe(path)
    assert again == config


def test_each_option_is_in_one_group():
    names = [
        f.name for group in dataclasses.fields(Config()) for f in dataclasses.fields(getattr(Config(), group.name))
    ]
    assert len(names) == len(set(names)) == len(flat(Config()))


def test_unknown_key_is_refused_and_the_nearest_one_named(tmp_path):
    path = recipe(tmp_path, 'epoch: 3\n')
    with pytest.raises(InputError, match=r'recipe.yaml: there is no option "epoch". Did you mean "epochs"\?'):
        parse_config(['--config', str(path)])


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('epochs: many\n', r"recipe\.yaml: epochs is 'many', wanted a whole number of at least 1\. finetune.py --help"),
        ('epochs: 0\n', r'epochs is 0, wanted a whole number of at least 1'),
        ('epochs: true\n', r'epochs is True, wanted a whole number'),
        ('schedule: linear\n', r"schedule is 'linear', wanted one of constant, cosine, inverse_time"),
        ('mean: {red: 0.5}\n', r'mean is .*, wanted a list of numbers or null'),
        ('- epochs\n', 'holds a list, wanted a mapping'),
        ('epochs: [3\n', 'is not a YAML file'),
        ('!!python/object/apply:os.system ["true"]\n', 'is not a YAML file'),
    ],
)
def test_recipe_that_cannot_be_used_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_recipe(recipe(tmp_path, text))


def test_missing_recipe_is_refused(tmp_path):
    with pytest.raises(InputError, match='There is no file'):
        parse_config(['--config', str(tmp_path / 'nowhere.yaml')])


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--epochs', '0'], 'epochs is 0, wanted a whole number of at least 1'),
        (['--lr', 'nan'], 'lr is nan, wanted a number of at least 0'),
        (['--hold-out', '1'], 'hold_out is 1.0, wanted a number of at least 0 and below 1'),
        (['--limit-train', '0'], 'limit_train is 0'),
        (['--lr-decay', '1e-5'], 'only schedule inverse_time reads'),
        (['--pretrained', '--init-from', 'local-dir:x'], 'pretrained and init_from both name'),
        (['--streaming', '--num-workers', '2'], 'num_workers is 2, but a stream is read by one process'),
        (['--in-chans', '3', '--mean', '0.5', '0.5'], r'mean has 2 numbers, wanted 1 or in_chans=3'),
    ],
)
def test_options_out_of_range_or_in_contradiction_are_refused(args, message):
    with pytest.raises(InputError, match=message):
        parse_config(args)


def test_unknown_flag_exits_and_names_the_nearest(capsys):
    with pytest.raises(SystemExit):
        parse_config(['--bach-size', '3'])
    assert '--batch-size' in capsys.readouterr().err


def test_cosine_schedule_warms_up_and_ends_at_zero():
    train = parse_config(['--epochs', '10', '--lr', '1', '--warmup-epochs', '1']).train
    rates = [learning_rate(train, step, 20) for step in range(200)]
    assert rates[0] == pytest.approx(1 / 20)
    assert max(rates) == rates[19] == rates[20] == 1
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[20:]))
    assert rates[-1] < 1e-4
