"""`timm-convattn export`: a model as one file that runs without this package."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

import tyro

from timm_convattn.errors import InputError
from timm_convattn.export import ENDINGS, Format, export_model
from timm_convattn.inference import Classifier
from timm_convattn.units import size
from timm_convattn_cli.arguments import ModelName

__all__ = ['Export']


@dataclass(frozen=True)
class Export:
    """Export a model to ONNX, TorchScript or torch.export, and compare what was written with it.

    $ timm-convattn export runs/NAME --out model.onnx
    $ timm-convattn export runs/NAME --out model.pt2 --dynamic
    $ timm-convattn export runs/NAME --out model.pt --img-size 96 128

    The file takes batches of any size of normalised images and gives logits. It also holds the names of the classes,
    how images are made its input, and the temperature by which to divide its logits before the softmax: in ONNX as
    metadata, in the others as convattn.json.
    """

    model: ModelName
    out: Annotated[Path, tyro.conf.arg(metavar='FILE')]
    """File to write."""
    format: Annotated[Format | None, tyro.conf.arg(metavar='{onnx,torchscript,pt2}')] = None
    """What to write. None: what the file's ending says, .onnx, .pt (torchscript) or .pt2."""
    img_size: Annotated[int | tuple[int, int] | None, tyro.conf.arg(metavar='S or H W')] = None
    """Side, or height and width, of the images in pixels. None: what the model was trained for."""
    dynamic: bool = False
    """Take any height and width, not only batches of any size."""

    def run(self) -> int:
        """Export, compare and say."""
        form = self.format or ENDINGS.get(self.out.suffix.lower())
        if form is None:
            raise InputError(
                f'{self.out} has no ending that says what to write. Give --format {", ".join(get_args(Format))}.'
            )
        done = export_model(Classifier.load(self.model), self.out, form, self.img_size, self.dynamic)
        checked = ', '.join(f'{batch} of {size(*where)}' for batch, *where in done.checked)
        takes = 'any size' if self.dynamic else size(*done.img_size)
        print(f'{done.path}: {form}, {done.path.stat().st_size / 1e6:,.1f} MB, takes images of {takes}')
        print(f'the same as the model on batches of {checked}: largest difference of a logit {done.difference:.1e}')
        return 0
