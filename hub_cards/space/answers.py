"""What a model says of a crop, as a person reads it: a card, and a drawing of where it looks and why it says so."""

import html
import io

from PIL import Image
from promises import Promise

from timm_convattn.explain import Explanation, draw_explanation
from timm_convattn.inference import Prediction

__all__ = ['HINT', 'draw', 'say', 'verdict_of']

CLASSES_SHOWN = 6
DOTS_PER_INCH = 150
HINT = '<div class="answer empty">The answer appears here.</div>'

VERDICTS = {
    'answered': 'Answered',
    'rejected': 'Rejected',
    'impossible': 'No verdict',
    'always': 'Answered',
}


def verdict_of(prediction: Prediction, promise: Promise) -> str:
    """Say which of `VERDICTS` a prediction gets."""
    if promise.is_impossible:
        return 'impossible'
    if not promise.may_reject:
        return 'always'
    return 'answered' if prediction.is_answered else 'rejected'


def say(prediction: Prediction, promise: Promise) -> str:
    """Make the card of a prediction, HTML: verdict, class, confidence, and how likely each class is."""
    verdict, threshold = verdict_of(prediction, promise), promise.classifier.threshold
    mark = f'<b class="threshold" style="left: {threshold:.1%}"></b>' if promise.may_reject else ''
    bars = ''.join(
        f'<li><span class="name">{html.escape(name)}</span>'
        f'<span class="bar"><i style="width: {share:.1%}"></i>{mark}</span><span class="share">{share:.1%}</span></li>'
        for name, share in prediction.top(CLASSES_SHOWN)
    )
    return (
        f'<div class="answer {verdict}"><p class="verdict">{VERDICTS[verdict]}</p>'
        f'<p class="label">{html.escape(prediction.label)}</p><p class="why">{_why(prediction, promise, verdict)}</p>'
        f'<ul>{bars}</ul></div>'
    )


def _why(prediction: Prediction, promise: Promise, verdict: str) -> str:
    sureness, threshold = f'{prediction.confidence:.1%} sure', f'{promise.classifier.threshold:.1%}'
    return {
        'answered': f'{sureness}; an answer takes {threshold}.',
        'rejected': f'Its best guess, {sureness}; an answer takes {threshold}.',
        'impossible': f'{sureness}. The wished error rate cannot be promised.',
        'always': f'{sureness}. Nothing is promised.',
    }[verdict]


def draw(explanation: Explanation) -> Image.Image:
    """Draw an explanation as a picture."""
    drawn = io.BytesIO()
    draw_explanation(explanation).savefig(drawn, format='png', dpi=DOTS_PER_INCH)
    picture = Image.open(drawn)
    picture.load()
    return picture
