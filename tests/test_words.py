"""Names and texts use the words of CONTRIBUTING's glossary: those that it replaces are in none of our files."""

import io
import re
import subprocess
import tokenize

import pytest
from documents import ROOT

# searched as whole words, also within identifiers: `_` and a change of case separate words
BANNED = [
    *('sureness', 'how sure', 'no number', 'no numbers', 'the form', 'forms', 'mend', 'mended', 'made anew', 'anew'),
    *('least visible', 'seeds would have seen', 'rival', 'even look', 'even looks', 'wanted error', 'as it is'),
    *("of one's own", 'told apart', 'tells apart', 'twin', 'sketch model', 'without places', 'certainty'),
]
# `place` as a path or an index; "in place" is torch's term, and decimal places are digits
BANNED_PLACE = re.compile(r'(?<!in )(?<!decimal )(?<!takes )\bplaces?\b')
DOCSTRING = re.compile(r'^[rf]*("""|\'\'\')\s*Gives?\b')
KINDS = ('.py', '.md', '.yaml', '.yml', '.toml', '.jinja', '.ipynb', '.cff', '.sh')
# the glossary, the tables of old names and what reads old files quote them; recorded results are evidence
LEFT_OUT = re.compile(
    r'CONTRIBUTING\.md|CHANGELOG\.md|hub_cards/results/.*|tests/fixtures/.*|timm_convattn/results\.py|'
    r'tests/test_(words|results_files)\.py'
)


def plain(text):
    """Return a text in lower case, one space between words, parts of identifiers separated."""
    text = re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', text)
    return re.sub(r'[\s_#"`]+|\\n', ' ', text).lower()


def pieces(path, text):
    """Yield (line, text) of a file: tokens of Python, joined comments, paragraphs of everything else."""
    if path.suffix != '.py':
        line = 1
        for paragraph in re.split(r'(\n\s*\n)', text):
            yield line, paragraph
            line += paragraph.count('\n')
        return
    comment = []  # (line, text) of neighbouring lines
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comment.append((token.start[0], token.string))
        elif token.type not in (tokenize.NL, tokenize.NEWLINE):
            if comment:
                yield comment[0][0], ' '.join(string for _, string in comment)
                comment = []
            if token.type in (tokenize.STRING, tokenize.NAME, getattr(tokenize, 'FSTRING_MIDDLE', None)):
                yield token.start[0], token.string


def banned_words(path, text):
    """Yield `file:line: word` of each banned word."""
    phrase = re.compile(rf'\b(?:{"|".join(map(re.escape, BANNED))})\b')
    for line, piece in pieces(path, text):
        found = [*phrase.findall(plain(piece)), *BANNED_PLACE.findall(plain(piece))]
        found += ['Give'] if DOCSTRING.match(piece) else []
        yield from (f'{path.as_posix()}:{line}: {word}' for word in found)


def our_files():
    listed = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    names = [name for name in listed if name.endswith(KINDS) or name.startswith('.ci/')]
    return [ROOT / name for name in names if not LEFT_OUT.fullmatch(name) and (ROOT / name).exists()]


def test_no_file_uses_a_banned_word():
    found = [line for path in our_files() for line in banned_words(path.relative_to(ROOT), path.read_text())]
    assert found == [], f'{len(found)} banned words, see the glossary in CONTRIBUTING.md'


@pytest.mark.parametrize(
    'text',
    [
        'def f():\n    """Give the map."""',
        'x = least_visible',
        'class LeastVisible: pass',
        '# it is made\n# anew',
        "raise ValueError('the loss is no number')",
        'place = 1',
    ],
)
def test_banned_words_are_found(tmp_path, text):
    assert list(banned_words(tmp_path / 'a.py', f'{text}\n'))


@pytest.mark.parametrize('text', ['x.add_(1)  # in place', "t = 'transform, performs'", 'AugConv2d.in_place_of(conv)'])
def test_other_words_are_not(tmp_path, text):
    assert list(banned_words(tmp_path / 'a.py', f'{text}\n')) == []
