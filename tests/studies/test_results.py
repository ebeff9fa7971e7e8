"""Results are held against their runs; what does not fit is named and left out, and nothing overwrites another."""

import json
import re
import shutil

import numpy as np
import pytest
import yaml
from studies.made_runs import make_run

from timm_convattn.data.crops import build_crops
from timm_convattn.errors import InputError
from timm_convattn.predictions import Predictions
from timm_convattn.redact import strip_local_paths
from timm_convattn.studies import sections
from timm_convattn.studies.data import open_study_data
from timm_convattn.studies.evidence import read_evidence
from timm_convattn.studies.findings import gather, read_run, run_folders
from timm_convattn.studies.history import read_history
from timm_convattn.studies.matrix import read_matrix
from timm_convattn.studies.report import write_report
from timm_convattn.studies.summary import summarize
from timm_convattn.studies.tables import study_table

# what a report reads of a results file
READ = [
    *('model.architecture', 'model.parameters'),
    *('data.source', 'data.split', 'data.sha256', 'data.class_names'),
    *('metrics.accuracy', 'metrics.macro_f1', 'metrics.weighted_f1', 'metrics.loss'),
    *('metrics.per_class', 'metrics.confusion_matrix'),
    *('environment.date', 'environment.commit', 'environment.versions', 'environment.hardware.processes'),
    *('environment.hardware.threads', 'environment.hardware.cpu', 'environment.hardware.gpus'),
    *('training.config', 'training.epochs', 'training.seconds'),
]
ROWS = {
    'ResNet18': {'model': 'resnet18', 'paper': 'ResNet50'},
    'AResNet18': {'model': 'aresnet18_relmha', 'against': 'ResNet18', 'paper': 'AResNet50'},
}
MATRIX = {
    'seeds': [0, 1],
    'options': {'img_size': 32, 'in_chans': 1, 'batch_size': 8, 'epochs': 1, 'lr': 0.001},
    'studies': {'table2': {'rows': ROWS}},
}


@pytest.fixture(scope='module')
def data(tiny_crops, tmp_path_factory):
    return open_study_data(str(tiny_crops), 'four_class', tmp_path_factory.mktemp('crops'))


@pytest.fixture
def write(tmp_path):
    def make(name='small', **changes):
        path = tmp_path / f'{name}.yaml'
        path.write_text(yaml.safe_dump({**MATRIX, **changes}, sort_keys=False))
        return path

    return make


