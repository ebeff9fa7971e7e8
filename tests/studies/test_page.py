"""The report: its HTML is rendered from its Markdown, needs no other file, and shows any text as text."""

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from timm_convattn.studies.figures import EncodedFigure
from timm_convattn.studies.page import Chapter, Report, Section, write_pages
from timm_convattn.studies.tables import Table

HOSTILE = '<script>alert(1)</script> | *a* _b_ [c](javascript:d) ![e](f) `g` &lt; \\ # h\n\n# i'
SHOWN = ' '.join(HOSTILE.split())


class Page(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text = [], ''
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp('report')
    table = Table(['', HOSTILE], [[HOSTILE, '1'], ['plain', '2']], [HOSTILE], frozenset({0}))
    figures = [EncodedFigure(b'\x89PNG', 'png', HOSTILE), EncodedFigure(b'<svg/>', 'svg', 'caption')]
    sections = [
        Section(HOSTILE, HOSTILE, [HOSTILE], [figures[0], table, figures[1]]),
        Section('Twice'),
        Section('Twice'),
    ]
    data = SimpleNamespace(title=HOSTILE, class_names=('_a_', 'b'), sha256='0' * 64)
    report = Report({HOSTILE: HOSTILE}, ['python x.py'], {'Seeds': HOSTILE}, [Chapter(data, sections)] * 2)
    html, markdown = write_pages(report, folder)
    return Page(html.read_text()), markdown


def test_any_text_is_shown_as_text(written):
    page, _ = written
    shown = ' '.join(page.text.split())
    assert shown.count(SHOWN) == 2 + 1 + 2 * (2 + 9)  # scale, environment; titles, section
    assert not {'script', 'i'} & {tag for tag, _ in page.elements}
    assert len(page.all('h3')) == 2 * 3
    assert len(page.all('tr')) == 2 * 3
    assert len(page.all('strong')) == 1 + 2 + 2  # scale, chapters at a glance, significant rows


def test_page_needs_no_other_file_and_its_links_lead_somewhere(written):
    page, _ = written
    ids = [section['id'] for section in page.all('section')]
    assert len(ids) == len(set(ids)) == 1 + 2 * 4 + 1
    assert [link['href'] for link in page.all('a') if link['href'][1:] not in ids] == []
    assert {'twice', 'twice-1', 'twice-2', 'twice-3'} < set(ids)
    images = page.all('img')
    assert [image['src'].partition(',')[0] for image in images] == [
        'data:image/png;base64',
        'data:image/svg+xml;base64',
    ] * 2
    assert images[0]['alt'] == SHOWN


def test_markdown_refers_to_the_figures_next_to_it(written):
    _, markdown = written
    figures = re.findall(r'\]\((report_figures/[^)]+)\)', markdown.read_text())
    assert len(figures) == len(set(figures)) == 4
    assert {markdown.parent / figure for figure in figures} == {*(markdown.parent / 'report_figures').iterdir()}
    assert markdown.read_text().count('In the tables:') == 1
