"""Render results files (hub_cards/results/*.json): the blocks of README and docs, and the cards in hub_cards."""

import json
from pathlib import Path

from doc_blocks import render_results
from timm_convattn.hub.cards import dataset_card, model_card
from timm_convattn.results import RunResults, read_results

ROOT = Path(__file__).parent.parent
CARDS = ROOT / 'hub_cards'
MODELS = ('aresnet50_relmha', 'avgg16_relmha')
DATA_SETS = ('thermal_scenes',)


def render() -> dict[Path, str]:
    """Return the text of each file."""
    documents = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
    files = {path: render_results(path.read_text(), ROOT) for path in documents}
    for name in MODELS:
        results = read_results(CARDS / 'results' / f'{name}.json', RunResults)
        files[CARDS / f'{name}.md'] = model_card(results, license='apache-2.0')
    for name in DATA_SETS:
        crops = json.loads((CARDS / 'results' / f'{name}.json').read_text())
        files[CARDS / f'{name}.md'] = dataset_card({'four_class': crops})
    return files


def main() -> None:
    """Write all files."""
    for path, text in render().items():
        path.write_text(text)


if __name__ == '__main__':
    main()
