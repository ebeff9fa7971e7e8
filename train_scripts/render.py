"""Fill the blocks of README.md that show results files (hub_cards/results/*.json)."""

from pathlib import Path

from timm_convattn.report import render_results

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Render in place."""
    readme = ROOT / 'README.md'
    readme.write_text(render_results(readme.read_text(), ROOT))


if __name__ == '__main__':
    main()
