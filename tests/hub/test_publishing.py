"""Publishing runs: files, visibility, tags, and repeated or interrupted uploads."""

import json
import re

import pytest
import safetensors.torch
import timm
import torch
import yaml
from huggingface_hub.errors import RepositoryNotFoundError

from timm_convattn.errors import InputError
from timm_convattn.figures import draw_confusion_matrix
from timm_convattn.hub.loading import load_rejection
from timm_convattn.hub.publishing import publish, run_publication
from timm_convattn.results import RunResults, read_results


def commits(hub, repo_id):
    titles = [commit.title for commit in hub.api().list_repo_commits(repo_id)]
    return titles[:-1]  # without the commit that created the repository


def test_script_publishes_a_run_in_one_private_commit_with_a_tag(hub, script, finished_run):
    repo_id = hub.repo_id()
    run = script('publish.py', '--run', finished_run, '--repo-id', repo_id, '--tag', 'v1.0')
    assert run.returncode == 0, run.stderr
    assert f'private model {repo_id}, tag v1.0:' in run.stdout
    info = hub.api().model_info(repo_id, revision='v1.0')
    assert info.private is True
    assert {file.rfilename for file in info.siblings} == {
        *('.gitattributes', 'README.md', 'config.json', 'confusion_matrix.png', 'model.safetensors', 'results.json'),
        'rejection.json',
    }
    assert len(commits(hub, repo_id)) == 1
    with pytest.raises(RepositoryNotFoundError):
        hub.api('hf_other').model_info(repo_id)


def test_published_files_are_those_of_the_run_with_input_classes_licence(hub, publication, finished_run):
    made = publication(license='cc-by-4.0')
    publish(made)
    config = json.loads(hub.read(made.repo_id, 'config.json'))
    assert config['architecture'] == 'aresnet18_relmha'
    assert config['label_names'] == ['person', 'vehicle', 'bicycle', 'dog']
    assert config['pretrained_cfg']['input_size'] == [1, 32, 32]
    assert config['pretrained_cfg']['license'] == 'cc-by-4.0'
    assert not {'tag', 'origin_url', 'paper_ids', 'hf_hub_id', 'url'} & config['pretrained_cfg'].keys()
    theirs = safetensors.torch.load_file(hub.api().hf_hub_download(made.repo_id, 'model.safetensors'))
    ours = safetensors.torch.load_file(finished_run / 'model' / 'model.safetensors')
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in ours)
    card = hub.read(made.repo_id, 'README.md')
    assert yaml.safe_load(card.split('---')[1])['license'] == 'cc-by-4.0'


def test_dry_run_lists_the_files_and_publishes_nothing(hub, script, finished_run):
    repo_id, before = hub.repo_id(), len(hub.requests())
    run = script('publish.py', '--run', finished_run, '--repo-id', repo_id, '--dry-run', HF_TOKEN=None)
    assert run.returncode == 0, run.stderr
    size = (finished_run / 'model' / 'model.safetensors').stat().st_size
    assert f'{size:,}  model.safetensors' in run.stdout
    assert 'nothing was published' in run.stdout
    assert len(hub.requests()) == before


def test_publishing_again_uploads_only_what_changed(hub, publication):
    first = publication(tag='v1')
    publish(first)
    uploads = [asked for asked in hub.requests() if asked.startswith('PUT /_lfs')]
    publish(first)
    assert len(commits(hub, first.repo_id)) == 1
    publish(publication(repo_id=first.repo_id, license='mit'))
    assert len(commits(hub, first.repo_id)) == 2
    assert [asked for asked in hub.requests() if asked.startswith('PUT /_lfs')] == uploads
    with pytest.raises(InputError, match=r'already has a tag v1 with other contents'):
        publish(publication(repo_id=first.repo_id, license='mit', tag='v1'))


def test_failed_commit_keeps_the_last_one_and_a_repetition_completes_it(hub, publication, monkeypatch):
    first = publication()
    publish(first)
    before = hub.api().model_info(first.repo_id).sha
    second = publication(repo_id=first.repo_id, license='mit')
    hub.fail(f'POST /api/models/{first.repo_id}/commit', times=1)
    with pytest.raises(InputError, match=r'the connection failed .* run the same command again'):
        publish(second)
    assert hub.api().model_info(first.repo_id).sha == before
    publish(second)
    assert hub.api().model_info(first.repo_id).sha != before
    assert len(commits(hub, first.repo_id)) == 2


