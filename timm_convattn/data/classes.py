"""The classes of crops, and the FLIR categories that belong to them."""

from typing import Literal

__all__ = ['CLASSES', 'CLASS_OF_CATEGORY', 'Classes']

Classes = Literal['four_class', 'two_class']
CLASSES: dict[Classes, tuple[str, ...]] = {
    'four_class': ('person', 'vehicle', 'bicycle', 'dog'),
    'two_class': ('person', 'vehicle'),
}
# FLIR's category -> class. The paper's "vehicle" is FLIR's car alone, which reproduces its Table 1. "bike" is from v2.
CLASS_OF_CATEGORY = {'person': 'person', 'car': 'vehicle', 'bicycle': 'bicycle', 'bike': 'bicycle', 'dog': 'dog'}
