"""What anyone meets on the way to the Hub: a sentence, exit code 1, no token, nothing half done."""

import errno
import re

import huggingface_hub
import pytest
from packaging.version import Version

from timm_convattn.errors import InputError
from timm_convattn.hub.loading import fetch_weights
from timm_convattn.hub.publishing import publish
from timm_convattn.hub_errors import explain_hub_failures


def refusal(script, run, repo_id, **changes):
    """What publish.py says when it refuses."""
    finished = script('publish.py', '--run', run, '--repo-id', repo_id, **changes)
    assert finished.returncode == 1, finished.stdout
    assert 'Traceback' not in finished.stderr
    assert not re.search(r'hf_(?!home)', finished.stdout + finished.stderr)
    return finished.stderr.strip().splitlines()[-1]


def test_missing_token_says_how_to_log_in(script, finished_run):
    said = refusal(script, finished_run, 'you/x', HF_TOKEN=None)
    assert 'There is no token' in said
    assert '`hf auth login`' in said


def test_bad_token_is_refused_and_not_printed(script, finished_run):
    said = refusal(script, finished_run, 'you/x', HF_TOKEN='hf_verysecret')
    assert 'the Hub does not accept the token' in said


def test_token_that_only_reads_is_refused(script, finished_run):
    assert 'The token of you can only read' in refusal(script, finished_run, 'you/x', HF_TOKEN='hf_reader')


def test_namespace_of_someone_else_is_refused_with_ones_own(script, finished_run):
    assert 'cannot write to other/: use you/x' in refusal(script, finished_run, 'other/x')


@pytest.mark.parametrize('name', ['justaname', 'you/', '/x'])
def test_name_without_owner_is_refused(script, finished_run, name):
    assert 'wanted owner/name' in refusal(script, finished_run, name)


def test_name_that_the_hub_does_not_allow_is_refused(script, finished_run):
    assert 'that is no name of a repository' in refusal(script, finished_run, 'you/a--b')


@pytest.mark.parametrize(
    ('fault', 'message'),
    [
        (dict(status=403), r'the token has no right to do that'),
        (dict(status=409), r'the name is taken'),
        (dict(status=412), r'somebody else has changed it in between'),
        (dict(status=429, headers={'Retry-After': '0'}), r'too many requests. Wait 0 seconds'),
        (dict(status=500), r'the Hub has a problem of its own \(status 500'),
        (dict(status=418), r'the Hub answered 418'),
        (dict(), r'the connection failed'),
    ],
)
def test_failed_commit_says_why_and_leaves_the_last_one(hub, publication, fault, message):
    made = publication()
    hub.fail(f'POST /api/models/{made.repo_id}/commit', times=10, **fault)
    with pytest.raises(InputError, match=message) as refused:
        publish(made)
    assert 'hf_you' not in str(refused.value)
    assert hub.api().list_repo_files(made.repo_id) == ['.gitattributes']


@pytest.mark.skipif(
    Version(huggingface_hub.__version__) < Version('1.24'), reason='older clients of the Hub do not go on after a cut'
)
def test_upload_that_is_cut_once_goes_on_by_itself(hub, publication):
    made = publication(license='bsd-3-clause')
    made.files['new.bin'] = made.repo_id.encode()  # a content that the server does not have yet
    hub.fail('PUT /_lfs')
    publish(made)
    assert 'new.bin' in hub.api().list_repo_files(made.repo_id)


def test_rate_limit_that_passes_is_waited_for(hub, publication):
    made = publication()
    made.files['new.bin'] = made.repo_id.encode()
    hub.fail('PUT /_lfs', status=429, headers={'Retry-After': '0'})
    publish(made)
    assert 'new.bin' in hub.api().list_repo_files(made.repo_id)


def test_repository_that_is_not_there_is_said(script, hub):
    said = script('validate.py', '--model', 'hf-hub:you/nothing')
    assert said.returncode == 1
    assert 'there is no such repository that the token may see' in said.stderr
    said = script('finetune.py', '--data', 'you/nothing')
    assert said.returncode == 1
    assert 'nor open the data set you/nothing' in said.stderr
    assert 'Traceback' not in said.stderr


@pytest.mark.slow
def test_server_that_is_gone_is_said(hub, monkeypatch):
    from huggingface_hub import constants

    url = 'http://127.0.0.1:9'
    monkeypatch.setattr(constants, 'ENDPOINT', url)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', url + '/{repo_id}/resolve/{revision}/{filename}')
    with pytest.raises(InputError, match='it could not be reached, and the cache does not have what is needed'):
        fetch_weights('hf-hub:you/nothing')


def test_full_disk_is_said():
    with pytest.raises(InputError, match=r'the disk is full\. Make room'), explain_hub_failures('you/x', 'fetch'):
        raise OSError(errno.ENOSPC, 'No space left on device')


def test_token_in_a_message_is_blotted_out(hub):
    with pytest.raises(InputError, match='Bearer <token>'), explain_hub_failures('you/x', 'fetch'):
        raise ValueError('bad header: Bearer hf_you')
