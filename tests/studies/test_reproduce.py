"""Studies from the command line to the report: real runs, real interruptions, a real browser."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from studies.conftest import reproduce

from timm_convattn.errors import InputError
from timm_convattn.predictions import Predictions
from timm_convattn.results import PaperResult, StudyResults, read_results
from timm_convattn.studies import execution, supervise
from timm_convattn.studies.data import open_study_data
from timm_convattn.studies.execution import Resources, create_task, execute_all, log_path
from timm_convattn.studies.findings import gather, run_folders
from timm_convattn.studies.matrix import read_matrix
from timm_convattn.studies.report import write_report
from timm_convattn.studies.tables import as_markdown, study_table


@pytest.fixture
def copied(studied, tmp_path):
    """The finished study, to be damaged."""
    shutil.copytree(studied, tmp_path / 'studies')
    return tmp_path / 'studies'


def test_every_run_is_finished_and_is_not_repeated(root, studied, matrix_file, tiny_crops):
    runs = sorted(path.parent for path in (studied / 'runs').glob('*/results.json'))
    assert len(runs) == 4
    assert {json.loads((run / 'results.json').read_text())['training']['config']['seed'] for run in runs} == {0, 1}
    starts = {
        run.name: json.loads((run / 'results.json').read_text())['training']['config']['init_from'] for run in runs
    }
    for name, start in starts.items():  # each from the plain network of the same seed, which was made before
        seed = re.search(r'-s\d-', name)[0]
        plain = next(other for other in starts if other.startswith(f'resnet18{seed}'))
        assert start == (None if name == plain else f'local-dir:{studied / "runs" / plain / "model"}')
    before = {run: (run / 'results.json').stat().st_mtime_ns for run in runs}
    again = reproduce(root, 'table2', '--scale', matrix_file, '--data', tiny_crops, '--out', studied)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith('4 runs, 4 of them finished already')
    assert again.stdout.count('finished: ') == 4
    assert {run: (run / 'results.json').stat().st_mtime_ns for run in runs} == before


def test_findings_are_those_of_the_runs(studied, matrix_file, tiny_crops):
    matrix = read_matrix(matrix_file)
    data = open_study_data(str(tiny_crops), 'four_class', studied / 'crops')
    findings = gather(matrix, 'table2', data, run_folders(studied / 'runs'))
    assert (findings.unfinished, findings.problems) == (0, [])
    assert [len(runs) for runs in findings.arms.values()] == [2, 2]
    scores = {row: findings.scores(row) for row in findings.arms}
    difference = findings.differences()['AResNet18']
    assert difference.mean == pytest.approx(sum(scores['AResNet18']) / 2 - sum(scores['ResNet18']) / 2)
    assert difference.seeds == 2
    for runs in findings.arms.values():
        for run in runs:
            metrics = run.results.metrics
            assert run.predictions.hits.mean() == pytest.approx(metrics.accuracy)


def test_report_states_what_it_shows_and_results_give_the_same_table(copied):
    old = copied / 'report_figures' / 'of_an_earlier_report.png'
    old.parent.mkdir()
    old.touch()
    page, markdown, results = write_report(copied, copied / 'results')
    found = read_results(results, StudyResults)
    assert results.name == 'table2_crops_small.json'
    assert [arm.name for arm in found.arms] == ['ResNet18', 'AResNet18']
    assert found.arms[1].paper == PaperResult('AResNet50', 0.9707, 0.0006)
    assert found.arms[0].runs[0].selection.held_out > 0
    table = as_markdown(study_table(found))
    assert table in markdown.read_text()
    assert 'AResNet50 97.07 ± 0.06' in table
    text = page.read_text()
    for expected in ('Networks of a few seconds.', 'reproduce.py table2 --scale', 'Scale: small', 'Seeds', 'Hardware'):
        assert expected in text
    assert 'NaN' not in results.read_text()
    figures = re.findall(r'\]\((report_figures/[^)]+)\)', markdown.read_text())
    assert len(figures) >= 7
    assert all((copied / figure).stat().st_size > 1000 for figure in figures)
    assert {path.name for path in old.parent.iterdir()} == {Path(figure).name for figure in figures}


def test_kept_runs_count_as_finished_elsewhere_and_give_the_same_tables(
    root, copied, matrix_file, tiny_crops, tmp_path
):
    _, _, results = write_report(copied, tmp_path / 'results')
    kept = {path.name: path.read_bytes() for path in (tmp_path / 'results' / 'evidence').iterdir()}
    assert kept.keys() == {
        *('crops.parquet', 'crops_held_out_0.2.parquet', 'history.jsonl', 'runs.jsonl', 'small.yaml')
    }
    assert not list(copied.glob('runs/*/checkpoints'))  # nothing resumes from them
    assert len(list(copied.glob('runs/*/model'))) == 4
    write_report(copied, tmp_path / 'results')  # over what is there
    assert {path.name: path.read_bytes() for path in (tmp_path / 'results' / 'evidence').iterdir()} == kept
    out = tmp_path / 'elsewhere'
    args = ('--data', tiny_crops, '--out', out, '--from', tmp_path / 'results')
    made = reproduce(root, 'table2', '--scale', matrix_file, *args)
    assert made.stdout.startswith('4 runs, 4 of them finished already'), made.stderr
    for run in copied.glob('runs/*/'):
        for name in ('validation.safetensors', 'held_out.safetensors'):
            assert (run / name).is_file() == (out / 'runs' / run.name / name).is_file()
            if (run / name).is_file():
                ours, theirs = Predictions.load(run / name), Predictions.load(out / 'runs' / run.name / name)
                assert ours.logits.tobytes() == theirs.logits.tobytes()
                assert (ours.labels.tolist(), ours.class_names) == (theirs.labels.tolist(), theirs.class_names)
    page, _, again = write_report(out, tmp_path / 'again')
    assert json.loads(again.read_text()) == json.loads(results.read_text())
    assert 'The weights of AResNet18, seed 0 are not in' in page.read_text()


def test_report_of_evidence_needs_neither_runs_nor_crops(root, copied, tiny_crops, tmp_path):
    _, markdown, results = write_report(copied, tmp_path / 'results')
    tables = [line for line in markdown.read_text().splitlines() if line.startswith('|')]
    shutil.move(copied, tmp_path / 'gone')
    args = ('report', '--from', tmp_path / 'results', '--out', tmp_path / 'out', '--results', tmp_path / 'again')
    shown = reproduce(root, *args)
    assert shown.returncode == 0, shown.stderr
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {'report.html', 'report.md', 'report_figures'}
    text = (tmp_path / 'out' / 'report.md').read_text()
    assert [line for line in text.splitlines() if line.startswith('|')] == tables
    assert text.count('figures that need them are left out') == 2 * 3  # at a glance, and in three sections
    assert (tmp_path / 'again' / results.name).read_bytes() == results.read_bytes()
    for path in (tmp_path / 'results' / 'evidence').iterdir():
        assert (tmp_path / 'again' / 'evidence' / path.name).read_bytes() == path.read_bytes()
    refused = reproduce(root, 'report', '--from', tmp_path / 'out')
    assert refused.stderr.startswith(f'error: {tmp_path / "out"} has no evidence/runs.jsonl.')


def test_report_needs_nothing_from_outside(copied):
    page = write_report(copied)[0].read_text()
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) == []
    assert 'http' not in re.sub(r'data:[^"]*', '', page)


def test_damaged_foreign_and_missing_runs_are_named_and_left_out(copied, matrix_file, tiny_crops):
    with (copied / 'history.jsonl').open('a') as history:  # a study that was started, without a finished run
        entry = json.loads((copied / 'history.jsonl').read_text().splitlines()[0])
        history.write(json.dumps({**entry, 'study': 'later'}) + '\n')
    runs = sorted(copied.glob('runs/a*/results.json'))
    runs[0].write_text('{"metrics": ')
    record = json.loads(runs[1].read_text())
    record['data']['sha256'] = 'f' * 64
    runs[1].write_text(json.dumps(record))
    plain = sorted(copied.glob('runs/resnet*/results.json'))
    plain[0].unlink()
    page = write_report(copied)[0].read_text()
    assert f'Left out: {runs[0].parent.name}: {runs[0].parent.name}/results.json cannot be read as RunResults' in page
    assert f'Left out: {runs[1].parent.name}: its results were measured on other crops (ffffffffffff)' in page
    assert 'One run of this study is not finished' in page
    assert 'No finished run yet: AResNet18' in page
    assert 'No run of this study is finished yet; 2 are missing.' in page
    shutil.copy(sorted(copied.glob('runs/a*/validation.safetensors'))[0], plain[1].parent / 'validation.safetensors')
    data = open_study_data(str(tiny_crops), 'four_class', copied / 'crops')
    assert gather(read_matrix(matrix_file), 'table2', data, run_folders(copied / 'runs')).arms['AResNet18'] == []


def test_a_study_without_finished_runs_says_so(root, copied, tmp_path):
    shutil.rmtree(copied / 'runs')
    with pytest.raises(InputError, match=r'has no finished run yet\. Continue with: python .*reproduce\.py table2'):
        write_report(copied)
    result = reproduce(root, 'report', '--out', tmp_path / 'nothing')
    assert (result.returncode, result.stderr.count('\n')) == (1, 1)
    assert 'has no studies yet' in result.stderr


@pytest.mark.slow
def test_a_run_that_fails_is_named_with_its_log_and_the_others_go_on(root, studied, matrix_file, tiny_crops, tmp_path):
    text = matrix_file.read_text().replace('model: aresnet18_relmha', 'model: aresnet18x', 1)
    (tmp_path / 'broken.yaml').write_text(text)
    shutil.copytree(studied, tmp_path / 'studies')
    args = ('table2', '--scale', tmp_path / 'broken.yaml', '--data', tiny_crops, '--out', tmp_path / 'studies')
    result = reproduce(root, *args, '--jobs', '2')
    assert result.returncode == 1
    assert result.stdout.count('failed: ') == 2
    assert result.stdout.count('finished: ') == 2
    logs = re.findall(r'[^ ,]+\.log', result.stderr)
    assert len(logs) == 2
    assert 'There is no model' in Path(logs[0]).read_text()


@pytest.mark.slow
def test_interrupted_study_goes_on_and_ends_as_if_it_had_not_been(root, studied, copied, matrix_file, tiny_crops):
    for run in copied.glob('runs/a*'):
        shutil.rmtree(run, ignore_errors=True)
    args = ['table2', '--scale', str(matrix_file), '--data', str(tiny_crops), '--out', str(copied)]
    command = [sys.executable, str(root / 'train_scripts' / 'reproduce.py'), *args, '--cpus-per-run', '1']
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what runs in the background would not hear it
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=heard)
    wait_until(lambda: list(copied.glob('runs/a*/config.yaml')))  # the first of the two has started
    process.send_signal(signal.SIGINT)
    process.wait(timeout=300)
    assert not processes_with(str(copied))
    assert len(list(copied.glob('runs/a*/results.json'))) < 2
    again = reproduce(root, *args, '--jobs', '2')
    assert again.returncode == 0, again.stderr + ''.join(log.read_text() for log in copied.glob('runs/a*.log'))
    runs = [path.parent.name for path in studied.glob('runs/a*/results.json')]
    assert len(runs) == 2
    for run in runs:
        ours, theirs = (json.loads((out / 'runs' / run / 'results.json').read_text()) for out in (copied, studied))
        assert ours['metrics'] == theirs['metrics']


def test_what_is_read_off_the_crops_alone_needs_no_run(root, matrix_file, tiny_crops, tmp_path):
    args = ('table1', 'fig5', '--scale', matrix_file, '--data', tiny_crops, '--out', tmp_path / 'studies')
    assert reproduce(root, *args).returncode == 0
    text = write_report(tmp_path / 'studies')[1].read_text()
    assert '| train | 10 | 9 | 9 | 0 | 28 |' in text
    assert "| the paper's train | 22,372 | 41,260 | 3,986 | 226 | 67,844 |" in text
    assert 'sample-crops-fig-5-0.png' in text


def test_no_run_is_started_when_the_time_is_up(root, matrix_file, tiny_crops, tmp_path):
    args = ('table2', '--scale', matrix_file, '--data', tiny_crops, '--out', tmp_path / 'studies', '--budget', '0')
    result = reproduce(root, *args)
    assert (result.returncode, result.stdout.count('stopped: ')) == (0, 4)
    assert list(tmp_path.glob('studies/runs/*')) == []


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ([], 'No study was named. Name some, such as table2'),
        (['table2', 'report'], 'report cannot be combined with studies. Run table2 first, then report.'),
        (['table2', '--jobs', '0'], '--jobs is 0, it must be at least 1.'),
        (['table2', '--jobs', '-1'], '--jobs is -1, it must be at least 1.'),
        (['table2', '--gpus-per-run', '-1'], '--gpus-per-run is -1, it must be at least 0.'),
        (['table2', '--cpus-per-run', '0'], '--cpus-per-run is 0, it must be at least 1.'),
        (['table2', '--budget', '-5'], '--budget is -5.0, it must be at least 0.'),
        (['table2', '--budget', 'nan'], '--budget is nan, it must be at least 0.'),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(
    root, matrix_file, tiny_crops, tmp_path, args, message
):
    out = tmp_path / 'studies'
    refused = reproduce(root, *args, '--scale', matrix_file, '--data', tiny_crops, '--out', out)
    assert (refused.returncode, refused.stdout) == (1, '')
    assert refused.stderr.startswith(f'error: {message}')
    assert refused.stderr.count('\n') == 1
    assert not out.exists()


@pytest.mark.slow
def test_a_run_under_way_is_stopped_when_the_time_is_up_and_goes_on_later(
    root, matrix_file, tiny_crops, tmp_path, monkeypatch
):
    data = open_study_data(str(tiny_crops), 'four_class', tmp_path / 'crops')
    run = read_matrix(matrix_file).runs('table2', 'ResNet18', data)[0]
    run = replace(run, options={**run.options, 'epochs': 12})
    task = create_task(run, tmp_path / 'runs', root / 'train_scripts' / 'finetune.py')
    started = time.time()

    def now():  # an hour passes as soon as there is something to go on from
        return started + 3600 * bool(list(task.folder.glob('checkpoints/epoch_*')))

    resources = Resources(gpus_per_run=0, cpus_per_run=1, budget=10)
    with monkeypatch.context() as patched:
        patched.setattr(execution, 'time', SimpleNamespace(time=now, monotonic=time.monotonic))
        (outcome,) = execute_all([task], resources)
    assert (outcome.status, task.is_finished) == ('stopped', False)
    epochs = len((task.folder / 'log.jsonl').read_text().splitlines())
    assert 0 < epochs < 12
    assert list(task.folder.glob('checkpoints/epoch_*'))
    (outcome,) = execute_all([task], resources)
    assert outcome.status == 'finished'
    lines = [json.loads(line)['epoch'] for line in (task.folder / 'log.jsonl').read_text().splitlines()]
    assert lines == list(range(1, 13))
    assert 'resuming from' in log_path(task.folder).read_text()
    assert not (task.folder / 'checkpoints').exists()
    assert (task.folder / 'model' / 'model.safetensors').is_file()


def test_a_supervised_command_does_not_outlive_who_asked_for_it(tmp_path):
    child = 'import subprocess, sys; subprocess.run([sys.executable, "-c", "import time; time.sleep(60)", sys.argv[1]])'
    parent = f'import subprocess, sys; subprocess.run([sys.executable, {supervise.__file__!r}, *sys.argv[1:]])'
    mark = str(tmp_path / 'mark')
    process = subprocess.Popen([sys.executable, '-c', parent, sys.executable, '-c', child, mark])
    wait_until(lambda: len(processes_with(mark)) == 4)
    process.kill()  # no time to say goodbye
    process.wait()
    wait_until(lambda: not processes_with(mark))


def test_a_supervised_command_gives_its_exit_status():
    for code in (0, 3):
        run = subprocess.run([sys.executable, supervise.__file__, sys.executable, '-c', f'raise SystemExit({code})'])
        assert run.returncode == code


@pytest.mark.skipif(shutil.which('chromium') is None, reason='there is no Chromium: apt-get install chromium')
def test_browser_shows_every_figure_offline_within_the_page(copied):
    from playwright.sync_api import sync_playwright

    page_file = write_report(copied)[0]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which('chromium'),
            args=['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'],
        )
        for width in (1280, 420):
            page = browser.new_page(viewport={'width': width, 'height': 900})
            complaints, asked = [], []
            page.on('console', lambda message, seen=complaints: seen.append(message.text))
            page.on('pageerror', lambda error, seen=complaints: seen.append(str(error)))
            page.on('request', lambda request, seen=asked: seen.append(request.url.split(',')[0]))
            page.goto(page_file.as_uri())
            images = page.eval_on_selector_all('img', 'all => all.map(i => [i.complete, i.naturalWidth, i.alt])')
            assert len(images) >= 7
            assert all(done and wide > 100 and alt for done, wide, alt in images)
            assert page.evaluate('document.documentElement.scrollWidth') <= width
            assert page.eval_on_selector_all('section table', 'all => all.length') >= 3
            assert page.inner_text('#all-networks-table-2 tbody tr:nth-child(2) td:first-child') == 'AResNet18'
            page.click('a[href="#all-networks-table-2"]')
            page.wait_for_function('document.querySelector("#all-networks-table-2").getBoundingClientRect().top < 200')
            assert complaints == []
            assert all(url.startswith(('file:', 'data:')) for url in asked)
            page.close()
        browser.close()


def wait_until(happened, seconds=300):
    ends = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < ends, 'it did not happen'
        time.sleep(0.1)


def processes_with(mark):
    """Ids of running processes whose command line holds a text."""
    found = []
    for process in Path('/proc').glob('[0-9]*/cmdline'):
        with suppress(OSError):  # it may end meanwhile
            found += [process.parent.name] if mark.encode() in process.read_bytes() else []
    return found
