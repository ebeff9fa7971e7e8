"""Draw docs/answers.png: crops of the embedded scenes, the answers of a trained model, and its attention.

accelerate launch train_scripts/finetune.py --hold-out 0.1 --output runs/careful
python docs/draw_answers.py runs/careful/model

The crops are selected by rule: the first answered validation crop of each class, and the first two that are rejected.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from timm_convattn.data.sources import class_names_of, open_crops
from timm_convattn.inference import Classifier, load_classifier

REJECT_AT = 0.05
NUM_REJECTED = 2
OUT = Path(__file__).parent / 'answers.png'


def draw(classifier: Classifier) -> Figure:
    """Draw a column for each crop: the crop above, its first attention map over it below."""
    crops = open_crops(None, ('validation',))['validation']
    names = class_names_of(crops)
    answered, rejected = {}, []
    for row in crops:
        (prediction,) = classifier.classify([row['image']])
        if prediction.is_answered:
            answered.setdefault(names[row['label']], (row, prediction))
        elif len(rejected) < NUM_REJECTED:
            rejected.append((row, prediction))
        if len(answered) == len(names) and len(rejected) == NUM_REJECTED:
            break
    shown = [*answered.values(), *rejected]
    figure = Figure(figsize=(1.5 * len(shown), 3.6), layout='constrained')
    for (above, below), (row, prediction) in zip(figure.subplots(2, len(shown)).T, shown, strict=True):
        explanation = classifier.explain(row['image'])
        answer = f'{prediction.label} {prediction.confidence:.0%}' if prediction.is_answered else 'no answer'
        above.set_title(f'{answer}\n(truth: {names[row["label"]]})', fontsize=9)
        for axes in (above, below):
            axes.imshow(explanation.input_image, cmap='gray', vmin=0, vmax=255)
            axes.set_axis_off()
        below.imshow(explanation.attention_over_image(0), cmap='inferno', alpha=0.5)
    return figure


def main() -> None:
    """Draw the figure with the model that `sys.argv[1]` names."""
    classifier = load_classifier(sys.argv[1], reject_at=REJECT_AT)
    draw(classifier).savefig(OUT, dpi=110)


if __name__ == '__main__':
    main()
