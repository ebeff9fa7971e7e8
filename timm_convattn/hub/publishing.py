"""Files into one commit of a repository on the Hub: private unless said, and checked before anything is sent."""

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

from timm_convattn.data.crops import built_crops, narrow_crops
from timm_convattn.data.sources import EMBEDDED_SCENES
from timm_convattn.errors import InputError
from timm_convattn.hub.cards import dataset_card, model_card, weights_origin
from timm_convattn.hub_errors import LOG_IN, explain_hub_failures
from timm_convattn.redact import strip_local_paths
from timm_convattn.rejection import FILE_NAME as REJECTION

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
    """What is to be in a repository."""

    repo_id: str
    repo_type: Literal['model', 'dataset']
    files: dict[str, Path | bytes]
    """Files or contents by their path in the repository."""
    message: str
    public: bool = False
    """Whether everyone may see the repository."""
    tag: str | None = None
    """Tag of the commit."""
    architecture: str | None = None
    """Architecture of a model: a repository that holds another one is refused."""

    def describe(self) -> str:
        """List what would go where, with sizes in bytes."""
        sizes = {path: len(c) if isinstance(c, bytes) else c.stat().st_size for path, c in self.files.items()}
        width = max(len(f'{size:,}') for size in sizes.values())
        lines = [f'{size:>{width},}  {path}' for path, size in sizes.items()]
        tag = f', tag {self.tag}' if self.tag else ''
        seen_by = 'public' if self.public else 'private'
        return '\n'.join(
            [f'{seen_by} {self.repo_type} {self.repo_id}{tag}:', *lines, f'{sum(sizes.values()):,} bytes in all']
        )


def run_publication(
    run: Path,
    repo_id: str,
    license: str | None = None,
    public: bool = False,
    tag: str | None = None,
) -> Publication:
    """Gather what is published of a finished run, without the places that it names on this machine.

    Args:
        run: The run folder.
        repo_id: The repository, owner/name.
        license: Licence of the weights. None: that of the weights that the run started from, or apache-2.0.
        public: Whether everyone may see the repository.
        tag: Tag of the commit.

    Raises:
        InputError: If the run is not finished, or has no safetensors.
    """
    needed = ('results.json', 'confusion_matrix.png', 'model/config.json', 'model/model.safetensors')
    if missing := [path for path in needed if not (run / path).is_file()]:
        raise InputError(f'{run} is no finished run: it lacks {", ".join(missing)}. Go on with --resume {run}.')
    record = strip_local_paths(json.loads((run / 'results.json').read_text()))
    license = license or weights_origin(record['training']['config']).license or 'apache-2.0'
    config = json.loads((run / 'model' / 'config.json').read_text())
    config['pretrained_cfg']['license'] = license
    card = model_card(record, repo_id, license, figure='confusion_matrix.png')
    files: dict[str, Path | bytes] = {
        'README.md': card.encode(),
        'config.json': _as_json(config),
        'confusion_matrix.png': run / 'confusion_matrix.png',
        'model.safetensors': run / 'model' / 'model.safetensors',
        **{path.name: path for path in [run / 'model' / REJECTION] if path.is_file()},
        'results.json': _as_json(record),
    }
    message = f'{config["architecture"]} on {record["data"].get("origin", record["data"]["source"])}'
    return Publication(repo_id, 'model', files, message, public, tag, config['architecture'])


def _as_json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + '\n').encode()


def dataset_publication(
    folders: Mapping[str, Path],
    repo_id: str,
    public: bool = False,
) -> Publication:
    """Gather what is published of data sets of crops.

    Args:
        folders: What `build_crops` wrote, by the name of the configuration that it becomes; the first is the default.
        repo_id: The repository, owner/name.
        public: Whether everyone may see the repository.
    """
    made = {name: json.loads((folder / 'crops.json').read_text()) for name, folder in folders.items()}
    files: dict[str, Path | bytes] = {'README.md': dataset_card(made, repo_id).encode()}
    for name, folder in folders.items():
        files[f'{name}/crops.json'] = folder / 'crops.json'
        files |= {f'{name}/{shard.name}': shard for shard in sorted((folder / 'data').glob('*.parquet'))}
    return Publication(repo_id, 'dataset', files, f'Crops of {next(iter(made.values()))["origin"]}', public)


def publish_crops(folder: Path, repo_id: str, public: bool = False, may_redistribute: bool = False) -> str:
    """Publish crops of four classes, and those of the first two as a configuration of its own.

    Args:
        folder: What `build_crops` wrote, of four classes.
        repo_id: The repository, owner/name.
        public: Whether everyone may see the repository.
        may_redistribute: Whether the user has said to have the right to pass the frames on.

    Returns:
        The address of the commit.

    Raises:
        InputError: If the crops are not of four classes, or must not be public; and as `publish` does.
    """
    made = built_crops(folder)
    check_redistribution(public, drawn=made is not None and made.origin == EMBEDDED_SCENES, allowed=may_redistribute)
    if made is None or made.options['classes'] != 'four_class':
        raise InputError(f'{folder} has not the four classes that are published: build it with --classes four_class.')
    with tempfile.TemporaryDirectory(prefix='two_class.') as narrowed:
        narrow_crops(folder, Path(narrowed) / 'two_class', 'two_class')
        folders = {'four_class': folder, 'two_class': Path(narrowed) / 'two_class'}
        return publish(dataset_publication(folders, repo_id, public))


