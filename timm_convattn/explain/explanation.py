"""What `explain` returns."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from timm_convattn.explain.attention import AttentionMap
from timm_convattn.explain.contributions import Contributions

__all__ = ['Explanation']


@dataclass(frozen=True, eq=False)
class Explanation:
    """A model's decision about one image, with its reasons. Maps over the image have the size of `input_image`."""

    class_names: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    probabilities: npt.NDArray[np.float32]
    """(num_classes,), sums to 1."""
    label: str
    """The explained class: the predicted one unless another was requested."""
    input_image: npt.NDArray[np.uint8]
    """(H, W) or (H, W, 3): the image that the maps are drawn over."""
    attention: tuple[AttentionMap, ...]
    """Attention of each layer, in the order in which they run, for a batch of this image; empty without attention."""
    position: tuple[int, int] | None
    """Row and column of the pixel of `input_image` whose attention is shown. None: the mean over all positions."""
    grad_cam: npt.NDArray[np.float32] | None
    """(H, W): evidence for `label`, from 0 to 1. None if the library grad-cam is not installed."""
    contributions: Contributions | None
    """Contributions of the convolutional path, the attention and the bias to the logit of `label`, which is their sum.
    None if the last feature map is not the output of a convolution-attention block."""
    margin: Contributions | None
    """The same for the margin over `runner_up`: the logit of `label` minus that of `runner_up`. Unlike a logit, the
    margin does not change when a constant is added to all logits."""

    @property
    def predicted(self) -> str:
        """Most probable class."""
        return self.class_names[int(self.probabilities.argmax())]

    @property
    def confidence(self) -> float:
        """Probability of `label`."""
        return float(self.probabilities[self.class_names.index(self.label)])

    @property
    def runner_up(self) -> str | None:
        """Most probable of the other classes, None if there is no other."""
        order = np.argsort(-self.probabilities, kind='stable')
        return next((name for name in (self.class_names[i] for i in order) if name != self.label), None)

    def attention_over_image(self, layer: int = 0, head: int | None = None) -> npt.NDArray[np.float32]:
        """Return the attention of `position`, or the mean over all, to each pixel, as a multiple of uniform attention.

        Args:
            layer: Index into `attention`; the first layer has the finest map.
            head: Index of the head. None: the mean over all heads.

        Returns:
            (H, W)
        """
        height, width = self.input_image.shape[:2]
        attention: npt.NDArray[np.float32] = (
            self.attention[layer].over_image((height, width), self.position, head)[0].numpy()
        )
        return attention

    def describe(self) -> str:
        """Return the explanation as a few lines of text."""
        ranked = sorted(zip(self.probabilities, self.class_names, strict=True), reverse=True)
        others = [f'{name} {probability:.1%}' for probability, name in ranked if name != self.label]
        lines = [f'{self.label} {self.confidence:.1%}' + (f' ({", ".join(others[:3])})' if others else '')]
        for name, parts in ((f'logit of {self.label}', self.contributions), (self.margin_title, self.margin)):
            if parts is not None:
                lines.append(
                    f'{name} {parts.total:+.2f} = convolution {parts.conv:+.2f}, attention {parts.attention:+.2f}, '
                    f'bias {parts.bias:+.2f}'
                )
        if self.grad_cam is not None:
            lines.append(f'Grad-CAM: {_maximum(self.grad_cam)}')
        query = 'all positions attend' if self.position is None else 'row {}, column {} attends'.format(*self.position)
        for index, found in enumerate(self.attention):
            attention = self.attention_over_image(index)
            height, width = found.feat_size
            lines.append(
                f'attention {found.layer} ({height} x {width}, {found.num_heads} heads): {query} most to '
                f'{_maximum(attention)}, {attention.max():.1f} x uniform attention'
            )
        return '\n'.join(lines)

    @property
    def margin_title(self) -> str:
        """Name of `margin` in text and figures."""
        return f'margin over {self.runner_up}'


def _maximum(pixels: npt.NDArray[np.float32]) -> str:
    if not pixels.any():
        return 'zero everywhere'
    row, column = np.argwhere(pixels == pixels.max()).mean(axis=0).astype(int)  # centre of several equal maxima
    return f'row {row}, column {column}'
