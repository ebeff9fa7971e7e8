"""`timm-convattn export`: a model as one file that runs without this package."""

from typing import get_args

from timm_convattn.errors import InputError
from timm_convattn.export import ENDINGS, Format, export_model
from timm_convattn.inference import load_classifier
from timm_convattn_cli.commands import Export
from timm_convattn_cli.text import size

__all__ = ['run']


def run(options: Export) -> int:
    """Export, compare and print."""
    name = options.format or ENDINGS.get(options.out.suffix.lower())
    if name is None:
        raise InputError(f'The suffix of {options.out} names no format. Give --format {", ".join(get_args(Format))}.')
    done = export_model(load_classifier(options.model), options.out, name, options.img_size, options.dynamic)
    checked = ', '.join(f'{batch} of {size(*img_size)}' for batch, *img_size in done.checked)
    accepts = 'any size' if options.dynamic else size(*done.img_size)
    print(f'{done.path}: {name}, {done.path.stat().st_size / 1e6:,.1f} MB, accepts images of {accepts}')
    print(f'matches the model on batches of {checked}: largest difference of a logit {done.difference:.1e}')
    return 0
