"""A matrix of runs: rows are runs, equal runs are one, and what cannot be run is refused before anything is."""

import copy
import re
from dataclasses import replace

import pytest
import yaml

from timm_convattn.config import flat, parse_config
from timm_convattn.errors import InputError
from timm_convattn.studies.data import open_study_data
from timm_convattn.studies.execution import create_task
from timm_convattn.studies.matrix import read_matrix

MATRIX = {
    'about': 'small',
    'seeds': [0, 1],
    'options': {'epochs': 1, 'img_size': 32},
    'studies': {
        'table2': {
            'rows': {
                'plain': {'model': 'resnet18', 'paper': 'ResNet50'},
                'ours': {'model': 'aresnet18_relmha', 'against': 'plain', 'lr': 0.01},
            }
        },
        'other': {'seeds': [1, 2], 'rows': {'the same': {'model': 'resnet18'}}},
        'grid': {'grid': {'of': {'model': 'aresnet18_relmha'}, 'num_heads': [1, 8], 'qk_ratio': [0.125, 1]}},
    },
}


@pytest.fixture
def write(tmp_path):
    def make(content=MATRIX):
        path = tmp_path / 'small.yaml'
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return path

    return make


@pytest.fixture(scope='module')
def data(tiny_crops, tmp_path_factory):
    return open_study_data(str(tiny_crops), 'four_class', tmp_path_factory.mktemp('crops'))


def test_every_row_and_seed_is_a_run_and_equal_runs_of_two_studies_are_one(write, data):
    matrix = read_matrix(write())
    runs = [*matrix.all_runs('table2', data), *matrix.all_runs('other', data)]
    assert [(run.options['model'], run.seed) for run in runs] == [
        *(('resnet18', 0), ('aresnet18_relmha', 0), ('resnet18', 1), ('aresnet18_relmha', 1)),  # seed by seed
        *(('resnet18', 1), ('resnet18', 2)),
    ]
    assert len({run.name for run in runs}) == 5
    assert all(re.fullmatch(r'a?resnet18\w*-s\d-[0-9a-f]{12}', run.name) for run in runs)


def test_a_row_that_is_added_leaves_the_names_of_the_others(write, data):
    before = {run.name for run in read_matrix(write()).all_runs('table2', data)}
    changed = copy.deepcopy(MATRIX)
    changed['studies']['table2']['rows']['more'] = {'model': 'vgg11'}
    after = {run.name for run in read_matrix(write(changed)).all_runs('table2', data)}
    assert before < after
    assert len(after) == 6


def test_name_depends_on_options_seed_and_crops_not_on_their_folder(write, data):
    run = next(iter(read_matrix(write()).all_runs('table2', data)))
    assert replace(run, data=replace(data, source='elsewhere')).name == run.name
    assert replace(run, options=dict(reversed(run.options.items()))).name == run.name
    others = [replace(run, seed=5), replace(run, options={**run.options, 'lr': 0.1})]
    others.append(replace(run, data=replace(data, sha256='0')))
    assert len({other.name for other in [run, *others]}) == 4


def test_name_changes_with_the_version_of_the_code(write, data, monkeypatch):
    run = next(iter(read_matrix(write()).all_runs('table2', data)))
    before = run.name
    monkeypatch.setattr('timm_convattn.studies.matrix.VERSION', 1000)
    assert run.name != before


def test_command_line_of_a_run_says_what_its_row_says(write, data, tiny_crops):
    run = read_matrix(write()).runs('table2', 'ours', data)[1]
    given = flat(parse_config(run.args()))
    assert given['data'] == str(tiny_crops)
    assert (given['model'], given['lr'], given['seed'], given['epochs']) == ('aresnet18_relmha', 0.01, 1, 1)
    assert flat(parse_config(run.args(processes=4)))['batch_size'] == 16  # of 64, which stay 64 together
    with pytest.raises(InputError, match='3 processes cannot share batches of 64'):
        run.args(processes=3)


