"""A Hub on this machine, for tests: the routes that huggingface_hub, timm and datasets ask for, over real HTTP.

    python tests/local_hub.py FOLDER        prints "local hub http://127.0.0.1:PORT" when it listens

Repositories live in memory, contents in FOLDER. Large files go the way they go on the Hub: by Git LFS, downloaded
from another origin (here another port). `POST /_faults` makes requests fail, `GET /_requests` lists them all.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import re
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

USERS = {
    'hf_you': ('you', 'write'),
    'hf_reader': ('you', 'read'),
    'hf_other': ('other', 'write'),
    'hf_timm': ('timm', 'write'),
}
LARGE = ('.safetensors', '.parquet', '.bin', '.png')  # what the Hub's .gitattributes hands to Git LFS
DATE = '2026-01-01T00:00:00.000Z'


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None):
        self.response = JSONResponse({'error': message}, status)
        self.response.headers['X-Error-Message'] = message
        if code:
            self.response.headers['X-Error-Code'] = code


@dataclass
class File:
    sha256: str
    size: int
    oid: str  # of the blob in git
    large: bool


@dataclass
class Commit:
    oid: str
    title: str
    files: dict[str, File]


@dataclass
class Repo:
    id: str
    kind: str  # models or datasets
    private: bool
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, title: str, files: dict[str, File]) -> Commit:
        self.commits.append(Commit(secrets.token_hex(20), title, files))
        return self.commits[-1]

    def at(self, revision: str) -> Commit:
        if revision == 'main':
            return self.commits[-1]
        for commit in self.commits:
            if commit.oid == self.tags.get(revision, revision):
                return commit
        raise Refused(404, f'Invalid rev id: {revision}', 'RevisionNotFound')


class Hub:
    def __init__(self, folder: Path):
        self.folder = folder
        self.repos: dict[tuple[str, str], Repo] = {}
        self.faults: list[dict] = []
        self.requests: list[str] = []
        self.origins = ['', '']  # of the Hub, and of its content network

    # contents

    def store(self, content: bytes, large: bool) -> File:
        sha256 = hashlib.sha256(content).hexdigest()
        (self.folder / sha256).write_bytes(content)
        return File(sha256, len(content), git_oid(content), large)

    def stored(self, sha256: str) -> File:
        if not re.fullmatch('[0-9a-f]{64}', sha256) or not (self.folder / sha256).is_file():
            raise Refused(400, f'There is no content {sha256}.')
        size = (self.folder / sha256).stat().st_size
        pointer = f'version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n'
        return File(sha256, size, git_oid(pointer.encode()), large=True)

    # who asks for what

    def user(self, request) -> tuple[str, str] | None:
        header = request.headers.get('authorization')
        if header is None:
            return None
        user = USERS.get(header.removeprefix('Bearer '))
        if user is None:
            raise Refused(401, 'Invalid credentials in Authorization header')
        return user

    def repo(self, request, write: bool = False) -> Repo:
        kind = request.path_params.get('kind') or (
            'datasets' if request.url.path.startswith('/datasets/') else 'models'
        )
        user = self.user(request)
        repo = self.repos.get((kind, f'{request.path_params["owner"]}/{request.path_params["name"]}'))
        owner = request.path_params['owner']
        if repo is None or (repo.private and (user is None or user[0] != owner)):
            raise Refused(401 if user is None else 404, 'Repository not found', 'RepoNotFound')
        if write and user != (owner, 'write'):
            raise Refused(401 if user is None else 403, "You don't have the rights to write to this repo")
        return repo

    # accounts and repositories

    async def whoami(self, request):
        user = self.user(request)
        if user is None:
            raise Refused(401, 'Invalid username or password.')
        token = {'accessToken': {'displayName': 'test', 'role': user[1]}, 'type': 'access_token'}
        return JSONResponse({'type': 'user', 'name': user[0], 'orgs': [], 'auth': token})

    async def create(self, request):
        asked, user = await request.json(), self.user(request)
        if user is None:
            raise Refused(401, 'Invalid username or password.')
        owner = asked.get('organization') or user[0]
        if user != (owner, 'write'):
            raise Refused(403, f'You don\'t have the rights to create a repo under the namespace "{owner}"')
        kind, name = asked.get('type', 'model') + 's', f'{owner}/{asked["name"]}'
        url = f'{self.origins[0]}/{"datasets/" if kind == "datasets" else ""}{name}'
        if (kind, name) in self.repos:
            return JSONResponse({'error': 'You already created this repo', 'url': url, 'name': name}, 409)
        private = asked.get('private') is True or asked.get('visibility') == 'private'
        repo = self.repos[kind, name] = Repo(name, kind, private)
        repo.commit('initial commit', {'.gitattributes': self.store(b'*.safetensors filter=lfs\n', large=False)})
        return JSONResponse({'url': url, 'name': name, 'id': name})

    async def settings(self, request):
        repo, asked = self.repo(request, write=True), await request.json()
        repo.private = asked.get('private') is True or asked.get('visibility') == 'private'
        return JSONResponse({'private': repo.private})

    async def info(self, request):
        repo = self.repo(request)
        commit = repo.at(request.path_params.get('revision', 'main'))
        files = [
            {'rfilename': path, 'size': file.size, 'blobId': file.oid} for path, file in sorted(commit.files.items())
        ]
        about = {'_id': git_oid(repo.id.encode())[:24], 'id': repo.id, 'sha': commit.oid, 'private': repo.private}
        times = {'lastModified': DATE, 'createdAt': DATE}
        return JSONResponse({**about, **times, 'gated': False, 'disabled': False, 'tags': [], 'siblings': files})

    async def refs(self, request):
        repo = self.repo(request)
        tags = [{'name': n, 'ref': f'refs/tags/{n}', 'targetCommit': oid} for n, oid in repo.tags.items()]
        main = {'name': 'main', 'ref': 'refs/heads/main', 'targetCommit': repo.commits[-1].oid}
        return JSONResponse({'branches': [main], 'tags': tags, 'converts': []})

    async def commits(self, request):
        listed = [
            {'id': c.oid, 'title': c.title, 'message': '', 'date': DATE, 'authors': []}
            for c in self.repo(request).commits
        ]
        return JSONResponse(listed[::-1])

    async def tag(self, request):
        repo, asked = self.repo(request, write=True), await request.json()
        if asked['tag'] in repo.tags:
            raise Refused(409, 'Tag reference exists already')
        repo.tags[asked['tag']] = repo.at(request.path_params['revision']).oid
        return JSONResponse({})

    async def tree(self, request):
        files = self.repo(request).at(request.path_params['revision']).files
        folder = request.path_params.get('path', '').strip('/')
        inside = {path: file for path, file in files.items() if not folder or path.startswith(f'{folder}/')}
        if folder and not inside:
            raise Refused(404, f'{folder} does not exist', 'EntryNotFound')
        entries = [entry(path, file) for path, file in sorted(inside.items())]
        if request.query_params.get('recursive', '').lower() not in ('true', '1'):
            depth = folder.count('/') + 2 if folder else 1
            entries = [e for e in entries if e['path'].count('/') < depth]
            folders = {'/'.join(path.split('/')[:depth]) for path in inside if path.count('/') >= depth}
            entries += [
                {'type': 'directory', 'path': path, 'size': 0, 'oid': git_oid(path.encode())}
                for path in sorted(folders)
            ]
        return JSONResponse(entries)

    async def paths_info(self, request):
        files = self.repo(request).at(request.path_params['revision']).files
        asked = parse_qs((await request.body()).decode())['paths']
        return JSONResponse([entry(path, files[path]) for path in asked if path in files])

    # uploads

    async def validate_yaml(self, request):
        return JSONResponse({'errors': [], 'warnings': []})

    async def preupload(self, request):
        files = self.repo(request, write=True).commits[-1].files
        answers = []
        for asked in (await request.json())['files']:
            old = files.get(asked['path'])
            mode = 'lfs' if asked['path'].endswith(LARGE) and asked['size'] else 'regular'
            answer = {'path': asked['path'], 'uploadMode': mode, 'shouldIgnore': False}
            if old:
                answer['oid'] = old.sha256 if old.large else old.oid
            answers.append(answer)
        return JSONResponse({'files': answers})

    async def lfs_batch(self, request):
        self.repo(request, write=True)
        objects = []
        for asked in (await request.json())['objects']:
            answer = {'oid': asked['oid'], 'size': asked['size']}
            if not (self.folder / asked['oid']).is_file():
                answer['actions'] = {'upload': {'href': f'{self.origins[0]}/_lfs/{asked["oid"]}', 'header': {}}}
            objects.append(answer)
        return JSONResponse({'transfer': 'basic', 'objects': objects})

    async def lfs_put(self, request):
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != request.path_params['oid']:
            raise Refused(400, 'The content is not what its name says.')
        self.store(content, large=True)
        return Response()

    async def commit(self, request):
        repo = self.repo(request, write=True)
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        header = next(line['value'] for line in lines if line['key'] == 'header')
        if header.get('parentCommit') not in (None, repo.commits[-1].oid):
            raise Refused(412, 'A commit has happened since. Please refresh and try again.')
        files = dict(repo.commits[-1].files)
        for line in lines:
            value = line['value']
            if line['key'] == 'file':
                files[value['path']] = self.store(base64.b64decode(value['content']), large=False)
            elif line['key'] == 'lfsFile':
                files[value['path']] = self.stored(value['oid'])
            elif line['key'] == 'deletedFile':
                del files[value['path']]
        commit = repo.commit(header['summary'], files)
        return JSONResponse({'commitOid': commit.oid, 'commitUrl': f'{self.origins[0]}/{repo.id}/commit/{commit.oid}'})

    # downloads

    async def resolve(self, request):
        commit = self.repo(request).at(request.path_params['revision'])
        file = commit.files.get(request.path_params['path'])
        if file is None:
            refused = Refused(404, 'Entry not found', 'EntryNotFound')
            refused.response.headers['X-Repo-Commit'] = commit.oid
            raise refused
        headers = {'X-Repo-Commit': commit.oid, 'ETag': f'"{file.oid}"'}
        if file.large:
            headers |= {'X-Linked-Etag': f'"{file.sha256}"', 'X-Linked-Size': str(file.size)}
            return RedirectResponse(f'{self.origins[1]}/_lfs/{file.sha256}', 302, headers)
        return FileResponse(self.folder / file.sha256, headers=headers)

    async def lfs_get(self, request):
        sha256 = request.path_params['oid']
        return FileResponse(self.folder / self.stored(sha256).sha256, headers={'ETag': f'"{sha256}"'})

    # tests

    async def add_fault(self, request):
        self.faults.append(await request.json())
        return Response()

    async def list_requests(self, request):
        return JSONResponse(self.requests)

    def app(self):
        repo = '/api/{kind}/{owner}/{name}'
        routes = [
            Route('/_faults', self.add_fault, methods=['POST']),
            Route('/_requests', self.list_requests),
            Route('/_lfs/{oid}', self.lfs_put, methods=['PUT']),
            Route('/_lfs/{oid}', self.lfs_get),
            Route('/api/whoami-v2', self.whoami),
            Route('/api/validate-yaml', self.validate_yaml, methods=['POST']),
            Route('/api/repos/create', self.create, methods=['POST']),
            Route(repo, self.info),
            Route(f'{repo}/revision/{{revision}}', self.info),
            Route(f'{repo}/settings', self.settings, methods=['PUT']),
            Route(f'{repo}/refs', self.refs),
            Route(f'{repo}/commits/{{revision}}', self.commits),
            Route(f'{repo}/tag/{{revision}}', self.tag, methods=['POST']),
            Route(f'{repo}/tree/{{revision}}', self.tree),
            Route(f'{repo}/tree/{{revision}}/{{path:path}}', self.tree),
            Route(f'{repo}/paths-info/{{revision}}', self.paths_info, methods=['POST']),
            Route(f'{repo}/preupload/{{revision}}', self.preupload, methods=['POST']),
            Route(f'{repo}/commit/{{revision}}', self.commit, methods=['POST']),
        ]
        for prefix in ('/datasets', ''):
            repository = f'{prefix}/{{owner}}/{{name}}'
            routes += [
                Route(f'{repository}.git/info/lfs/objects/batch', self.lfs_batch, methods=['POST']),
                Route(f'{repository}/resolve/{{revision}}/{{path:path}}', self.resolve),
            ]
        app = Starlette(routes=routes, exception_handlers={Refused: lambda request, refused: refused.response})
        return self.with_faults(app)

    def with_faults(self, app):
        """Note each request; answer those that a fault is meant for with its status, or break off in the middle."""

        async def handle(scope, receive, send):
            if scope['type'] != 'http':
                return await app(scope, receive, send)
            asked = f'{scope["method"]} {scope["path"]}'
            if not scope['path'].startswith(('/_faults', '/_requests')):
                self.requests.append(asked)
            for fault in self.faults:
                if fault['times'] > 0 and re.search(fault['match'], asked):
                    fault['times'] -= 1
                    return await fail(fault, send)
            return await app(scope, receive, send)

        return handle


async def fail(fault, send):
    headers = [(key.encode(), value.encode()) for key, value in fault.get('headers', {}).items()]
    if 'status' in fault:
        await send(
            {'type': 'http.response.start', 'status': fault['status'], 'headers': [*headers, (b'content-length', b'0')]}
        )
        return await send({'type': 'http.response.body'})
    # more is promised than comes: the server closes the connection
    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'1000000')]})
    await send({'type': 'http.response.body', 'body': b'cut', 'more_body': False})


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()


def entry(path: str, file: File) -> dict:
    listed = {'type': 'file', 'path': path, 'size': file.size, 'oid': file.oid}
    if file.large:
        listed['lfs'] = {'oid': file.sha256, 'size': file.size, 'pointerSize': 134}
    return listed


async def serve(folder: Path) -> None:
    hub = Hub(folder)
    sockets = [socket.create_server(('127.0.0.1', 0)) for _ in hub.origins]
    hub.origins = [f'http://127.0.0.1:{s.getsockname()[1]}' for s in sockets]
    app = hub.app()
    servers = [uvicorn.Server(uvicorn.Config(app, log_level='error', lifespan='off')) for _ in sockets]
    print(f'local hub {hub.origins[0]}', flush=True)
    await asyncio.gather(*(server.serve([s]) for server, s in zip(servers, sockets, strict=True)))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path)
    asyncio.run(serve(parser.parse_args().folder))
