"""Image files of any kind, decoded to 8 bits or refused with an explanation."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from timm_convattn.errors import InputError

__all__ = ['MAX_PIXELS', 'EncodedImage', 'decode_crop', 'decode_image', 'scale_percentiles']

MAX_PIXELS = 64_000_000  # larger than any thermal sensor; decoding more than this is an attack or a mistake


class EncodedImage(TypedDict):
    """An encoded image as `datasets.Image(decode=False)` returns it: the bytes of its file, or else its path."""

    bytes: bytes | None
    path: str | None


def decode_image(
    path: Path,
    name: str,
    mode: Literal['L', 'RGB'] = 'L',
    percentiles: tuple[float, float] | None = None,
    upright: bool = False,
    check: Callable[[Image.Image], None] | None = None,
    hint: str = '',
) -> Image.Image:
    """Decode an image file to 8 bits of grey or colour; of a file with several images, the first one.

    Args:
        path: The file.
        name: Name of the image in messages.
        mode: Mode of the returned image.
        percentiles: For images of more than 8 bits, the percentiles of the image's counts that become 0 and 255.
        upright: Apply the orientation in the EXIF data, as `datasets` does.
        check: Called with the image before its pixels are decoded; may raise an `InputError`.
        hint: What to do about a file that cannot be decoded, for the message.

    Returns:
        An image of the mode.

    Raises:
        InputError: If the file cannot be decoded, has more than `MAX_PIXELS`, or has 16 bits and `percentiles` is None.
    """
    with _explain(name, hint), Image.open(path) as image:
        if check is not None:
            check(image)
        if image.width * image.height > MAX_PIXELS:
            raise InputError(f'{name} has more than {MAX_PIXELS} pixels, more than any thermal camera has.')
        if image.mode.startswith('I') or image.mode == 'F':
            decoded = _scale_counts(np.asarray(image), name, percentiles)
        else:
            image.load()
            decoded = image
        if upright:
            decoded = ImageOps.exif_transpose(decoded)
        return decoded if decoded.mode == mode else decoded.convert(mode)


def decode_crop(encoded: EncodedImage, mode: str, index: int) -> Image.Image:
    """Decode a crop as `datasets` does, unless it has more than `MAX_PIXELS`.

    Args:
        encoded: The encoded crop.
        mode: Mode of the returned image.
        index: Index of the crop in its data set, for messages.

    Raises:
        InputError: If it cannot be read or decoded, or is too large.
    """
    name, hint = f'Crop {index} of the data set', 'Build the crops again.'
    with _explain(name, hint), Image.open(io.BytesIO(_read(encoded))) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f'it has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}')
        image.load()
        upright = ImageOps.exif_transpose(image)
        return upright if upright.mode == mode else upright.convert(mode)


@contextmanager
def _explain(name: str, hint: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a broken file makes Pillow's readers raise almost any error
        raise InputError(f'{name} cannot be decoded ({error}).{hint and " "}{hint}') from error


def _read(encoded: EncodedImage) -> bytes:
    content = encoded['bytes']
    if content is None:
        import fsspec  # type: ignore[import-untyped]

        with fsspec.open(encoded['path'], 'rb') as file:
            content = file.read()
    return content


def _scale_counts(counts: npt.NDArray[Any], name: str, percentiles: tuple[float, float] | None) -> Image.Image:
    if not np.isfinite(counts).all():
        raise InputError(f'{name} holds NaN or infinite values. Export it again.')
    if percentiles is None:
        raise InputError(f'{name} has 16 bits. Scale it to 8 bits with --bits 16.')
    return Image.fromarray(scale_percentiles(counts, *percentiles))


def scale_percentiles(counts: npt.NDArray[Any], low: float = 1.0, high: float = 99.0) -> npt.NDArray[np.uint8]:
    """Scale the counts of a thermal sensor linearly to 8 bits, between two percentiles of the frame.

    Args:
        counts: (height, width) of any real type.
        low: Percentile that becomes 0.
        high: Percentile that becomes 255.

    Returns:
        (height, width); a constant frame becomes 0.

    Raises:
        InputError: If not 0 <= low < high <= 100.
    """
    if not 0 <= low < high <= 100:
        raise InputError(f'The percentiles are {low} and {high}, wanted 0 <= low < high <= 100.')
    bottom, top = np.percentile(counts, (low, high))
    scaled = (counts.astype(np.float32) - bottom) * (255 / max(top - bottom, 1e-6))
    pixels: npt.NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return pixels
