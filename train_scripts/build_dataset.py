"""Cut the annotated objects out of a FLIR ADAS folder and write them as a data set of crops.

python train_scripts/build_dataset.py --flir-root FLIR_ADAS_1_3 --out crops/four_class
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from timm_convattn.data.crops import build_crops, load_crops
from timm_convattn.errors import exit_on_input_error
from timm_convattn.report import format_counts, plot_crops


@dataclass(frozen=True)
class Args:
    """What to build from which folder."""

    flir_root: Path
    """Folder of FLIR ADAS v1.3 or v2 (the one that holds the train folder)."""
    out: Path
    """Folder to write; it must not exist or be empty."""
    classes: Literal['four_class', 'two_class'] = 'four_class'
    """person, vehicle, bicycle, dog; or person, vehicle."""
    min_size: Annotated[int, tyro.conf.arg(metavar='PX')] = 1
    """Smallest side of a box to keep, in pixels. The paper keeps all."""
    num_proc: int = 1
    """Processes that decode. The crops are the same whatever their number."""
    missing: Literal['fail', 'skip'] = 'fail'
    """What to do with frames that are not on disk or cannot be decoded."""
    bits: Literal[8, 16] = 8
    """Use the 8-bit frames, or scale the 16-bit frames of the same names."""
    percentiles: tuple[float, float] = (1.0, 99.0)
    """For 16-bit frames: the percentiles of a frame that become black and white."""
    sheet: Path | None = None
    """PNG to write with some crops of each class of the train split (as the paper's Fig. 5)."""


def main(args: Args) -> None:
    """Build, and show what came of it."""
    crops = build_crops(
        args.flir_root,
        args.out,
        args.classes,
        args.min_size,
        args.num_proc,
        args.missing,
        args.bits,
        args.percentiles,
    )
    print(f'{args.flir_root}, laid out as {crops.layout} -> {args.out}')
    print(format_counts(crops))
    if args.sheet is not None:
        plot_crops(load_crops(args.out)['train'], args.sheet)
        print(f'some of them: {args.sheet}')


if __name__ == '__main__':
    with exit_on_input_error():
        main(tyro.cli(Args, description=__doc__))
