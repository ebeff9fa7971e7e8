"""Target error rates that can be chosen, and the threshold of a model for each, or the reason why there is none."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from timm_convattn.errors import InputError
from timm_convattn.inference import Classifier
from timm_convattn.rejection import Rejection
from timm_convattn.selective import selective_metrics

RATES = (0.2, 0.1, 0.05, 0.02, 0.01)
ALWAYS = 'answer always'


@dataclass(frozen=True)
class Target:
    """A target error rate, and the model with the threshold for it if there is one."""

    name: str
    """Text of the choice."""
    classifier: Classifier
    """With its threshold."""
    meaning: str
    """Text that explains the choice."""
    can_reject: bool
    """Whether there is a threshold."""
    is_impossible: bool = False
    """Whether the held-out crops are too few or too hard to guarantee the rate."""


def name_rate(rate: float | None) -> str:
    """Return the text of the choice of an error rate."""
    return ALWAYS if rate is None else f'{100 * rate:g} %'


def list_targets(classifier: Classifier, target_rate: float | None = None) -> dict[str, Target]:
    """Return the choices for a model by name: to answer always, and the error rates if the model can reject.

    Args:
        classifier: Without a threshold.
        target_rate: An error rate to add.

    Raises:
        InputError: If `target_rate` is given and the model cannot reject, or it is not between 0 and 1.
    """
    rejection = classifier.rejection
    if rejection is None:
        if target_rate is not None:
            raise InputError(f'The target error rate is {target_rate}, but this model cannot reject. {_NO_REJECTION}')
        return {ALWAYS: Target(ALWAYS, classifier, f'This model cannot reject. {_NO_REJECTION}', False)}
    if target_rate is not None and not 0 < target_rate < 1:
        raise InputError(f'The target error rate is {target_rate}, it must be between 0 and 1.')
    rates = sorted({*RATES, *(() if target_rate is None else (target_rate,))}, reverse=True)
    always = Target(ALWAYS, classifier, 'Every image is answered. No error rate is guaranteed.', False)
    return {target.name: target for target in (always, *_targets(classifier, rejection, rates))}


_NO_REJECTION = (
    'Fine-tune it with --hold-out 0.1: the thresholds are chosen on a tenth of the training frames that is held out.'
)


def _targets(classifier: Classifier, rejection: Rejection, rates: list[float]) -> Iterator[Target]:
    for rate in rates:
        try:
            threshold = rejection.threshold(rate)
        except InputError as error:
            yield Target(name_rate(rate), classifier, str(error), False, is_impossible=True)
            continue
        coverage = selective_metrics(rejection.confidence, rejection.hits, threshold).coverage
        meaning = (
            f'Images with a confidence of at least {threshold:.1%} are answered, the others rejected. At most '
            f'{name_rate(rate)} of the answers are wrong, at a confidence level of 95 %, for images like the '
            f'{len(rejection.hits):,} held-out crops on which the threshold was chosen, {coverage:.0%} of which are '
            'answered. For another camera or season nothing is guaranteed.'
        )
        yield Target(name_rate(rate), replace(classifier, threshold=threshold), meaning, True)
