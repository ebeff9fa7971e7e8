"""Crops on the Hub: both configurations load, streamed or not, train a model, and stay private."""

import json

import datasets
import pytest
import torch
import yaml
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.torch import load_file

from timm_convattn.data.crops import build_crops, narrow_crops
from timm_convattn.data.sources import content_hash, open_crops
from timm_convattn.errors import InputError


@pytest.fixture(scope='module')
def pushed(hub_server, script, tiny_frames, tmp_path_factory):
    """Repository and folder of crops that the script built and pushed."""
    repo_id, out = hub_server.repo_id(), tmp_path_factory.mktemp('pushed') / 'crops'
    run = script('build_dataset.py', '--flir-root', tiny_frames, '--out', out, '--push-to-hub', repo_id)
    assert run.returncode == 0, run.stderr
    assert 'published:' in run.stdout
    return repo_id, out


@pytest.fixture(autouse=True)
def _use_local_hub(hub):
    """Let this process talk to the local Hub, too."""


def test_both_configurations_load_and_four_class_is_the_default(pushed):
    repo_id, out = pushed
    four = datasets.load_dataset(repo_id, 'four_class')
    assert {split: len(crops) for split, crops in four.items()} == {'train': 28, 'validation': 11}
    assert four['train'].features['label'].names == ['person', 'vehicle', 'bicycle', 'dog']
    assert content_hash(four['train']) == content_hash(open_crops(str(out), ('train',))['train'])
    assert content_hash(datasets.load_dataset(repo_id)['train']) == content_hash(four['train'])
    two = datasets.load_dataset(repo_id, 'two_class')
    assert two['train'].features['label'].names == ['person', 'vehicle']
    assert {split: len(crops) for split, crops in two.items()} == {'train': 19, 'validation': 8}


def test_crops_stream(pushed):
    repo_id, _ = pushed
    streamed = list(datasets.load_dataset(repo_id, 'two_class', split='validation', streaming=True))
    whole = datasets.load_dataset(repo_id, 'two_class', split='validation')
    assert [crop['label'] for crop in streamed] == whole['label'][:]
    assert [crop['source'] for crop in streamed] == whole['source'][:]
    assert streamed[0]['image'].tobytes() == whole[0]['image'].tobytes()


def test_dataset_is_private_and_its_card_states_counts_terms_and_options(pushed, hub):
    repo_id, _ = pushed
    with pytest.raises(RepositoryNotFoundError):
        hub.api('hf_other').dataset_info(repo_id)
    _, header, body = hub.read(repo_id, 'README.md', 'dataset').split('---\n', 2)
    assert [config['config_name'] for config in yaml.safe_load(header)['configs']] == ['four_class', 'two_class']
    assert '| train | 10 | 9 | 9 | 0 | 28 |' in body
    assert '| validation | 4 | 4 | 8 |' in body
    assert 'does not allow\nredistribution' in body
    assert '--flir-root FLIR_FOLDER --out CROPS --classes four_class --min-size 1' in body
    commits = hub.api().list_repo_commits(repo_id, repo_type='dataset')
    assert len(commits) == 2  # the creation and the upload


def test_card_of_a_model_trained_on_crops_of_the_hub_names_them(pushed, hub, script, tmp_path):
    repo_id, _ = pushed
    model = hub.repo_id()
    args = ['--data', repo_id, '--data-config', 'two_class', '--img-size', 32, '--batch-size', 8, '--epochs', 1]
    run = script('finetune.py', *args, '--threads', 1, '--output', tmp_path / 'run', '--push-to-hub', model)
    assert run.returncode == 0, run.stderr
    header = yaml.safe_load(hub.read(model, 'README.md').split('---')[1])
    assert header['datasets'] == [repo_id]
    again = script('validate.py', '--model', f'hf-hub:{model}', '--data', repo_id, '--data-config', 'two_class')
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_training_on_streamed_crops_is_reproducible(pushed, script, tmp_path):
    repo_id, _ = pushed
    args = ['--data', repo_id, '--streaming', '--img-size', 32, '--batch-size', 8, '--epochs', 1, '--threads', 1]
    for name in ('run', 'again'):
        run = script('finetune.py', *args, '--output', tmp_path / name)
        assert run.returncode == 0, run.stderr
    one, two = (load_file(tmp_path / name / 'model' / 'model.safetensors') for name in ('run', 'again'))
    assert all(torch.equal(one[key], two[key]) for key in one)
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert results['training']['crops'] == {'person': 10, 'vehicle': 9, 'bicycle': 9, 'dog': 0}
    assert results['training']['steps'] == 3  # 28 crops, 8 in a batch
    assert results['metrics']['num_samples'] == 11


