"""A local Hub, and clients that talk to it."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.request import Request, urlopen

import datasets
import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import close_session
from script_runner import ScriptServer

TINY_RUN = [
    *('--model', 'aresnet18_relmha', '--img-size', '32', '--in-chans', '1', '--batch-size', '8'),
    *('--epochs', '1', '--threads', '1', '--hold-out', '0.3'),
]
SERVER = Path(__file__).parent.parent / 'local_hub.py'


class LocalHub:
    """The server process, and its requests by tests."""

    def __init__(self, folder):
        self.process = subprocess.Popen([sys.executable, str(SERVER), str(folder)], stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split()[-1]

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def api(self, token='hf_you'):
        return HfApi(endpoint=self.url, token=token)

    def repo_id(self, owner='you'):
        """Return a name that no other test uses."""
        return f'{owner}/{uuid.uuid4().hex[:12]}'

    def fail(self, match, times=1, **what):
        """Make the next requests that match fail, with a status and headers or a broken connection."""
        fault = json.dumps({'match': match, 'times': times, **what}).encode()
        urlopen(Request(f'{self.url}/_faults', data=fault, method='POST'), timeout=10).close()

    def read(self, repo_id, name, repo_type='model'):
        """Return the text of a file in a repository."""
        return Path(self.api().hf_hub_download(repo_id, name, repo_type=repo_type)).read_text()

    def requests(self):
        with urlopen(f'{self.url}/_requests', timeout=10) as answer:
            return json.load(answer)


@pytest.fixture(scope='session')
def hub_server(tmp_path_factory):
    server = LocalHub(tmp_path_factory.mktemp('hub'))
    yield server
    server.stop()


@pytest.fixture(scope='session')
def environment(hub_server, tmp_path_factory):
    """Environment variables for talking to the local Hub as `you`, with a separate cache."""
    return {
        **{key: value for key, value in os.environ.items() if key not in ('HF_HUB_OFFLINE', 'HF_DATASETS_OFFLINE')},
        'HF_ENDPOINT': hub_server.url,
        'HF_HOME': str(tmp_path_factory.mktemp('hf_home')),
        'HF_HUB_DISABLE_TELEMETRY': '1',
        'HF_HUB_DISABLE_XET': '1',
        'HF_TOKEN': 'hf_you',
        'HF_UPDATE_DOWNLOAD_COUNTS': '0',
    }


@pytest.fixture
def hub(hub_server, monkeypatch, tmp_path):
    """The local Hub, with this process set up to talk to it as `you`, with an empty cache."""
    home = tmp_path / 'hf_home'
    for name, value in {
        'ENDPOINT': hub_server.url,
        'HF_HUB_CACHE': str(home / 'hub'),
        'HF_HUB_DISABLE_XET': True,
        'HF_HUB_OFFLINE': False,
        'HF_TOKEN_PATH': str(home / 'token'),
        'HUGGINGFACE_CO_URL_TEMPLATE': hub_server.url + '/{repo_id}/resolve/{revision}/{filename}',
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name, value in {
        'HF_DATASETS_CACHE': home / 'datasets',
        'HF_ENDPOINT': hub_server.url,
        'HF_HUB_OFFLINE': False,
        'HF_UPDATE_DOWNLOAD_COUNTS': False,
        'HUB_DATASETS_URL': hub_server.url + '/datasets/{repo_id}/resolve/{revision}/{path}',
    }.items():
        monkeypatch.setattr(datasets.config, name, value)
    monkeypatch.setenv('HF_TOKEN', 'hf_you')
    huggingface_hub.HfFileSystem.clear_instance_cache()
    close_session()
    yield hub_server
    close_session()


@pytest.fixture(scope='session')
def finished_run(root, tiny_crops, tmp_path_factory):
    """A finished run that takes seconds."""
    folder = tmp_path_factory.mktemp('runs') / 'tiny'
    command = [sys.executable, 'train_scripts/finetune.py', '--data', tiny_crops, '--output', folder, *TINY_RUN]
    subprocess.run([*map(str, command)], cwd=root, check=True, capture_output=True)
    return folder


@pytest.fixture
def publication(hub, finished_run):
    """Build the publication of the run to a new repository."""
    from timm_convattn.hub.publishing import run_publication

    def make(**kwargs):
        return run_publication(finished_run, **{'repo_id': hub.repo_id(), **kwargs})

    return make


@pytest.fixture(scope='session')
def script(root, environment):
    """Run a script in its own process."""
    server = ScriptServer(environment)

    def run(name, *args, **changes):
        return server.run(root / 'train_scripts' / name, *args, **changes)

    yield run
    server.stop()
