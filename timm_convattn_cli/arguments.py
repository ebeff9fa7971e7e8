"""Arguments that several commands take, in the same words."""

from typing import Annotated, Literal

import tyro

__all__ = ['Bits', 'ModelName', 'Percentiles']

ModelName = tyro.conf.Positional[
    Annotated[
        str,
        tyro.conf.arg(
            metavar='MODEL',
            help='Name of a timm model with weights, hf-hub:OWNER/NAME, local-dir:FOLDER, or the folder of a run.',
        ),
    ]
]
Bits = Annotated[
    Literal[8, 16],
    tyro.conf.arg(help='16: take images of more than 8 bits, too, and scale their counts by --percentiles.'),
]
Percentiles = Annotated[
    tuple[float, float],
    tyro.conf.arg(metavar='LOW HIGH', help="Percentiles of such an image's counts that become black and white."),
]
