"""The explanation of one decision."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from timm_convattn.explain.attention import AttentionMap
from timm_convattn.explain.shares import Shares

__all__ = ['Explanation']


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a model says of one image, and why. Maps over the image have the size of `picture`."""

    class_names: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    probabilities: npt.NDArray[np.float32]
    """(num_classes,) of the classes; sums to 1."""
    label: str
    """The class that is explained: the predicted one, or the one that was asked about."""
    picture: npt.NDArray[np.uint8]
    """(H, W) or (H, W, 3): the pixels to draw over."""
    attention: tuple[AttentionMap, ...]
    """Where each attention looks, in the order in which they run, for a batch of this image; empty without any."""
    position: tuple[int, int] | None
    """Row and column of the pixel of `picture` whose look was asked for. None: the mean of all positions."""
    grad_cam: npt.NDArray[np.float32] | None
    """(H, W): which places speak for `label`, from 0 to 1. None where the library grad-cam is not installed."""
    shares: Shares | None
    """What the conv channels, the attention channels and the bias contribute to the logit of `label`: it is their sum.
    None where the last map of the model is not the output of a convolutional-attentional form."""
    lead: Shares | None
    """The same for the lead over `rival`, the logit of `label` less that of `rival`. A number that is added to all
    logits changes no decision, but the lead is the decision."""

    @property
    def predicted(self) -> str:
        """Give the most probable class."""
        return self.class_names[int(self.probabilities.argmax())]

    @property
    def confidence(self) -> float:
        """Give the probability of `label`."""
        return float(self.probabilities[self.class_names.index(self.label)])

    @property
    def rival(self) -> str | None:
        """Give the most probable of the other classes, None where there is no other."""
        order = np.argsort(-self.probabilities, kind='stable')
        return next((name for name in (self.class_names[i] for i in order) if name != self.label), None)

    def attention_over_image(self, layer: int = 0, head: int | None = None) -> npt.NDArray[np.float32]:
        """Give how much `position`, or all positions, look at each pixel, in multiples of what an even look would give.

        Args:
            layer: Index into `attention`; the first has the finest map.
            head: Which head looks. None: the mean of all heads.

        Returns:
            (H, W)
        """
        height, width = self.picture.shape[:2]
        looks: npt.NDArray[np.float32] = (
            self.attention[layer].over_image((height, width), self.position, head)[0].numpy()
        )
        return looks

    def describe(self) -> str:
        """Say the same in a few lines."""
        ranked = sorted(zip(self.probabilities, self.class_names, strict=True), reverse=True)
        others = [f'{name} {share:.1%}' for share, name in ranked if name != self.label]
        lines = [f'{self.label} {self.confidence:.1%}' + (f' ({", ".join(others[:3])})' if others else '')]
        for what, shares in ((f'logit of {self.label}', self.shares), (f'lead over {self.rival}', self.lead)):
            if shares is not None:
                lines.append(
                    f'{what} {shares.total:+.2f} = convolution {shares.conv:+.2f}, attention {shares.attention:+.2f}, '
                    f'bias {shares.bias:+.2f}'
                )
        if self.grad_cam is not None:
            lines.append(f'Grad-CAM: {_brightest(self.grad_cam)}')
        looker = 'all positions look' if self.position is None else 'row {}, column {} looks'.format(*self.position)
        for index, found in enumerate(self.attention):
            looks = self.attention_over_image(index)
            height, width = found.feat_size
            lines.append(
                f'attention {found.layer} ({height} x {width}, {found.num_heads} heads): {looker} most at '
                f'{_brightest(looks)}, {looks.max():.1f} times an even look'
            )
        return '\n'.join(lines)


def _brightest(pixels: npt.NDArray[np.float32]) -> str:
    if not pixels.any():
        return 'no place'
    row, column = np.argwhere(pixels == pixels.max()).mean(axis=0).astype(int)  # the middle of a bright border
    return f'row {row}, column {column}'