def test_interrupted_push_is_completed_by_the_same_command(hub, script, tiny_frames, tmp_path):
    repo_id, out = hub.repo_id(), tmp_path / 'crops'
    command = ['build_dataset.py', '--flir-root', tiny_frames, '--out', out, '--push-to-hub', repo_id]
    hub.fail(f'POST /api/datasets/{repo_id}/commit')
    broken = script(*command)
    assert broken.returncode == 1
    assert 'run the same command again' in broken.stderr
    assert hub.api().list_repo_files(repo_id, repo_type='dataset') == ['.gitattributes']
    again = script(*command)
    assert again.returncode == 0, again.stderr
    assert 'already exists, built with the same options' in again.stdout
    assert len(datasets.load_dataset(repo_id, 'two_class')['train']) == 19


def test_folder_built_with_other_options_is_not_pushed(script, tiny_crops):
    command = ['--flir-root', tiny_crops, '--out', tiny_crops, '--push-to-hub', 'you/x', '--min-size', 9]
    run = script('build_dataset.py', *command)
    assert run.returncode == 1
    assert 'was built with other options' in run.stderr


def test_public_crops_of_recorded_frames_are_refused_before_the_build(script, tiny_frames, tmp_path):
    out = tmp_path / 'crops'
    run = script('build_dataset.py', '--flir-root', tiny_frames, '--out', out, '--push-to-hub', 'you/x', '--public')
    assert run.returncode == 1
    assert 'give --i-have-the-right-to-redistribute' in run.stderr
    assert not out.exists()


def test_public_crops_of_an_existing_folder_are_refused(hub, script, tiny_crops):
    repo_id = hub.repo_id()
    run = script('build_dataset.py', '--out', tiny_crops, '--push-to-hub', repo_id, '--public')  # no --flir-root
    assert run.returncode == 1
    assert 'give --i-have-the-right-to-redistribute' in run.stderr
    assert f'POST /api/datasets/{repo_id}/commit/main' not in hub.requests()


def test_public_crops_are_pushed_with_the_right_to_redistribute(hub, script, tiny_frames, tmp_path):
    repo_id = hub.repo_id()
    command = ['--flir-root', tiny_frames, '--out', tmp_path / 'crops', '--push-to-hub', repo_id, '--public']
    run = script('build_dataset.py', *command, '--i-have-the-right-to-redistribute')
    assert run.returncode == 0, run.stderr
    assert hub.api('hf_other').dataset_info(repo_id).private is False


def test_narrowed_crops_are_those_of_a_build_with_fewer_classes(tiny_frames, tiny_crops, tmp_path):
    built = build_crops(tiny_frames, tmp_path / 'built', 'two_class')
    narrowed = narrow_crops(tiny_crops, tmp_path / 'narrowed', 'two_class')
    assert narrowed.counts == built.counts
    assert narrowed.class_names == built.class_names
    assert narrowed.dropped['train'] == {'class that is not used: bicycle': 9}
    for split in ('train', 'validation'):
        ours = open_crops(str(tmp_path / 'narrowed'), (split,))[split]
        theirs = open_crops(str(tmp_path / 'built'), (split,))[split]
        assert content_hash(ours) == content_hash(theirs)
        assert ours['bbox'][:] == theirs['bbox'][:]
    with pytest.raises(InputError, match=r'has no crops of person, vehicle, bicycle, dog to choose from'):
        narrow_crops(tmp_path / 'narrowed', tmp_path / 'wide', 'four_class')
