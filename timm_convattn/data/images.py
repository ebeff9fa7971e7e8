"""Image files of any kind to 8 bits, or a sentence that says why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from timm_convattn.errors import InputError

__all__ = ['MAX_PIXELS', 'decode_image', 'scale_percentiles']

MAX_PIXELS = 64_000_000  # larger than any thermal sensor; decoding more than this is an attack or a mistake


def decode_image(
    path: Path,
    name: str,
    mode: Literal['L', 'RGB'] = 'L',
    percentiles: tuple[float, float] | None = None,
    upright: bool = False,
    check: Callable[[Image.Image], None] | None = None,
    mend: str = '',
) -> Image.Image:
    """Decode an image file to 8 bits of grey or colour, the first image of one that holds several.

    Args:
        path: The file.
        name: What messages call it.
        mode: Mode of the image that is wanted.
        percentiles: For images of more than 8 bits, the percentiles of the image's counts that become 0 and 255.
        upright: Turn the image as its camera noted that it was held, as `datasets` does.
        check: Looks at the image before its pixels are decoded, and raises what it does not like.
        mend: A sentence for the message that it cannot be decoded.

    Returns:
        An image of the mode.

    Raises:
        InputError: If the file cannot be decoded, has more than `MAX_PIXELS`, or has 16 bits and no `percentiles` are
            given.
    """
    try:
        with Image.open(path) as image:
            if check is not None:
                check(image)
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f'{name} has more than {MAX_PIXELS} pixels, which no thermal camera gives.')
            if image.mode.startswith('I') or image.mode == 'F':
                counts = np.asarray(image)
                if not np.isfinite(counts).all():
                    raise InputError(f'{name} holds values that are no numbers.')
                if percentiles is None:
                    raise InputError(f'{name} has 16 bits. Say how to scale it: --bits 16.')
                decoded = Image.fromarray(scale_percentiles(counts, *percentiles))
            else:
                image.load()
                decoded = image
            if upright:
                decoded = ImageOps.exif_transpose(decoded)
            return decoded if decoded.mode == mode else decoded.convert(mode)
    except InputError:
        raise
    except Exception as error:  # Pillow's readers fail with whatever a broken file leads them to
        raise InputError(f'{name} cannot be decoded ({error}).{mend and " "}{mend}') from error


def scale_percentiles(counts: npt.NDArray[Any], low: float = 1.0, high: float = 99.0) -> npt.NDArray[np.uint8]:
    """Scale the counts of a thermal sensor to 8 bits, from one percentile of the frame to another.

    Args:
        counts: (height, width) of any real type.
        low: Percentile that becomes 0.
        high: Percentile that becomes 255.

    Returns:
        (height, width); a frame of one value becomes 0.

    Raises:
        InputError: If not 0 <= low < high <= 100.
    """
    if not 0 <= low < high <= 100:
        raise InputError(f'The percentiles are {low} and {high}, wanted 0 <= low < high <= 100.')
    bottom, top = np.percentile(counts, (low, high))
    scaled = (counts.astype(np.float32) - bottom) * (255 / max(top - bottom, 1e-6))
    pixels: npt.NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return pixels
