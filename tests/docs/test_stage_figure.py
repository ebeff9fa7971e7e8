"""The picture of the stage shows the model that is there."""

import re
import runpy
from xml.etree import ElementTree

import pytest


@pytest.fixture(scope='module')
def drawer(root):
    return runpy.run_path(str(root / 'docs' / 'draw_stage.py'))


def words(picture):
    return [''.join(element.itertext()) for element in ElementTree.fromstring(picture).findall('.//{*}text')]


def test_committed_picture_is_what_the_script_draws(root, drawer):
    drawn = drawer['draw'](drawer['read_stage']())
    assert (root / 'docs' / 'stage.svg').read_text(encoding='utf-8') == drawn, 'run docs/draw_stage.py'


def test_numbers_are_read_off_the_model(drawer):
    usual = words(drawer['draw'](drawer['read_stage']()))
    other = words(drawer['draw'](drawer['read_stage'](v_ratio=0.25, num_heads=4, transition_kernel=1)))
    assert '2048 + 256' in usual
    assert '2048 + 512' in other
    assert any(line.startswith('4 heads') for line in other)
    assert [line for line in other if '2304' in line] == []


def test_picture_stands_alone_and_knows_the_dark(root):
    picture = (root / 'docs' / 'stage.svg').read_text(encoding='utf-8')
    links = set(re.findall(r'https?://[^"\s<)]+', picture)) - {'http://www.w3.org/2000/svg'}
    assert links == set()
    assert '<script' not in picture
    assert 'prefers-color-scheme:dark' in picture
    assert ElementTree.fromstring(picture).get('viewBox').startswith('0 0 800 ')