@pytest.fixture(scope='module')
def made_once(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('made')
    (folder / 'small.yaml').write_text(yaml.safe_dump(MATRIX, sort_keys=False))
    matrix = read_matrix(folder / 'small.yaml')
    for run in matrix.all_runs('table2', data):
        make_run(run, folder / 'runs')
    return matrix, folder / 'runs'


@pytest.fixture
def made(made_once, tmp_path):
    """A study of two rows and two seeds, to be damaged: its matrix and the folder of its runs."""
    matrix, runs = made_once
    shutil.copytree(runs, tmp_path / 'runs')
    return matrix, tmp_path / 'runs'


def add_study(out, matrix_path, data, study='table2'):
    """Add a study to the history."""
    out.mkdir(exist_ok=True)
    entry = {'command': 'reproduce.py', 'matrix': str(matrix_path), 'study': study, 'source': data.source}
    with (out / 'history.jsonl').open('a') as history:
        history.write(json.dumps({**entry, 'classes': 'four_class'}) + '\n')


def bend(path, key, value=None, delete=False):
    """Change a value of a JSON file, by its dotted name."""
    record = json.loads(path.read_text())
    *parts, last = key.split('.')
    parent = record
    for part in parts:
        parent = parent[part]
    if delete:
        del parent[last]
    else:
        parent[last] = value
    path.write_text(json.dumps(record))


def first_results(runs):
    return sorted(runs.glob('aresnet18*-s0-*/results.json'))[0]


def only_problem(made, data):
    """Gather, and give the one sentence about what was left out."""
    matrix, runs = made
    findings = gather(matrix, 'table2', data, run_folders(runs))
    assert [len(finished) for finished in findings.arms.values()] == [2, 1]
    (problem,) = findings.problems
    assert 'to repeat the run.' in problem
    return problem


def read(run, runs):
    return read_run(run, run_folders(runs), run.data.validation_labels_and_frames()[0])


def refusal(made, data):
    """Read the results file that was damaged, and return why it is refused."""
    matrix, runs = made
    with pytest.raises(InputError) as refused:
        read(matrix.runs('table2', 'AResNet18', data)[0], runs)
    return str(refused.value)


def test_a_run_that_is_left_out_is_named_below_the_table_of_the_others(made, data):
    bend(first_results(made[1]), 'metrics.macro_f1', delete=True)
    assert 'missing required field `macro_f1` - at `$.metrics`' in only_problem(made, data)
    table = study_table(summarize(gather(made[0], 'table2', data, run_folders(made[1])), 'small'))
    assert table.notes[-1].startswith('Left out: aresnet18_relmha-s0-')
    assert [cells[:2] for cells in table.rows] == [('ResNet18', '2'), ('AResNet18', '1')]


def test_runs_that_fit_have_no_problem(made, data):
    matrix, runs = made
    findings = gather(matrix, 'table2', data, run_folders(runs))
    assert (findings.problems, findings.unfinished) == ([], 0)
    assert summarize(findings, 'small').arms[1].difference.seeds == 2


@pytest.mark.parametrize('key', [*READ, 'metrics', 'environment', 'model', 'data', 'environment.hardware'])
def test_a_results_file_that_lost_a_key_is_named_and_left_out(made, data, key):
    bend(first_results(made[1]), key, delete=True)
    parent, _, name = f'$.{key}'.rpartition('.')
    where = '' if parent == '$' else f' - at `{parent}`'
    assert f'cannot be read as RunResults (Object missing required field `{name}`{where})' in refusal(made, data)


def test_results_without_training_are_named_and_left_out(made, data):
    bend(first_results(made[1]), 'training', delete=True)
    assert 'its results have no training' in only_problem(made, data)


@pytest.mark.parametrize('key', READ)
@pytest.mark.parametrize('wrong', [True, [[]]], ids=['truth', 'list'])
def test_a_results_file_with_a_value_of_a_wrong_type_is_named_and_left_out(made, data, key, wrong):
    if wrong == [[]] and key in ('data.class_names', 'metrics.confusion_matrix', 'environment.hardware.gpus'):
        wrong = 'text'
    bend(first_results(made[1]), key, wrong)
    kind = {bool: 'bool', str: 'str', list: 'array'}[type(wrong)]
    assert re.search(rf'as RunResults \(Expected `.+`, got `{kind}` - at `\$\.{re.escape(key)}`\)', refusal(made, data))


@pytest.mark.parametrize('key', READ)
def test_a_results_file_with_nan_is_named_and_left_out(made, data, key):
    bend(first_results(made[1]), key, float('nan'))
    assert 'cannot be read as RunResults (JSON is malformed: invalid character' in refusal(made, data)


@pytest.mark.parametrize('content', ['[]', 'null', '"x"', '{"metrics": ', '[' * 100_000, '\x00'])
def test_a_file_that_holds_no_results_is_named_and_left_out(made, data, content):
    first_results(made[1]).write_text(content)
    assert 'cannot be read as RunResults' in refusal(made, data)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('metrics.accuracy', 0.999, 'its results have accuracy 0.999, its logits 1.0'),
        ('metrics.macro_f1', 0.5, 'its results have macro_f1 0.5'),
        ('metrics.per_class', {}, 'its results have per_class {}'),
        ('metrics.per_class.person.f1', 0.1, 'its results have per_class'),
        ('metrics.per_class.person.f1', 'x', 'got `str` - at `$.metrics.per_class[...].f1`'),
        ('metrics.confusion_matrix', [[1]], r'its results have confusion_matrix [[1]]'),
        ('training.config.seed', 1, 'it has other options than the study: seed 1 instead of 0'),
        ('training.config.lr', 0.1, 'it has other options than the study: lr 0.1 instead of 0.001'),
        ('training.config.model', 'resnet18', "model 'resnet18' instead of 'aresnet18_relmha'"),
        ('training.config.init_from', 'local-dir:runs/x/model', "init_from 'local-dir:runs/x/model' instead of None"),
        ('data.sha256', 'f' * 64, 'its results were measured on other crops (ffffffffffff)'),
        ('data.class_names', ['person'], 'its results were measured on other crops'),
    ],
)
def test_results_that_are_not_those_of_their_run_are_named_and_left_out(made, data, key, value, message):
    bend(first_results(made[1]), key, value)
    assert message in only_problem(made, data)


def test_only_options_of_the_study_have_to_be_recorded(made, data):
    path = first_results(made[1])
    bend(path, 'training.config.focal_gamma', delete=True)  # the study does not give it
    assert gather(made[0], 'table2', data, run_folders(made[1])).problems == []
    bend(path, 'training.config.lr', delete=True)
    assert 'lr None instead of 0.001' in only_problem(made, data)


