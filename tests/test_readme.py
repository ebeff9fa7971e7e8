"""README says what is: its numbers are those of the results files, its Python runs, its files are there."""

import json
import re
import runpy
import shutil

import pytest
import torch
from documents import commands, read_command, run_python, snippets
from PIL import Image

from doc_blocks import render_results


@pytest.fixture
def readme(root):
    return (root / 'README.md').read_text()


def test_numbers_are_those_of_the_results_files(root, readme):
    assert '<!-- metrics hub_cards/results/quickstart.json -->\n```text\n' in readme
    assert '<!-- paper_models hub_cards/results/models.json -->\n| model |' in readme
    assert '<!-- benchmark hub_cards/results/attention.json -->\n|' in (root / 'docs' / 'costs.md').read_text()
    for path in (root / 'README.md', *(root / 'docs').glob('*.md')):
        assert render_results(path.read_text(), root) == path.read_text(), f'{path.name}: run train_scripts/render.py'


def test_cards_are_those_of_their_results(root):
    render = runpy.run_path(str(root / 'train_scripts' / 'render.py'))['render']
    cards = {path: text for path, text in render().items() if path.parent == root / 'hub_cards'}
    assert {path.name for path in cards} == {path.name for path in (root / 'hub_cards').glob('*.md')}
    assert len(cards) == 3
    for path, text in cards.items():
        assert path.read_text() == text, f'{path.name}: run train_scripts/render.py'


def test_renderer_follows_the_results(root, readme, tmp_path):
    results = tmp_path / 'hub_cards' / 'results'
    shutil.copytree(root / 'hub_cards' / 'results', results)
    record = json.loads((results / 'quickstart.json').read_text())
    record['metrics']['accuracy'] = 0.123456
    (results / 'quickstart.json').write_text(json.dumps(record))
    assert 'accuracy 0.1235' in render_results(readme, tmp_path)
    measured = json.loads((results / 'attention.json').read_text())
    measured['comparisons'][0] |= {'ratio': 0.123, 'spread': 0.456}
    (results / 'attention.json').write_text(json.dumps(measured))
    assert '(**0.12** ± 0.46)' in render_results((root / 'docs' / 'costs.md').read_text(), tmp_path)


def test_python_snippets_run_in_their_order(root, readme, tmp_path, monkeypatch):
    code = snippets(readme, 'python')
    assert len(code) >= 3
    shutil.copytree(root / 'tests' / 'fixtures' / 'run_0.1.0', tmp_path / 'runs' / 'NAME')
    Image.new('L', (20, 30)).save(tmp_path / 'crop.png')
    monkeypatch.chdir(tmp_path)
    names = run_python(code, 'README.md')
    assert names['prediction'].label in names['classifier'].class_names
    assert names['logits'].shape == (8, 4)
    assert [m.shape[1] for m in names['maps']] == [64, 256, 512, 1024, 2048 + 512]
    assert names['stage'](torch.rand(2, 1024, 14, 14)).shape == (2, 2304, 7, 7)


def test_every_path_that_it_names_exists(root, readme):
    paths = set(re.findall(r'train_scripts/[\w/]+\.\w+', readme))
    assert 'train_scripts/finetune.py' in paths
    assert [path for path in paths if not (root / path).exists()] == []


def test_every_command_is_read_by_its_program(readme):
    shown = commands(readme)
    assert len(shown) >= 15
    for words in shown:
        read_command(words)


def test_every_link_into_the_repository_leads_somewhere(root, readme):
    links = [link for link in re.findall(r'\]\(([^)\s]+)\)', readme) if not link.startswith(('http', '#'))]
    assert [link for link in links if not (root / link.partition('#')[0]).exists()] == []


def test_ci_runs_readmes_test_command(root, readme):
    assert "pip install -e '.[test]' && .venv/bin/pytest" in readme
    assert "pip install -e '.[test]'" in (root / '.ci' / 'run').read_text()
