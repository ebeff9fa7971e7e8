"""The figure of the stage shows the current model."""

import re
import runpy
from xml.etree import ElementTree

import pytest


@pytest.fixture(scope='module')
def drawer(root):
    return runpy.run_path(str(root / 'docs' / 'draw_stage.py'))


def words(figure):
    return [''.join(element.itertext()) for element in ElementTree.fromstring(figure).findall('.//{*}text')]


def test_committed_figure_is_what_the_script_draws(root, drawer):
    drawn = drawer['draw'](drawer['read_stage']())
    assert (root / 'docs' / 'stage.svg').read_text(encoding='utf-8') == drawn, 'run docs/draw_stage.py'


def test_numbers_are_read_from_the_model(drawer):
    usual = words(drawer['draw'](drawer['read_stage']()))
    other = words(drawer['draw'](drawer['read_stage'](v_ratio=0.25, num_heads=4, transition_kernel=1)))
    assert '2048 + 256' in usual
    assert '2048 + 512' in other
    assert any(line.startswith('4 heads') for line in other)
    assert [line for line in other if '2304' in line] == []


def test_figure_loads_nothing_and_has_a_dark_scheme(root):
    figure = (root / 'docs' / 'stage.svg').read_text(encoding='utf-8')
    links = set(re.findall(r'https?://[^"\s<)]+', figure)) - {'http://www.w3.org/2000/svg'}
    assert links == set()
    assert '<script' not in figure
    assert 'prefers-color-scheme:dark' in figure
    assert ElementTree.fromstring(figure).get('viewBox').startswith('0 0 800 ')
