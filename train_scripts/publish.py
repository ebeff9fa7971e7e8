"""Publish a finished run on the Hugging Face Hub: weights, configuration, card, results and confusion matrix.

Examples:
    python train_scripts/publish.py --run runs/NAME --repo-id you/aresnet50_relmha.flir4 --dry-run
"""

from dataclasses import dataclass

import tyro

from timm_convattn.entry_point import entry_point
from timm_convattn.hub.publishing import publish, run_publication


@dataclass(frozen=True)
class Args:
    """Which run to publish, and where."""

    run: str
    """Folder of a finished run, or of its model."""
    repo_id: str
    """The repository, owner/name. It is created if it does not exist."""
    public: bool = False
    """Make the repository public."""
    tag: str | None = None
    """Tag of the commit, such as v1.0."""
    license: str | None = None
    """Licence of the weights, as the Hub names it. None: the licence of the weights that the run started from, or
    apache-2.0."""
    dry_run: bool = False
    """List the files that would be published, and publish nothing."""


def main(args: Args) -> None:
    """Publish a run, or list its files."""
    publication = run_publication(args.run, args.repo_id, args.license, args.public, args.tag)
    print(publication.describe())
    if args.dry_run:
        print('nothing was published (--dry-run)')
    else:
        print(f'published: {publish(publication)}')


if __name__ == '__main__':
    with entry_point():
        main(tyro.cli(Args, description=__doc__))