def test_a_run_with_other_initial_weights_is_refused(write, data, tmp_path):
    rows = {'plain': {'model': 'resnet18'}, 'ours': {'model': 'aresnet18_relmha', 'start': 'plain'}}
    run = read_matrix(write(seeds=[0], studies={'rows': {'rows': rows}})).runs('rows', 'ours', data)[0]
    path = make_run(run, tmp_path / 'runs') / 'results.json'
    assert read(run, tmp_path / 'runs')
    path.write_text(json.dumps(strip_local_paths(json.loads(path.read_text()))))
    assert read(run, tmp_path / 'runs').training.config['init_from'] == 'local-dir:model'
    for start in (None, 'local-dir:runs/other/model'):
        bend(path, 'training.config.init_from', start)
        with pytest.raises(InputError, match=f'init_from {start!r} instead of the weights of {run.start.name}'):
            read(run, tmp_path / 'runs')


def test_where_a_run_was_made_and_how_its_batches_were_shared_is_free(made, data):
    path = first_results(made[1])
    for key, value in {'data': '/elsewhere', 'output': '/elsewhere/x', 'threads': 7, 'batch_size': 4}.items():
        bend(path, f'training.config.{key}', value)
    bend(path, 'environment.hardware.processes', 2)
    assert gather(made[0], 'table2', data, run_folders(made[1])).problems == []
    bend(path, 'environment.hardware.processes', 1)
    assert 'batch_size 4 instead of 8' in only_problem(made, data)


def test_unusable_logits_are_named_with_what_to_do(made, data):
    file = first_results(made[1]).with_name('validation.safetensors')
    predictions = Predictions.load(file)
    Predictions(np.full_like(predictions.logits, np.nan), predictions.labels, predictions.class_names).save(file)
    assert 'NaN or infinite values: the run has diverged' in only_problem(made, data)
    Predictions(predictions.logits, predictions.labels, ('a', 'b', 'c', 'd')).save(file)
    assert 'wanted those of crops of person, vehicle, bicycle, dog' in only_problem(made, data)
    file.unlink()
    assert re.search(r'cannot be read as predictions .* Remove .* to repeat the run\.$', only_problem(made, data))


def test_two_scales_and_two_folders_of_one_name_overwrite_nothing(write, data, flir_writer, tmp_path):
    writer = flir_writer(size=(64, 48))
    for split in ('train', 'val'):
        writer.split(split, [[(kind, [2, 2, 40, 40])] for kind in ('person', 'car', 'bicycle', 'person')])
    build_crops(writer.folder, tmp_path / 'elsewhere' / 'crops')
    others = open_study_data(str(tmp_path / 'elsewhere' / 'crops'), 'four_class', tmp_path)
    assert (others.name, others.sha256 == data.sha256) == (data.name, False)
    out = tmp_path / 'studies'
    for scale, seed in (('small', 0), ('large', 1)):
        path = write(scale, seeds=[seed])
        for crops in (data, others):
            add_study(out, path, crops)
            for run in read_matrix(path).all_runs('table2', crops):
                make_run(run, out / 'runs')
    page, markdown, *written = write_report(out, tmp_path / 'results')
    hashes = [crops.sha256[:8] for crops in (data, others)]
    assert sorted(path.name for path in written) == sorted(
        f'table2_crops_{sha256}_{scale}.json' for sha256 in hashes for scale in ('small', 'large')
    )
    for path in written:
        record = json.loads(path.read_text())
        assert f'_{record["data"]["sha256"][:8]}_{record["scale"]}.json' in path.name
        assert [run['seed'] for run in record['arms'][0]['runs']] == [0 if record['scale'] == 'small' else 1]
    ids = re.findall(r' id="([^"]+)"', page.read_text())
    assert len(ids) == len(set(ids)) > 8
    assert {f'table2-scale-{scale}{again}' for scale in ('small', 'large') for again in ('', '-1')} <= set(ids)
    pictures = re.findall(r'\]\((report_figures/[^)]+)\)', markdown.read_text())
    assert len(pictures) == len(set(pictures)) > 8
    assert 'table2, scale small' in markdown.read_text()


def test_two_matrices_of_one_name_are_refused_unless_they_are_the_same(write, data, tmp_path):
    out = tmp_path / 'studies'
    path = write()
    for run in read_matrix(path).all_runs('table2', data):
        make_run(run, out / 'runs')
    (tmp_path / 'copy').mkdir()
    copy = tmp_path / 'copy' / path.name
    shutil.copy(path, copy)
    for matrix in (path, copy):
        add_study(out, matrix, data)
    assert write_report(out, tmp_path / 'results')[2:] == [tmp_path / 'results' / 'table2_crops_small.json']
    copy.write_text(path.read_text().replace('seeds:', 'about: another\nseeds:', 1).replace('0.001', '0.1'))
    with pytest.raises(InputError, match=r'small\.yaml and .*small\.yaml are two matrices of one name, small'):
        write_report(out)


