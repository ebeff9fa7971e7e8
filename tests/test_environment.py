"""Measurements record the commit of the package, and no other."""

import shutil
import subprocess

from timm_convattn import environment


def git(folder, *args):
    identity = ['-c', 'user.name=somebody', '-c', 'user.email=somebody@example.org']
    subprocess.run(['git', *identity, *args], cwd=folder, check=True, capture_output=True)


def test_commit_is_recorded_only_if_the_package_is_part_of_it(tmp_path, monkeypatch):
    copy = tmp_path / 'environment.py'
    shutil.copy(environment.__file__, copy)
    monkeypatch.setattr(environment, '__file__', str(copy))
    assert environment.describe_environment().commit is None

    git(tmp_path, 'init', '--quiet')
    (tmp_path / 'other.txt').write_text('installed within a repository of something else')
    git(tmp_path, 'add', 'other.txt')
    git(tmp_path, 'commit', '--quiet', '--message', 'another')
    assert environment.describe_environment().commit is None

    git(tmp_path, 'add', 'environment.py')
    git(tmp_path, 'commit', '--quiet', '--message', 'ours')
    commit = environment.describe_environment().commit
    assert len(commit) >= 7
    copy.write_text('')
    assert environment.describe_environment().commit == f'{commit}-dirty'
