"""`timm-convattn explain`: why a model decides as it does about one image."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from timm_convattn.errors import InputError
from timm_convattn.explain import draw_explanation
from timm_convattn.files import write_bytes
from timm_convattn.inference import Classifier
from timm_convattn_cli.arguments import Bits, ModelName, Percentiles

__all__ = ['Explain']


@dataclass(frozen=True)
class Explain:
    """Draw where a model looks in an image, and what its decision rests on.

    $ timm-convattn explain runs/NAME crop.png --out why.png
    $ timm-convattn explain runs/NAME crop.png --out why.png --label bicycle --position 20 31
    """

    model: ModelName
    image: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar='IMAGE')]]
    """An image of one object."""
    out: Annotated[Path, tyro.conf.arg(metavar='PNG')]
    """PNG to draw to."""
    label: Annotated[str | None, tyro.conf.arg(metavar='NAME')] = None
    """The class to explain. None: the predicted one."""
    position: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar='ROW COLUMN')] = None
    """Row and column of the pixel whose look to draw. None: the mean of all."""
    bits: Bits = 8
    percentiles: Percentiles = (1.0, 99.0)

    def run(self) -> int:
        """Explain, draw and say."""
        if self.out.suffix.lower() != '.png':
            raise InputError(f'--out is {self.out}, wanted the name of a PNG, such as why.png.')
        if not self.image.is_file():
            raise InputError(f'There is no file {self.image}.')
        classifier = Classifier.load(self.model)
        image = classifier.open(self.image, self.percentiles if self.bits == 16 else None)
        explanation = classifier.explain(image, self.label, self.position)
        drawn = io.BytesIO()
        draw_explanation(explanation).savefig(drawn, format='png', dpi=120)
        write_bytes(self.out, drawn.getvalue())
        print(explanation.describe())
        print(f'drawn to {self.out}')
        return 0
