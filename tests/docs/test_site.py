"""The documentation site builds without a warning, and a browser fetches nothing from other sites."""

import os
import re
import subprocess
import sys

import pytest
import yaml
from documents import ROOT

# what a browser fetches without a click
FETCHED = re.compile(
    r'(?:\bsrc=|<link[^>]+rel="?(?:stylesheet|preconnect|preload)"?[^>]*href=|@import\s+|url\()["\']?(https?:)?//', re.I
)


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    pytest.importorskip('material', reason='mkdocs-material is not installed (extra docs)')
    pytest.importorskip('mkdocstrings', reason='mkdocstrings is not installed (extra docs)')
    folder = tmp_path_factory.mktemp('docs') / 'site'
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(folder)]
    quiet = {**os.environ, 'NO_MKDOCS_2_WARNING': '1'}  # a warning of the theme about its own future
    built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert 'WARNING' not in built.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_there_and_nothing_but_pages(site):
    pages = {path.relative_to(ROOT / 'docs').with_suffix('') for path in (ROOT / 'docs').rglob('*.md')}
    built = {path.relative_to(site).with_suffix('') for path in site.rglob('*.html')}
    assert {str(path) for path in built - pages} == {'404'}
    assert pages <= built
    assert list(site.rglob('*.py')) == []
    assert (site / 'stage.svg').is_file()


@pytest.mark.slow
def test_reference_describes_what_is_public(site):
    described = {
        name for path in (site / 'api').glob('*.html') for name in re.findall(r' id="([\w.]+)"', path.read_text())
    }
    assert {
        'timm_convattn.layers.conv_attn.ConvAttnStage',
        'timm_convattn.layers.rel_mha.RelMha2d',
        'timm_convattn.models.aresnet.aresnet50_relmha',
        'timm_convattn.inference.Classifier',
        'timm_convattn.selective.choose_threshold',
        'timm_convattn.data.crops.build_crops',
        'timm_convattn.data.flir.read_flir',
        'timm_convattn.hub.saving.save_model',
    } <= described


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site):
    files = [path for kind in ('*.html', '*.css') for path in site.rglob(kind)]
    assert len(files) > 15
    assert [path.name for path in files if FETCHED.search(path.read_text())] == []


def test_a_fetched_font_would_be_noticed():
    assert FETCHED.search('<link rel="stylesheet" href="https://fonts.example/css?family=Roboto">')
    assert FETCHED.search('<script src="https://cdn.example/x.js"></script>')
    assert not FETCHED.search('<a href="https://keepachangelog.com">Keep a Changelog</a>')


def test_navigation_names_every_page():
    config = yaml.safe_load((ROOT / 'mkdocs.yml').read_text())

    def names(entry):
        children = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ()
        return {entry} if isinstance(entry, str) else {name for child in children for name in names(child)}

    pages = {str(path.relative_to(ROOT / 'docs')) for path in (ROOT / 'docs').rglob('*.md')}
    assert names(config['nav']) == pages
