"""Cut the annotated objects out of a FLIR ADAS folder and write them as a data set of crops.

Examples:
    python train_scripts/build_dataset.py --flir-root FLIR_ADAS_1_3 --out crops/four_class
    python train_scripts/build_dataset.py --flir-root FLIR_ADAS_1_3 --out crops/four_class --push-to-hub you/flir-crops
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from timm_convattn.data.crops import build_crops, built_crops, crop_options, format_counts, load_crops
from timm_convattn.data.sources import copy_scene_crops
from timm_convattn.entry_point import entry_point
from timm_convattn.figures import plot_crops
from timm_convattn.hub.publishing import check_redistribution, check_right_to_write, publish_crops


@dataclass(frozen=True)
class Args:
    """Options of the build."""

    out: Path
    """Folder to write, new or empty."""
    flir_root: Path | None = None
    """Folder of FLIR ADAS v1.3 or v2 (the one that holds the train folder). None: the embedded thermal scenes."""
    classes: Literal['four_class', 'two_class'] = 'four_class'
    """person, vehicle, bicycle, dog; or person, vehicle."""
    min_size: Annotated[int, tyro.conf.arg(metavar='PX')] = 1
    """Smallest side of a box to keep, in pixels. The paper keeps all."""
    num_proc: int = 1
    """Number of processes that decode. The crops do not depend on it."""
    engine: Literal['local', 'ray'] = 'local'
    """ray: decode on the nodes of a Ray cluster, which need the frames at the same path. The crops are the same."""
    address: str | None = None
    """Address of the Ray cluster, host:port or ray://host:port. None: a new one here with --num-proc CPUs."""
    missing: Literal['fail', 'skip'] = 'fail'
    """What to do with frames that are not on disk or cannot be decoded."""
    bits: Literal[8, 16] = 8
    """Use the 8-bit frames, or scale the 16-bit frames with the same names."""
    percentiles: tuple[float, float] = (1.0, 99.0)
    """For 16-bit frames: the percentiles of a frame that become black and white."""
    sheet: Path | None = None
    """PNG to write, with some crops of each class of the train split (as the paper's Fig. 5)."""
    push_to_hub: str | None = None
    """Publish the crops, of four and of two classes, as this data set on the Hub, owner/name; private."""
    public: bool = False
    """Let everyone see the data set on the Hub."""
    i_have_the_right: Annotated[bool, tyro.conf.arg(name='i-have-the-right-to-redistribute')] = False
    """Required for --public, because FLIR's terms forbid redistributing its frames, and crops are parts of them."""


def main(args: Args) -> None:
    """Build, print the counts, and publish."""
    if args.push_to_hub is not None:
        check_redistribution(args.public, drawn=args.flir_root is None, allowed=args.i_have_the_right)
        check_right_to_write(args.push_to_hub)
    options = crop_options(args.classes, args.min_size, args.missing, args.bits, args.percentiles)
    crops = built_crops(args.out, options) if args.push_to_hub is not None else None
    if crops is not None:
        print(f'{args.out} already exists, built with the same options')
    elif args.flir_root is None:
        crops = copy_scene_crops(args.out)
    else:
        crops = build_crops(
            args.flir_root,
            args.out,
            classes=args.classes,
            min_size=args.min_size,
            num_proc=args.num_proc,
            missing=args.missing,
            bits=args.bits,
            percentiles=args.percentiles,
            engine=args.engine,
            address=args.address,
        )
    print(f'crops of {crops.origin}: {args.out}')
    print(format_counts(crops))
    if args.sheet is not None:
        plot_crops(load_crops(args.out)['train'], args.sheet)
        print(f'sheet of crops: {args.sheet}')
    if args.push_to_hub is not None:
        address = publish_crops(args.out, args.push_to_hub, args.public, args.i_have_the_right)
        print(f'published: {address}')


if __name__ == '__main__':
    with entry_point():
        main(tyro.cli(Args, description=__doc__))
