"""The demo: which class a thermal image is of, how sure the model is, whether it answers, and where it looks.

python hub_cards/space/app.py --model local-dir:runs/NAME/model
python hub_cards/space/app.py --model hf-hub:OWNER/NAME --reject-at 0.05 --port 7861

On the Hub the variables MODEL and REJECT_AT of the Space say the same.
"""

import os
from dataclasses import dataclass

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # read when gradio is imported

import tyro
from page import STYLE, THEME, Page
from promises import list_promises

from timm_convattn.entry_point import entry_point
from timm_convattn.errors import InputError
from timm_convattn.inference import Classifier

LARGEST_UPLOAD = '128mb'  # the largest annotations of FLIR ADAS have about half of it


@dataclass(frozen=True)
class Arguments:
    """Which model the demo is of."""

    model: str = os.environ.get('MODEL', '')
    """hf-hub:OWNER/NAME, local-dir:FOLDER, or the folder of a run. Default: the variable MODEL."""
    reject_at: float | None = None
    """Share of wrong answers that is promised at first, where the model may reject. Default: the variable REJECT_AT,
    or none."""
    port: int | None = None
    """Where to listen. Default: 7860, or the next that is free."""
    device: str = 'cpu'
    """Where the model runs."""


def main(args: Arguments) -> None:
    """Load the model, draw the examples, and serve the page until it is interrupted."""
    if not args.model:
        raise InputError(
            'No model is named. Give one that was trained here, --model local-dir:runs/NAME/model, or one of the Hub, '
            '--model hf-hub:OWNER/NAME; in a Space, set its variable MODEL to the same.'
        )
    wanted = args.reject_at if args.reject_at is not None else _rate_of(os.environ.get('REJECT_AT', ''))
    promises = list_promises(Classifier.load(args.model, device=args.device), wanted)
    Page(args.model, promises, wanted).build().launch(
        server_port=args.port,
        share=False,
        ssr_mode=False,
        footer_links=[],
        theme=THEME,
        css_paths=STYLE,
        max_file_size=LARGEST_UPLOAD,
    )


def _rate_of(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise InputError(
            f'The variable REJECT_AT is {text!r}, wanted a share of wrong answers, such as 0.05.'
        ) from None


if __name__ == '__main__':
    with entry_point():
        main(tyro.cli(Arguments, description=__doc__))