def test_finetune_publishes_at_the_end_of_a_run(hub, script, tiny_crops, tmp_path):
    repo_id = hub.repo_id()
    args = ['--data', tiny_crops, '--output', tmp_path / 'run', '--img-size', 32, '--batch-size', 8, '--epochs', 1]
    run = script('finetune.py', *args, '--threads', 1, '--push-to-hub', repo_id)
    assert run.returncode == 0, run.stderr
    assert f'published: {hub.url}/{repo_id}/commit/' in run.stdout
    assert hub.api().model_info(repo_id).private is True


def test_finetune_stops_before_training_if_it_cannot_publish(hub, script, tiny_crops, tmp_path):
    run = script('finetune.py', '--data', tiny_crops, '--output', tmp_path / 'run', '--push-to-hub', 'other/model')
    assert run.returncode == 1
    assert 'cannot write to other/' in run.stderr
    assert not (tmp_path / 'run').exists()


def test_public_repository_is_refused_without_the_option(hub, publication):
    made = publication(public=True)
    publish(made)
    assert hub.api('hf_other').model_info(made.repo_id).private is False
    with pytest.raises(InputError, match=r'is public. Give --public'):
        publish(publication(repo_id=made.repo_id))


def test_repository_with_another_architecture_is_refused(hub, publication):
    made = publication()
    hub.api().create_repo(made.repo_id, private=True)
    hub.api().upload_file(
        path_or_fileobj=b'{"architecture": "resnet50"}', path_in_repo='config.json', repo_id=made.repo_id
    )
    with pytest.raises(InputError, match=r'holds the architecture resnet50, but this run trained aresnet18_relmha'):
        publish(made)


def test_unfinished_run_is_refused(hub, tmp_path):
    with pytest.raises(InputError, match=r'is not a finished run: it lacks results.json, .* Continue with --resume'):
        run_publication(tmp_path, hub.repo_id())


def test_snippets_of_a_published_card_run(hub, publication, tmp_path, monkeypatch):
    from PIL import Image

    made = publication()
    publish(made)
    card = hub.read(made.repo_id, 'README.md')
    snippets = re.findall(r'```python\n(.*?)```', card, flags=re.DOTALL)
    assert len(snippets) == 4
    Image.new('L', (40, 70)).save(tmp_path / 'crop.png')
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in snippets:
        exec(compile(snippet, 'README.md', 'exec'), names)
    assert names['probabilities'].sum().item() == pytest.approx(1)
    assert names['embedder'](names['crop']).shape == (1, 576)


def test_published_run_loads_with_equal_outputs_and_its_classes(hub, publication, finished_run):
    made = publication()
    publish(made)
    model = timm.create_model(f'hf-hub:{made.repo_id}', pretrained=True).eval()
    here = timm.create_model(f'local-dir:{finished_run / "model"}', pretrained=True).eval()
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(model(images), here(images))
    assert model.pretrained_cfg['label_names'] == ['person', 'vehicle', 'bicycle', 'dog']


@pytest.mark.parametrize('spelling', ['RUN/model', 'local-dir:RUN', 'local-dir:RUN/model'])
def test_a_run_is_published_by_every_name_of_its_folder(finished_run, spelling):
    named = run_publication(spelling.replace('RUN', str(finished_run)), 'you/x')
    assert named == run_publication(finished_run, 'you/x')


def test_rejection_is_published_with_the_model(hub, publication, finished_run):
    made = publication()
    publish(made)
    fetched, ours = load_rejection(f'hf-hub:{made.repo_id}'), load_rejection(f'local-dir:{finished_run / "model"}')
    assert fetched.confidence.tolist() == ours.confidence.tolist()
    card = hub.read(made.repo_id, 'README.md')
    assert f'calibrated on {len(ours.hits)} crops held out' in card
    assert f'divide the logits by {ours.temperature:.4f}' in card
    assert 'not calibrated' not in card
    other = hub.repo_id()
    hub.api().create_repo(other, private=True)
    with pytest.raises(InputError, match=r'has no rejection\.json'):
        load_rejection(f'hf-hub:{other}')
    with pytest.raises(InputError, match='nobody/nothing'):
        load_rejection('hf-hub:nobody/nothing')


def test_published_files_contain_no_local_paths(publication, finished_run, tiny_crops):
    record = json.loads((finished_run / 'results.json').read_text())
    assert str(tiny_crops) in json.dumps(record)  # the run itself records the folder of its crops
    texts = [content.decode() for content in publication().files.values() if isinstance(content, bytes)]
    assert len(texts) == 3
    for text in texts:
        assert str(tiny_crops) not in text
        assert str(finished_run) not in text
    assert 'data: crops\n' in texts[0]
    title = draw_confusion_matrix(read_results(finished_run / 'results.json', RunResults)).axes[0].get_title()
    assert ' on crops, validation' in title
    assert str(tiny_crops) not in title
