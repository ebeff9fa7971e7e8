"""`timm-convattn explain`: the reasons of a model's decision about one image."""

import io

from timm_convattn.errors import InputError
from timm_convattn.explain import draw_explanation
from timm_convattn.files import write_bytes
from timm_convattn.inference import load_classifier
from timm_convattn_cli.commands import Explain

__all__ = ['run']


def run(options: Explain) -> int:
    """Explain, draw and print."""
    if options.out.suffix.lower() != '.png':
        raise InputError(f'--out is {options.out}, wanted the name of a PNG file, such as why.png.')
    if not options.image.is_file():
        raise InputError(f'There is no file {options.image}.')
    classifier = load_classifier(options.model)
    image = classifier.open(options.image, options.percentiles if options.bits == 16 else None)
    explanation = classifier.explain(image, options.label, options.position)
    png = io.BytesIO()
    draw_explanation(explanation).savefig(png, format='png', dpi=120)
    write_bytes(options.out, png.getvalue())
    print(explanation.describe())
    print(f'figure written to {options.out}')
    return 0
