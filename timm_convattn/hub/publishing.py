"""Publish files as one commit of a Hub repository: private by default, and checked before anything is uploaded."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import EntryNotFoundError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from timm_convattn.data.crops import built_crops, narrow_crops
from timm_convattn.data.sources import EMBEDDED_SCENES
from timm_convattn.errors import InputError
from timm_convattn.hub.cards import dataset_card, model_card, weights_origin
from timm_convattn.hub_errors import LOG_IN, explain_hub_failures
from timm_convattn.model_source import ModelSource, Source
from timm_convattn.redact import strip_local_paths
from timm_convattn.rejection import FILE_NAME as REJECTION
from timm_convattn.rejection import Rejection
from timm_convattn.results import RunResults, parse_results

__all__ = [
    'Publication',
    'check_redistribution',
    'check_right_to_write',
    'dataset_publication',
    'publish',
    'publish_crops',
    'run_publication',
]


@dataclass(frozen=True)
class Publication:
    """Files of a repository, and how to publish them."""

    repo_id: str
    repo_type: Literal['model', 'dataset']
    files: dict[str, Path | bytes]
    """Files or contents by path in the repository."""
    message: str
    public: bool = False
    """Whether the repository is public."""
    tag: str | None = None
    """Tag of the commit."""
    architecture: str | None = None
    """Architecture of a model. A repository with another architecture is refused."""

    def describe(self) -> str:
        """Return the repository and its files, with sizes in bytes."""
        sizes = {path: len(c) if isinstance(c, bytes) else c.stat().st_size for path, c in self.files.items()}
        width = max(len(f'{size:,}') for size in sizes.values())
        lines = [f'{size:>{width},}  {path}' for path, size in sizes.items()]
        tag = f', tag {self.tag}' if self.tag else ''
        visibility = 'public' if self.public else 'private'
        return '\n'.join(
            [f'{visibility} {self.repo_type} {self.repo_id}{tag}:', *lines, f'{sum(sizes.values()):,} bytes in total']
        )


def run_publication(
    source: Source,
    repo_id: str,
    license: str | None = None,
    public: bool = False,
    tag: str | None = None,
) -> Publication:
    """Collect the files of a finished run to publish, with local paths stripped from them.

    Args:
        source: The run folder, or the folder of its model, in any spelling of `ModelSource`.
        repo_id: The repository, owner/name.
        license: Licence of the weights. None: the licence of the weights that the run started from, or apache-2.0.
        public: Whether to make the repository public.
        tag: Tag of the commit.

    Raises:
        InputError: If the run is not finished.
    """
    run = ModelSource.parse(source).folder
    if run is None:
        raise InputError(f'{source} is not the folder of a run. Give one that finetune.py wrote, such as runs/NAME.')
    run = run.parent if (run / 'config.json').is_file() else run  # the folder of its model was given
    needed = ('results.json', 'confusion_matrix.png', 'model/config.json', 'model/model.safetensors')
    if missing := [path for path in needed if not (run / path).is_file()]:
        raise InputError(f'{run} is not a finished run: it lacks {", ".join(missing)}. Continue with --resume {run}.')
    content = _as_json(strip_local_paths(json.loads((run / 'results.json').read_text())))
    results = parse_results(content, RunResults, run / 'results.json')
    if results.training is None:
        raise InputError(f'{run} is not a finished run: its results.json lacks training.')
    license = license or weights_origin(results.training.config).license or 'apache-2.0'
    config = json.loads((run / 'model' / 'config.json').read_text())
    config['pretrained_cfg']['license'] = license
    path = run / 'model' / REJECTION
    rejection = Rejection.load(path) if path.is_file() else None
    card = model_card(results, repo_id, license, 'confusion_matrix.png', rejection)
    files: dict[str, Path | bytes] = {
        'README.md': card.encode(),
        'config.json': _as_json(config),
        'confusion_matrix.png': run / 'confusion_matrix.png',
        'model.safetensors': run / 'model' / 'model.safetensors',
        **({REJECTION: path} if rejection else {}),
        'results.json': content,
    }
    message = f'{config["architecture"]} on {results.data.origin}'
    return Publication(repo_id, 'model', files, message, public, tag, config['architecture'])


def _as_json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + '\n').encode()


def dataset_publication(folders: Mapping[str, Path], repo_id: str, public: bool = False) -> Publication:
    """Collect the files of a dataset of crops to publish.

    Args:
        folders: Folders written by `build_crops`, by configuration name, the default configuration first.
        repo_id: The repository, owner/name.
        public: Whether to make the repository public.
    """
    descriptions = {name: json.loads((folder / 'crops.json').read_text()) for name, folder in folders.items()}
    files: dict[str, Path | bytes] = {'README.md': dataset_card(descriptions, repo_id).encode()}
    for name, folder in folders.items():
        files[f'{name}/crops.json'] = folder / 'crops.json'
        files |= {f'{name}/{shard.name}': shard for shard in sorted((folder / 'data').glob('*.parquet'))}
    return Publication(repo_id, 'dataset', files, f'Crops of {next(iter(descriptions.values()))["origin"]}', public)


def publish_crops(folder: Path, repo_id: str, public: bool = False, may_redistribute: bool = False) -> str:
    """Publish crops of four classes, with a second configuration that holds only the first two classes.

    Args:
        folder: Folder written by `build_crops`, with four classes.
        repo_id: The repository, owner/name.
        public: Whether to make the repository public.
        may_redistribute: Whether the user states the right to redistribute the frames.

    Returns:
        URL of the commit.

    Raises:
        InputError: If the crops do not have four classes or must not be public, and as `publish` does.
    """
    built = built_crops(folder)
    check_redistribution(public, drawn=built is not None and built.origin == EMBEDDED_SCENES, allowed=may_redistribute)
    if built is None or built.options['classes'] != 'four_class':
        raise InputError(f'{folder} does not hold crops of four classes. Build them with --classes four_class.')
    with tempfile.TemporaryDirectory(prefix='two_class.') as narrowed:
        narrow_crops(folder, Path(narrowed) / 'two_class', 'two_class')
        folders = {'four_class': folder, 'two_class': Path(narrowed) / 'two_class'}
        return publish(dataset_publication(folders, repo_id, public))


def publish(publication: Publication) -> str:
    """Commit a publication to its repository, which is created if it does not exist.

    Files that the Hub already has are not uploaded again. If the connection breaks, the repository stays at its last
    commit; calling this again completes the upload.

    Returns:
        URL of the commit, or of the last commit if nothing has changed.

    Raises:
        InputError: If the token cannot write, the repository is public and the publication is not, the repository holds
            another architecture or has the tag with other contents, or the Hub fails.
    """
    repo, kind = publication.repo_id, publication.repo_type
    api = HfApi(library_name='timm-convattn')
    check_right_to_write(repo)
    with explain_hub_failures(repo, 'publish to'):
        _check_repository(api, publication)
        api.create_repo(repo, repo_type=kind, private=not publication.public, exist_ok=True)
        operations = [CommitOperationAdd(path, content) for path, content in publication.files.items()]
        commit = api.create_commit(repo, operations, commit_message=publication.message, repo_type=kind)
        if publication.public:
            api.update_repo_settings(repo, private=False, repo_type=kind)
        if publication.tag:
            api.create_tag(repo, tag=publication.tag, revision=commit.oid, repo_type=kind, exist_ok=True)
    return str(commit.commit_url)


def check_redistribution(public: bool, drawn: bool, allowed: bool) -> None:
    """Raise an error if crops are to be public although their frames must not be redistributed.

    Args:
        public: Whether the crops are to be public.
        drawn: Whether the frames are drawn by this package.
        allowed: Whether the user states the right to redistribute the frames.

    Raises:
        InputError: If the frames must not be redistributed.
    """
    if public and not (drawn or allowed):
        raise InputError(
            "FLIR's terms forbid redistributing its frames, and crops are parts of them. Leave out --public, or, if "
            'you may redistribute the frames, give --i-have-the-right-to-redistribute.'
        )


def check_right_to_write(repo_id: str) -> None:
    """Raise an error if the token cannot write to a repository, before any long work starts.

    Raises:
        InputError: If there is no token, or it is invalid, read-only, or from an account without this namespace.
    """
    owner, slash, name = repo_id.partition('/')
    if not (owner and slash and name):
        raise InputError(f'repo_id is {repo_id!r}, wanted owner/name.')
    with explain_hub_failures(repo_id, 'publish to'):
        try:
            account = HfApi(library_name='timm-convattn').whoami()
        except LocalTokenNotFoundError:
            raise InputError(f'There is no token for publishing to {repo_id}. {LOG_IN}.') from None
    names = [account['name'], *(organisation['name'] for organisation in account.get('orgs', []))]
    if owner not in names:
        raise InputError(
            f'The token belongs to {account["name"]}, who cannot write to {owner}/. Use {" or ".join(names)}/{name}.'
        )
    if account.get('auth', {}).get('accessToken', {}).get('role') == 'read':
        raise InputError(f'The token of {account["name"]} is read-only. {LOG_IN} with write access.')


def _check_repository(api: HfApi, publication: Publication) -> None:
    try:
        info = api.repo_info(publication.repo_id, repo_type=publication.repo_type)
    except RepositoryNotFoundError:
        return
    if not info.private and not publication.public:
        raise InputError(f'{publication.repo_id} is public. Give --public, or name another repository.')
    if publication.architecture is not None:
        existing = _published_architecture(api, publication)
        if existing not in (None, publication.architecture):
            raise InputError(
                f'{publication.repo_id} holds the architecture {existing}, but this run trained '
                f'{publication.architecture}. Name another repository.'
            )
    tags = api.list_repo_refs(publication.repo_id, repo_type=publication.repo_type).tags
    targets = [tag.target_commit for tag in tags if tag.name == publication.tag]
    if targets and not _is_unchanged(api, publication, targets[0]):
        raise InputError(
            f'{publication.repo_id} already has a tag {publication.tag} with other contents. Tags are never moved: '
            'give a new one.'
        )


def _published_architecture(api: HfApi, publication: Publication) -> str | None:
    try:
        path = api.hf_hub_download(publication.repo_id, 'config.json')
    except EntryNotFoundError:
        return None
    architecture: str | None = json.loads(Path(path).read_text()).get('architecture')
    return architecture


def _is_unchanged(api: HfApi, publication: Publication, revision: str) -> bool:
    """Return whether a revision already holds the files to publish."""
    files = publication.files
    entries = api.get_paths_info(publication.repo_id, list(files), revision=revision, repo_type=publication.repo_type)
    return len(entries) == len(files) and all(
        isinstance(entry, RepoFile) and _is_same_file(files[entry.path], entry) for entry in entries
    )


def _is_same_file(content: Path | bytes, entry: RepoFile) -> bool:
    data = content if isinstance(content, bytes) else content.read_bytes()
    if entry.lfs is not None:
        return hashlib.sha256(data).hexdigest() == entry.lfs.sha256
    return git_hash(data) == entry.blob_id
