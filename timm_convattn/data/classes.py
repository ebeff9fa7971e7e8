"""The classes of crops, and the categories of FLIR that they are made of."""

from typing import Literal

__all__ = ['CLASSES', 'CLASS_OF_CATEGORY', 'Classes']

Classes = Literal['four_class', 'two_class']
CLASSES: dict[Classes, tuple[str, ...]] = {
    'four_class': ('person', 'vehicle', 'bicycle', 'dog'),
    'two_class': ('person', 'vehicle'),
}
# FLIR's category -> ours. The paper's "vehicle" is FLIR's car alone: so its Table 1 comes out exactly. v2 says "bike".
CLASS_OF_CATEGORY = {'person': 'person', 'car': 'vehicle', 'bicycle': 'bicycle', 'bike': 'bicycle', 'dog': 'dog'}