def test_damaged_weights_are_told_and_the_rest_is_shown(made, data):
    matrix, runs = made
    findings = gather(matrix, 'table2', data, run_folders(runs))
    folder = findings.arms['AResNet18'][0].folder / 'model'
    folder.mkdir()
    (folder / 'config.json').write_text('{"architecture": "aresnet18_relmha", "num_classes": 4}')
    (folder / 'model.safetensors').write_bytes(b'\x00' * 100)
    last = list(sections.study_sections(findings, 'small'))[-1]
    assert (last.title, last.blocks) == ('Attention of AResNet18', ())
    assert last.statements[0].startswith('The weights of AResNet18, seed 0 cannot be used: ')
    assert last.statements[0].endswith(f'Remove {folder.parent} to repeat the run.')


def test_evidence_and_results_files_contain_no_local_paths(write, data, tmp_path):
    path = write(options={**MATRIX['options'], 'hold_out': 0.2}, seeds=[0])
    out, results = tmp_path / 'studies', tmp_path / 'results'
    for run in read_matrix(path).all_runs('table2', data):
        damaged = make_run(run, out / 'runs') / 'results.json'
    damaged.write_text('{')  # so that a path is in what was left out
    add_study(out, path, data)
    write_report(out, results)
    kept = [file for file in results.rglob('*') if file.is_file()]
    assert 'crops_held_out_0.2.parquet' in [file.name for file in kept]
    for file in kept:
        assert str(tmp_path).encode() not in file.read_bytes(), file
        assert str(data.source).encode() not in file.read_bytes(), file
    evidence = read_evidence(results)
    (kept_run,) = map(evidence.runs.read_results, evidence.results)
    config = kept_run.training.config
    assert config['data'] == 'crops'
    assert kept_run.environment.command == f'finetune.py --data crops --output={config["output"]}'
    assert (
        'results.json cannot be read as RunResults'
        in json.loads((results / 'table2_crops_small.json').read_text())['problems'][0]
    )
    write_report(out, out)  # evidence lies next to the runs
    assert len(list(out.glob('runs/*/validation.safetensors'))) == 2


def test_only_local_paths_are_shortened():
    assert strip_local_paths({'a': ['/x/y', '../z', '~/w', 'C:\\Users\\v', 'local-dir:/x/model']}) == {
        'a': ['y', 'z', 'w', 'v', 'local-dir:model']
    }
    kept = ['crops/four_class', 'owner/name', 'hf-hub:owner/name', '2026-01-01T10:00:00', 'AMD EPYC (R) 2/3', 1, None]
    assert strip_local_paths(kept) == kept
    assert strip_local_paths({'command': "finetune.py --data '/a b/c' --lr 0.1"}) == {
        'command': 'finetune.py --data c --lr 0.1'
    }
    assert strip_local_paths({'command': "an open ' quote /x/y"}) == {'command': None}


def test_a_study_that_is_no_longer_in_its_matrix_is_named(write, data, tmp_path):
    out, path = tmp_path / 'studies', write()
    add_study(out, path, data, 'gone')
    with pytest.raises(InputError, match=r'The study gone is no longer in .*small\.yaml'):
        write_report(out)
    for run in read_matrix(path).all_runs('table2', data):
        make_run(run, out / 'runs')
    add_study(out, path, data)
    page, _ = write_report(out)
    assert page.read_text().count('The study gone is no longer in') == 2  # at a glance, and in its section


@pytest.mark.parametrize(
    'bent',
    [
        *({'classes': 'three'}, {'classes': ['four_class']}, {'study': 5}, {'study': ['table2']}, {'matrix': None}),
        *({'source': 3}, {'command': {}}, {'more': 1}, [], None),
    ],
)
def test_a_history_of_wrong_entries_is_refused(tmp_path, bent):
    entry = {'command': 'x', 'matrix': 'm.yaml', 'study': 'table2', 'source': None, 'classes': 'four_class'}
    line = {**entry, **bent} if isinstance(bent, dict) else bent
    (tmp_path / 'history.jsonl').write_text(json.dumps(entry) + '\n')
    assert len(read_history(tmp_path)) == 1
    (tmp_path / 'history.jsonl').write_text(json.dumps(entry) + '\n' + json.dumps(line) + '\n')
    with pytest.raises(InputError, match=r'history\.jsonl cannot be read .* Remove it, and start the studies again'):
        read_history(tmp_path)
