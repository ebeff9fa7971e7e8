"""Failures of the Hub: one sentence, exit code 1, no token in it, no partial commit."""

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
    """Run publish.py and return the message that it fails with."""
    finished = script('publish.py', '--run', run, '--repo-id', repo_id, **changes)
    assert finished.returncode == 1, finished.stdout
    assert 'Traceback' not in finished.stderr
    assert not re.search(r'hf_(?!home)', finished.stdout + finished.stderr)
    return finished.stderr.strip().splitlines()[-1]


def test_missing_token_names_how_to_log_in(script, finished_run):
    message = refusal(script, finished_run, 'you/x', HF_TOKEN=None)
    assert 'There is no token' in message
    assert '`hf auth login`' in message


def test_bad_token_is_refused_and_not_printed(script, finished_run):
    message = refusal(script, finished_run, 'you/x', HF_TOKEN='hf_verysecret')
    assert 'the Hub does not accept the token' in message


def test_read_only_token_is_refused(script, finished_run):
    assert 'The token of you is read-only' in refusal(script, finished_run, 'you/x', HF_TOKEN='hf_reader')


def test_namespace_of_another_account_is_refused(script, finished_run):
    assert 'cannot write to other/. Use you/x' in refusal(script, finished_run, 'other/x')


@pytest.mark.parametrize('name', ['justaname', 'you/', '/x'])
def test_name_without_owner_is_refused(script, finished_run, name):
    assert 'wanted owner/name' in refusal(script, finished_run, name)


def test_invalid_repository_name_is_refused(script, finished_run):
    assert 'that is not a valid repository name' in refusal(script, finished_run, 'you/a--b')


@pytest.mark.parametrize(
    ('fault', 'message'),
    [
        (dict(status=403), r'the token is not allowed to'),
        (dict(status=409), r'the name is taken'),
        (dict(status=412), r'it was changed by someone else in the meantime'),
        (dict(status=429, headers={'Retry-After': '0'}), r'too many requests. Wait 0 seconds'),
        (dict(status=500), r'the Hub has a server error \(status 500'),
        (dict(status=418), r'the Hub answered 418'),
        (dict(), r'the connection failed'),
    ],
)
def test_failed_commit_is_explained_and_keeps_the_last_one(hub, publication, fault, message):
    made = publication()
    hub.fail(f'POST /api/models/{made.repo_id}/commit', times=10, **fault)
    with pytest.raises(InputError, match=message) as refused:
        publish(made)
    assert 'hf_you' not in str(refused.value)
    assert hub.api().list_repo_files(made.repo_id) == ['.gitattributes']


@pytest.mark.skipif(
    Version(huggingface_hub.__version__) < Version('1.24'),
    reason='older clients of the Hub do not retry after a broken connection',
)
def test_upload_is_retried_after_a_broken_connection(hub, publication):
    made = publication(license='bsd-3-clause')
    made.files['new.bin'] = made.repo_id.encode()  # content that the server does not have yet
    hub.fail('PUT /_lfs')
    publish(made)
    assert 'new.bin' in hub.api().list_repo_files(made.repo_id)


def test_upload_is_retried_after_a_rate_limit(hub, publication):
    made = publication()
    made.files['new.bin'] = made.repo_id.encode()
    hub.fail('PUT /_lfs', status=429, headers={'Retry-After': '0'})
    publish(made)
    assert 'new.bin' in hub.api().list_repo_files(made.repo_id)


def test_missing_repository_is_explained(script, hub):
    run = script('validate.py', '--model', 'hf-hub:you/nothing')
    assert run.returncode == 1
    assert 'it does not exist, or the token has no access to it' in run.stderr
    run = script('finetune.py', '--data', 'you/nothing')
    assert run.returncode == 1
    assert 'nor open the data set you/nothing' in run.stderr
    assert 'Traceback' not in run.stderr


@pytest.mark.slow
def test_unreachable_server_is_explained(hub, monkeypatch):
    from huggingface_hub import constants

    url = 'http://127.0.0.1:9'
    monkeypatch.setattr(constants, 'ENDPOINT', url)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', url + '/{repo_id}/resolve/{revision}/{filename}')
    with pytest.raises(InputError, match='it could not be reached, and the file is not in the cache'):
        fetch_weights('hf-hub:you/nothing')


def test_full_disk_is_explained():
    with pytest.raises(InputError, match=r'the disk is full\. Free some space'), explain_hub_failures('you/x', 'fetch'):
        raise OSError(errno.ENOSPC, 'No space left on device')


def test_token_in_a_message_is_masked(hub):
    with pytest.raises(InputError, match='Bearer <token>'), explain_hub_failures('you/x', 'fetch'):
        raise ValueError('bad header: Bearer hf_you')