def publish(publication: Publication) -> str:
    """Bring a repository to what a publication says, in one commit.

    What is there already is not sent again. If the connection breaks, the repository stays at its last commit, and
    doing the same again completes it.

    Returns:
        The address of the commit; that of the last one where nothing has changed.

    Raises:
        InputError: If there is no right to write, the repository is public and the publication is not, holds another
            architecture, or has the tag at another commit; and for whatever goes wrong on the way.
    """
    repo, kind = publication.repo_id, publication.repo_type
    api = HfApi(library_name='timm-convattn')
    check_right_to_write(repo)
    with explain_hub_failures(repo, 'publish to'):
        _check_what_is_there(api, publication)
        api.create_repo(repo, repo_type=kind, private=not publication.public, exist_ok=True)
        operations = [CommitOperationAdd(path, content) for path, content in publication.files.items()]
        commit = api.create_commit(repo, operations, commit_message=publication.message, repo_type=kind)
        if publication.public:
            api.update_repo_settings(repo, private=False, repo_type=kind)
        if publication.tag and publication.tag not in _tags(api, publication):
            api.create_tag(repo, tag=publication.tag, revision=commit.oid, repo_type=kind)
    return str(commit.commit_url)


def check_redistribution(public: bool, drawn: bool, allowed: bool) -> None:
    """Refuse to make crops public of frames that must not be passed on.

    Args:
        public: Whether everyone is to see them.
        drawn: Whether the frames are those that this package draws.
        allowed: Whether the user has said to have the right to pass the frames on.

    Raises:
        InputError: If they must not.
    """
    if public and not (drawn or allowed):
        raise InputError(
            "FLIR's terms forbid to pass its frames on, and crops are parts of them: leave out --public. Where the "
            'frames are yours to give, say --i-have-the-right-to-redistribute.'
        )


def check_right_to_write(repo_id: str) -> None:
    """Refuse a name that the token cannot write to, before work starts that ends there.

    Raises:
        InputError: If there is no token, or it is not valid, only reads, or is of an account without such a name.
    """
    owner, slash, name = repo_id.partition('/')
    if not (owner and slash and name):
        raise InputError(f'repo_id is {repo_id!r}, wanted owner/name.')
    with explain_hub_failures(repo_id, 'publish to'):
        try:
            account = HfApi(library_name='timm-convattn').whoami()
        except LocalTokenNotFoundError:
            raise InputError(f'There is no token to publish to {repo_id} with. {LOG_IN}.') from None
    names = [account['name'], *(organisation['name'] for organisation in account.get('orgs', []))]
    if owner not in names:
        raise InputError(
            f'The token is of {account["name"]}, who cannot write to {owner}/: use {" or ".join(names)}/{name}.'
        )
    if account.get('auth', {}).get('accessToken', {}).get('role') == 'read':
        raise InputError(f'The token of {account["name"]} can only read. {LOG_IN}, with the right to write.')


def _check_what_is_there(api: HfApi, publication: Publication) -> None:
    try:
        info = api.repo_info(publication.repo_id, repo_type=publication.repo_type)
    except RepositoryNotFoundError:
        return
    if not info.private and not publication.public:
        raise InputError(f'{publication.repo_id} is public. Say --public, or name another repository.')
    if publication.architecture is not None:
        there = _architecture_there(api, publication)
        if there not in (None, publication.architecture):
            raise InputError(
                f'{publication.repo_id} holds an {there}, and this is an {publication.architecture}. '
                'Name another repository.'
            )
    target = _tags(api, publication).get(publication.tag or '')
    if target is not None and not _is_unchanged(api, publication, target):
        raise InputError(
            f'{publication.repo_id} has a tag {publication.tag} already, of other contents. Tags stay where they are: '
            'name a new one.'
        )


def _architecture_there(api: HfApi, publication: Publication) -> str | None:
    try:
        path = api.hf_hub_download(publication.repo_id, 'config.json')
    except EntryNotFoundError:
        return None
    architecture: str | None = json.loads(Path(path).read_text()).get('architecture')
    return architecture


def _tags(api: HfApi, publication: Publication) -> dict[str, str]:
    refs = api.list_repo_refs(publication.repo_id, repo_type=publication.repo_type)
    return {tag.name: tag.target_commit for tag in refs.tags}


def _is_unchanged(api: HfApi, publication: Publication, revision: str) -> bool:
    """Say whether a revision holds what is to be published."""
    files = publication.files
    there = api.get_paths_info(publication.repo_id, list(files), revision=revision, repo_type=publication.repo_type)
    return len(there) == len(files) and all(
        isinstance(entry, RepoFile) and _is_the_file(files[entry.path], entry) for entry in there
    )


def _is_the_file(content: Path | bytes, entry: RepoFile) -> bool:
    data = content if isinstance(content, bytes) else content.read_bytes()
    if entry.lfs is not None:
        return hashlib.sha256(data).hexdigest() == entry.lfs.sha256
    name = hashlib.sha1(b'blob %d\0' % len(data) + data, usedforsecurity=False)  # what git calls a content by
    return name.hexdigest() == entry.blob_id
