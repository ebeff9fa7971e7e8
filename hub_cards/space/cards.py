"""Prediction cards and figures of explanations."""

import html
import io

from PIL import Image
from targets import Target

from timm_convattn.explain import Explanation, draw_explanation
from timm_convattn.inference import Prediction

__all__ = ['HINT', 'draw', 'format_card', 'verdict_of']

CLASSES_SHOWN = 6
DOTS_PER_INCH = 150
HINT = '<div class="answer empty">The answer appears here.</div>'

VERDICTS = {
    'answered': 'Answered',
    'rejected': 'Rejected',
    'impossible': 'No verdict',
    'always': 'Answered',
}


def verdict_of(prediction: Prediction, target: Target) -> str:
    """Return the key in `VERDICTS` for a prediction."""
    if target.is_impossible:
        return 'impossible'
    if not target.can_reject:
        return 'always'
    return 'answered' if prediction.is_answered else 'rejected'


def format_card(prediction: Prediction, target: Target) -> str:
    """Return the card of a prediction as HTML: verdict, class, confidence and the probability of each class."""
    verdict, threshold = verdict_of(prediction, target), target.classifier.threshold
    mark = f'<b class="threshold" style="left: {threshold:.1%}"></b>' if target.can_reject else ''
    bars = ''.join(
        f'<li><span class="name">{html.escape(name)}</span><span class="bar"><i style="width: {probability:.1%}"></i>'
        f'{mark}</span><span class="probability">{probability:.1%}</span></li>'
        for name, probability in prediction.top(CLASSES_SHOWN)
    )
    return (
        f'<div class="answer {verdict}"><p class="verdict">{VERDICTS[verdict]}</p>'
        f'<p class="label">{html.escape(prediction.label)}</p><p class="why">{_reason(prediction, target, verdict)}</p>'
        f'<ul>{bars}</ul></div>'
    )


def _reason(prediction: Prediction, target: Target, verdict: str) -> str:
    confidence, threshold = f'{prediction.confidence:.1%}', f'{target.classifier.threshold:.1%}'
    return {
        'answered': f'Confidence {confidence}; the threshold is {threshold}.',
        'rejected': f'Best guess, with confidence {confidence}; the threshold is {threshold}.',
        'impossible': f'Confidence {confidence}. The target error rate cannot be guaranteed.',
        'always': f'Confidence {confidence}. No error rate is guaranteed.',
    }[verdict]


def draw(explanation: Explanation) -> Image.Image:
    """Draw an explanation as an image."""
    png = io.BytesIO()
    draw_explanation(explanation).savefig(png, format='png', dpi=DOTS_PER_INCH)
    figure = Image.open(png)
    figure.load()
    return figure
