"""Every command of the documents is parsed by the program that it calls; those that can run here are run in order."""

import io
import shlex
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from documents import ROOT, commands, launched, read_command, snippets
from script_runner import run_script

from timm_convattn.data.crops import build_crops, load_crops
from timm_convattn.studies.matrix import read_matrix

PAGES = sorted((ROOT / 'docs').glob('*.md'))
DOCUMENTS = [*PAGES, *(ROOT / name for name in ('CONTRIBUTING.md', 'SECURITY.md'))]
ALL = [(path.name, words) for path in DOCUMENTS for words in commands(path.read_text())]

FINETUNE = 'accelerate launch train_scripts/finetune.py --data crops/four_class'
SHORT = ['--epochs', '2', '--batch-size', '16', '--img-size', '32', '--threads', '1', '--limit-train', '100']

# options and arguments, and what they need that is not here
NEEDS = {
    '--config_file': 'GPUs',
    '--config': 'ImageNet weights from the Hub',
    '--engine': 'a Ray cluster',
    '--hit-uav': 'the frames of HIT-UAV',
    'crops/thermal_uav': 'the frames of HIT-UAV',
    '--push-to-hub': 'a token for the Hub',
    '--tag': 'a token for the Hub',
    'you/flir-crops': 'a data set on the Hub',
}


def test_documents_have_commands():
    assert {'CONTRIBUTING.md', 'data.md', 'training.md', 'rejection.md', 'reproduce.md'} <= dict(ALL).keys()
    assert len(ALL) > 40


@pytest.mark.parametrize('name, words', [pytest.param(*each, id=f'{each[0]}: {shlex.join(each[1])}') for each in ALL])
def test_command_is_read_by_the_program_that_it_calls(name, words):
    read_command(words)


@pytest.mark.parametrize(
    'command',
    [
        'accelerate launch train_scripts/finetune.py --no-such-option',
        'accelerate launch --no-such-option train_scripts/finetune.py',
        'accelerate launch --config_file no_such.yaml train_scripts/finetune.py',
        'python train_scripts/build_dataset.py --flir-rot X --out Y',
        'python train_scripts/validate.py',
        'python train_scripts/no_such.py',
        'sbatch train_scripts/accelerate/slurm.sh --no-such-option',
        "pip install -e '.[no_such]'",
        'no-such-program',
    ],
)
def test_wrong_commands_are_noticed(command):
    with pytest.raises((AssertionError, SystemExit)):
        read_command(shlex.split(command))


def test_study_of_the_documents_is_valid(clone):
    (matrix,) = snippets((ROOT / 'docs' / 'reproduce.md').read_text(), 'yaml')
    (clone / 'heads.yaml').write_text(matrix)
    arms = read_matrix(clone / 'heads.yaml').study('heads').arms
    assert arms['eight'].against == 'one'


def what_it_needs(words):
    """Return what a command needs that is not here, None if it can run."""
    return next((need for word, need in NEEDS.items() if word in words), None)


def run_command(words):
    """Run a command of the documents on the small frames, and return what it printed."""
    if words[0] == 'timm-convattn':
        return run_command_line(words)
    script, args = launched(words) if words[0] == 'accelerate' else (ROOT / words[1], words[2:])
    finished = run_script(script, *args, *shortening(script.name, args))
    assert finished.returncode == 0, f'{shlex.join(words)}\n{finished.stdout}\n{finished.stderr}'
    return finished.stdout


def shortening(script, args):
    """Return options that shorten a run from hours to seconds; of two values the later one counts."""
    options = {'finetune.py': SHORT, 'validate.py': ['--threads', '1']}.get(script, [])
    if '--resume' in args:
        options = ['--threads', '1', '--epochs', '3']
    options = options + (['--hold-out', '0.5'] if '--hold-out' in args else [])
    return options + (['--reject-at', '0.5'] if '--reject-at' in args else [])


def run_command_line(words):
    """Run a command of `timm-convattn` in this process."""
    from timm_convattn_cli import main

    args = [*words[1:], *shortening('', words)]
    printed = io.StringIO()
    with redirect_stdout(printed):
        try:
            status = main(args)
        except SystemExit as stopped:
            status = stopped.code
    assert not status, f'{shlex.join(words)} ended with {status}\n{printed.getvalue()}'
    return printed.getvalue()


def run_page(name):
    """Run the commands of a page that can run here, in order, and return what each printed."""
    every = commands((ROOT / 'docs' / name).read_text())
    ours = [words for words in every if 'train_scripts' in ' '.join(words) or words[0] == 'timm-convattn']
    runnable = [words for words in ours if words[0] != 'sbatch' and what_it_needs(words) is None]
    assert len(runnable) >= 2
    return {shlex.join(words): run_command(words) for words in runnable}


@pytest.fixture
def crops(frames, clone):
    """The crops that pages other than data.md start from."""
    build_crops(frames, clone / 'crops' / 'four_class')


@pytest.mark.slow
@pytest.mark.parametrize(
    'page, written',
    [
        ('data.md', ['crops.png', 'crops/sixteen/crops.json', 'runs/first/results.json']),
        ('training.md', ['results.json', 'matrix.png', 'runs/focal/results.json', 'runs/NAME/model/config.json']),
        ('rejection.md', ['runs/careful/model/rejection.json']),
    ],
)
def test_commands_of_a_page_run_in_their_order(request, page, written, clone):
    if page != 'data.md':
        request.getfixturevalue('crops')
    run_page(page)
    assert [path for path in written if not (clone / path).exists()] == []


@pytest.fixture
def careful_run(crops, clone):
    """A run that may reject, and images to show it."""
    run_command(shlex.split(f'{FINETUNE} --hold-out 0.5 --output runs/NAME'))
    (clone / 'images').mkdir()
    for index, row in enumerate(load_crops(Path('crops/four_class'))['validation']):
        row['image'].save(clone / 'images' / f'{index}.png')
    shutil.copy(clone / 'images' / '0.png', clone / 'crop.png')


@pytest.mark.slow
def test_commands_of_the_command_line_page_write_their_files(careful_run, clone):
    printed = run_page('command_line.md')
    csv = printed['timm-convattn predict runs/NAME images --top 2 --csv']
    assert len(csv.splitlines()) == 1 + len(list((clone / 'images').iterdir()))
    for path in ('why.png', 'bicycle.png', 'model.onnx', 'model.pt2', 'model.pt'):
        assert (clone / path).stat().st_size > 0, path


@pytest.mark.slow
def test_run_is_described_before_it_is_published(crops, clone):
    run_command(shlex.split(f'{FINETUNE} --output runs/NAME'))
    (dry,) = [words for words in commands((ROOT / 'docs' / 'hub.md').read_text()) if '--dry-run' in words]
    assert 'nothing was published' in run_command(dry)
