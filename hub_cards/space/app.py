"""The demo: the class of a thermal image, the confidence, whether the model answers or rejects, and why.

python hub_cards/space/app.py --model runs/NAME
python hub_cards/space/app.py --model hf-hub:OWNER/NAME --reject-at 0.05 --port 7861

On the Hub, the variables MODEL and REJECT_AT of the Space set the same options.
"""

import os
from dataclasses import dataclass

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # read when gradio is imported

import tyro
from page import STYLE, THEME, Page
from targets import list_targets

from timm_convattn.entry_point import entry_point
from timm_convattn.errors import InputError
from timm_convattn.inference import load_classifier

MAX_UPLOAD = '128mb'  # twice the largest annotations of FLIR ADAS


@dataclass(frozen=True)
class Arguments:
    """Options of the demo."""

    model: str = os.environ.get('MODEL', '')
    """The folder of a run, local-dir:FOLDER, hf-hub:OWNER/NAME, or the name of a timm model with weights. Default: the
    variable MODEL."""
    reject_at: float | None = None
    """Target error rate that is selected at first, for a model that can reject. Default: the variable REJECT_AT, or
    none."""
    port: int | None = None
    """Port of the server. Default: 7860, or the next free one."""
    device: str = 'cpu'
    """Device that runs the model."""


def main(args: Arguments) -> None:
    """Load the model, draw the examples, and serve the page until interrupted."""
    if not args.model:
        raise InputError(
            'No model is given. Give a trained one, --model runs/NAME, or one of the Hub, --model hf-hub:OWNER/NAME; '
            'in a Space, set its variable MODEL.'
        )
    rate = args.reject_at if args.reject_at is not None else _parse_rate(os.environ.get('REJECT_AT', ''))
    targets = list_targets(load_classifier(args.model, device=args.device), rate)
    Page(args.model, targets, rate).build().launch(
        server_port=args.port,
        share=False,
        ssr_mode=False,
        footer_links=[],
        theme=THEME,
        css_paths=STYLE,
        max_file_size=MAX_UPLOAD,
    )


def _parse_rate(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise InputError(f'The variable REJECT_AT is {text!r}, wanted an error rate, such as 0.05.') from None


if __name__ == '__main__':
    with entry_point():
        main(tyro.cli(Arguments, description=__doc__))