def test_a_figure_is_read_off_the_runs_of_its_row_and_its_classes(write, data):
    content = copy.deepcopy(MATRIX)
    content['studies']['table2']['rows']['ours']['paper'] = 'AResNet50'
    matrix = read_matrix(write(content))
    for figure in ('fig7', 'fig8', 'fig9'):
        assert [run.options['model'] for run in matrix.all_runs(figure, data)] == ['aresnet18_relmha'] * 2
    assert list(matrix.all_runs('table1', data)) == []
    assert matrix.classes('table4') == ('two_class',)


def test_what_a_run_starts_from_comes_before_it_and_is_part_of_its_name(write, data, tmp_path):
    content = copy.deepcopy(MATRIX)
    content['studies']['table2']['rows']['ours']['start'] = 'plain'
    content['studies']['table2']['rows']['ours']['paper'] = 'AResNet50'
    matrix = read_matrix(write(content))
    plain, ours = matrix.runs('table2', 'plain', data), matrix.runs('table2', 'ours', data)
    assert [run.start for run in ours] == plain
    assert [run.start for run in plain] == [None, None]
    assert ours[0].name != replace(ours[0], start=None).name
    assert [run.name for run in matrix.all_runs('fig7', data)] == [
        run.name for pair in zip(plain, ours, strict=True) for run in pair
    ]
    task = create_task(ours[0], tmp_path, tmp_path / 'finetune.py')
    assert task.after == str(tmp_path / plain[0].name)
    assert flat(parse_config(task.args))['init_from'] == f'local-dir:{task.after}/model'
    kept = tmp_path / plain[0].name / 'results.json'
    kept.parent.mkdir()
    kept.touch()
    with pytest.raises(InputError, match='kept without weights'):
        create_task(ours[0], tmp_path, tmp_path / 'finetune.py')


def test_equal_budgets_become_epochs(write, data):
    changed = copy.deepcopy(MATRIX)
    changed['options'] = {'crops_seen': 100}
    (run, _) = read_matrix(write(changed)).runs('table2', 'plain', data)
    assert run.options['epochs'] == 4  # of 28 crops


def test_grid_is_a_row_for_each_combination(write):
    rows = read_matrix(write()).studies['grid'].arms
    assert list(rows)[1] == 'num_heads=1 qk_ratio=1'
    assert rows['num_heads=8 qk_ratio=0.125'].options['model_args'] == ['num_heads=8', 'qk_ratio=0.125']
    assert len(rows) == 4


@pytest.mark.parametrize('scale', ['cpu', 'full'])
def test_shipped_matrices_can_be_parsed_run_by_run(root, scale, data):
    matrix = read_matrix(root / 'train_scripts' / 'studies' / f'{scale}.yaml')
    assert {'table2', 'table3', 'fig10', 'imbalance', 'selective', 'stages'} <= matrix.studies.keys()
    assert matrix.about
    for study in matrix.studies:
        for run in matrix.all_runs(study, data):
            parse_config(run.args()).check()
    compared = matrix.studies['table2'].arms
    assert [row.paper for row in compared.values()] == [
        *('ViT', 'ResNet50', 'AAResNet50', 'AResNet50', 'VGG16', 'AAVGG16', 'AVGG16'),
    ]


@pytest.mark.parametrize(('row', 'recipe'), [('AResNet50', 'aresnet50_paper'), ('AVGG16', 'avgg16_paper')])
def test_full_matrix_trains_as_the_papers_recipes(root, data, row, recipe):
    scripts = root / 'train_scripts'
    run = read_matrix(scripts / 'studies' / 'full.yaml').runs('table2', row, data)[0]
    made = flat(parse_config(run.args()))
    path = str(scripts / 'recipes' / f'{recipe}.yaml')
    paper = flat(parse_config(['--data', str(run.data.source), '--config', path]))
    assert made == {**paper, 'evaluate_every': 10, 'config': None}


