"""Error rates that can be asked for, and what a model makes of each: a threshold, or a sentence that says why not."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from timm_convattn.errors import InputError
from timm_convattn.inference import Classifier
from timm_convattn.rejection import Rejection
from timm_convattn.selective import selective_metrics

RATES = (0.2, 0.1, 0.05, 0.02, 0.01)
ALWAYS = 'answer always'


@dataclass(frozen=True)
class Promise:
    """A wish, and the model that keeps it where one can."""

    name: str
    """What a person chooses it by."""
    classifier: Classifier
    """With its threshold."""
    meaning: str
    """A sentence or two for the person."""
    may_reject: bool
    """Whether there is a threshold to reach."""
    is_impossible: bool = False
    """Whether the held-out crops cannot promise what is wished."""


def name_rate(rate: float | None) -> str:
    """Name an error rate as it is chosen by."""
    return ALWAYS if rate is None else f'{100 * rate:g} %'


def list_promises(classifier: Classifier, wanted: float | None = None) -> dict[str, Promise]:
    """List what can be wished of a model by name: to answer always, and error rates where it may reject.

    Args:
        classifier: Without a threshold.
        wanted: An error rate to list as well.

    Raises:
        InputError: If one is wanted, and the model may not reject, or it is no rate.
    """
    rejection = classifier.rejection
    if rejection is None:
        if wanted is not None:
            raise InputError(f'An error rate of {wanted} is wanted, but this model may not reject. {_NO_REJECTION}')
        return {ALWAYS: Promise(ALWAYS, classifier, f'This model may not reject. {_NO_REJECTION}', False)}
    if wanted is not None and not 0 < wanted < 1:
        raise InputError(f'The wanted error rate is {wanted}, it must be between 0 and 1.')
    rates = sorted({*RATES, *(() if wanted is None else (wanted,))}, reverse=True)
    always = Promise(ALWAYS, classifier, 'It answers whatever it is shown. Nothing is promised.', False)
    return {promise.name: promise for promise in (always, *_promise(classifier, rejection, rates))}


_NO_REJECTION = (
    'Fine-tune it with --hold-out 0.1: a tenth of the training frames is kept to learn on how sure it has to be.'
)


def _promise(classifier: Classifier, rejection: Rejection, rates: list[float]) -> Iterator[Promise]:
    for rate in rates:
        try:
            threshold = rejection.threshold(rate)
        except InputError as error:
            yield Promise(name_rate(rate), classifier, str(error), False, is_impossible=True)
            continue
        coverage = selective_metrics(rejection.confidence, rejection.hits, threshold)['coverage']
        meaning = (
            f'It answers from a confidence of {threshold:.1%} on, and rejects the rest. Of such answers at most '
            f'{name_rate(rate)} are wrong, with a certainty of 95 %, on images like the {len(rejection.hits):,} crops '
            f'that it was chosen on, of which it answers {coverage:.0%}. On another camera or in another season '
            'nothing is promised.'
        )
        yield Promise(name_rate(rate), replace(classifier, threshold=threshold), meaning, True)