def test_small_matrix_leaves_no_choice_of_the_quickstart_to_the_defaults(root, data):
    run = read_matrix(root / 'train_scripts' / 'studies' / 'cpu.yaml').runs('table2', 'AResNet18', data)[0]
    chosen = {'img_size', 'in_chans', 'epochs', 'batch_size', 'optimizer', 'lr', 'weight_decay', 'schedule'}
    assert run.options.keys() >= chosen | {'warmup_epochs', 'label_smoothing', 'model'}


def test_full_matrix_has_every_cell_of_the_papers_figure_10(root):
    rows = read_matrix(root / 'train_scripts' / 'studies' / 'full.yaml').studies['fig10'].arms
    assert len(rows) == 4 * 4 * 2


def bent(path, value):
    content = copy.deepcopy(MATRIX)
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('studies: [', 'is not a YAML file'),
        ('a: 1', 'needs "studies"'),
        (bent(['studies', 'table2', 'rows'], {}), 'study table2 has no rows'),
        (
            bent(['studies', 'table2', 'rows', 'ours', 'lrr'], 1),
            'row ours: there is no option "lrr". Did you mean "lr"',
        ),
        (bent(['studies', 'table2', 'rows', 'ours', 'output'], 'x'), 'row ours: output cannot be given here'),
        (bent(['studies', 'table2', 'rows', 'ours', 'model'], '../x'), 'wanted the name of a timm model'),
        (
            bent(['studies', 'table2', 'rows', 'ours', 'against'], 'nobody'),
            'names nobody, but has the rows plain, ours',
        ),
        (bent(['studies', 'table2', 'rows', 'ours', 'start'], 'nobody'), 'names nobody, but has the rows plain, ours'),
        (bent(['studies', 'table2', 'rows', 'ours', 'start'], 'ours'), 'starts from itself (ours from ours)'),
        (bent(['studies', 'table2', 'rows', 'ours', 'start'], 3), 'start is 3, wanted the name of a row'),
        (bent(['studies', 'table2', 'rows', 'ours', 'init_from'], 'x'), 'init_from cannot be given here'),
        (bent(['studies', 'table2', 'rows', 'ours', 'crops_seen'], 5), 'both epochs and crops_seen'),
        (bent(['studies', 'table2', 'rows', 'ours'], {}), 'names no model'),
        (bent(['studies', 'a/b'], {'rows': {}}), "a study cannot be named 'a/b'"),
        (bent(['studies', 'fig7'], {'rows': {}}), "a study cannot be named 'fig7'"),
        (bent(['studies', 'table2', 'score'], 'auc'), "score 'auc', wanted one of accuracy, macro_f1"),
        (bent(['studies', 'table2', 'classes'], ['three']), 'wanted some of four_class, two_class'),
        (bent(['seeds'], [0, 0]), 'contain one twice'),
        (bent(['seeds'], 'all'), 'wanted a list of whole numbers'),
        (bent(['studies', 'grid', 'grid'], [1]), 'wanted {of: OPTIONS, NAME: [VALUES]}'),
    ],
)
def test_what_cannot_be_run_is_refused(write, content, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_matrix(write(content))


def test_unknown_study_and_missing_file_are_named(write, tmp_path):
    with pytest.raises(InputError, match=r"no study 'table9', but table2, other, grid"):
        read_matrix(write()).study('table9')
    with pytest.raises(InputError, match=r'There is no file .*none\.yaml, wanted a matrix of runs'):
        read_matrix(tmp_path / 'none.yaml')


def test_two_classes_are_cut_out_of_four_and_known_by_what_they_hold(tiny_crops, tmp_path):
    two = open_study_data(str(tiny_crops), 'two_class', tmp_path)
    assert two.class_names == ('person', 'vehicle')
    assert two.counts['train'] == {'person': 10, 'vehicle': 9}
    again = open_study_data(str(tiny_crops), 'two_class', tmp_path)
    assert again == two
    assert two.sha256 != open_study_data(str(tiny_crops), 'four_class', tmp_path).sha256
    with pytest.raises(InputError, match='has no crops of person, vehicle, bicycle, dog'):
        open_study_data(two.source, 'four_class', tmp_path)
