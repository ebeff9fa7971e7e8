"""Export of a model to one file that runs without this package and timm: ONNX, TorchScript, or torch.export.

The file is loaded again and compared with the model before it gets its name. Its metadata are the class names, the
preprocessing of images, and the temperature of the probabilities.
"""

import importlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn as nn
from timm.layers import to_2tuple
from torch.export import Dim

import timm_convattn
from timm_convattn.errors import InputError
from timm_convattn.inference import Classifier
from timm_convattn.models.config import pretrained_cfg

__all__ = ['ENDINGS', 'METADATA', 'Exported', 'Format', 'export_model']

Format = Literal['onnx', 'torchscript', 'pt2']
ENDINGS: dict[str, Format] = {'.onnx': 'onnx', '.pt': 'torchscript', '.ts': 'torchscript', '.pt2': 'pt2'}
METADATA = 'convattn.json'  # name of the metadata within files of TorchScript and torch.export

TOLERANCE = 1e-3  # relative to the largest logit: kernels sum in different orders, wrong graphs differ by more
LARGEST = 4096  # largest side of images that a dynamic graph takes, in pixels

Images = torch.Tensor
Graph = Callable[[Images], torch.Tensor]
Metadata = Mapping[str, object]


@dataclass(frozen=True)
class Exported:
    """A file that was written and compared with its model."""

    path: Path
    img_size: tuple[int, int]
    """Native height and width of its images, in pixels."""
    checked: tuple[tuple[int, int, int], ...]
    """Batch, height and width of the images that it was compared on."""
    difference: float
    """Largest difference of a logit."""


def export_model(
    classifier: Classifier,
    out: Path,
    format: Format,
    img_size: int | tuple[int, int] | None = None,
    dynamic: bool = False,
) -> Exported:
    """Write a model as one file, complete or not at all, and compare it with the model.

    The graph takes `images` (B, C, H, W), as `Classifier.to_batch` returns them, with any B, and returns `logits`
    (B, num_classes).

    Args:
        classifier: The model, on the CPU. `img_size` changes its native size.
        out: The file to write or replace.
        format: Format of the file.
        img_size: Height and width in pixels, the model's own if None.
        dynamic: Whether the graph takes any height and width.

    Raises:
        InputError: If packages that the format needs are not installed, the model cannot be captured, or the file
            computes other logits than the model.
    """
    model, native = classifier.model, tuple(classifier.data_config['input_size'][1:])
    height, width = native if img_size is None else to_2tuple(img_size)
    if min(height, width) < 1 or max(height, width) > LARGEST:
        raise InputError(f'img_size is {height} x {width}, wanted sides from 1 to {LARGEST} pixels.')
    if out.is_dir():
        raise InputError(f'{out} is a folder, wanted the path of a file.')
    if format == 'onnx':
        _need_onnx()
    if (height, width) != native:
        _set_size(model, (height, width))
    metadata = describe_use(classifier, (height, width), dynamic)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f'.{out.name}')
    try:
        temporary.touch()  # if it cannot be written, Python's error is clearer than torch's
        # captured at a size whose maps have several positions and unequal sides: else torch takes sizes for constants
        captured = (max(height, 64), max(width, 64) + 32) if dynamic else (height, width)
        images = _random_images(classifier, 2, *captured)
        WRITERS[format](model, images, dynamic, metadata, temporary)
        checked, difference = _compare(classifier, READERS[format](temporary), (height, width), dynamic)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return Exported(out, (height, width), checked, difference)


def describe_use(classifier: Classifier, img_size: tuple[int, int], dynamic: bool) -> Metadata:
    """Return the metadata of an exported file: how to prepare its input and read its output, as plain values."""
    config = classifier.data_config
    return {
        'architecture': pretrained_cfg(classifier.model)['architecture'],
        'class_names': list(classifier.class_names),
        'input_size': [config['input_size'][0], *img_size],
        'dynamic': dynamic,
        'mean': list(config['mean']),
        'std': list(config['std']),
        'interpolation': config['interpolation'],
        'crop_pct': config['crop_pct'],
        'crop_mode': config.get('crop_mode', 'center'),
        'temperature': classifier.temperature,
        'timm_convattn': timm_convattn.__version__,
    }


def _need_onnx() -> None:
    missing = [name for name in ('onnx', 'onnxscript', 'onnxruntime') if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"ONNX needs {', '.join(missing)}: pip install 'timm-convattn[onnx]'.")


def _set_size(model: Any, img_size: tuple[int, int]) -> None:
    """Change the native size of a model that has one."""
    if not hasattr(model, 'set_input_size'):
        return
    try:
        model.set_input_size(img_size=img_size)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise InputError(f'The model takes no images of {img_size[0]} x {img_size[1]} pixels ({error}).') from error


def _random_images(classifier: Classifier, batch: int, height: int, width: int) -> Images:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, classifier.data_config['input_size'][0], height, width, generator=generator)


def _write_onnx(model: nn.Module, images: Images, dynamic: bool, metadata: Metadata, path: Path) -> None:
    with _quiet(), _explain_failure('Export to ONNX', dynamic):
        program: Any = torch.onnx.export(
            model,
            (images,),
            input_names=['images'],
            output_names=['logits'],
            dynamic_shapes=_shapes(Dim('height', min=64, max=LARGEST), Dim('width', min=64, max=LARGEST))
            if dynamic
            else _shapes(),
            dynamo=True,
            verbose=False,
        )
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
        program.model.metadata_props.update(texts)
        program.save(str(path), external_data=False)


def _read_onnx(path: Path) -> Graph:
    runtime = importlib.import_module('onnxruntime')  # noqa: TID251  # it ships no types
    session = runtime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda images: torch.from_numpy(session.run(['logits'], {'images': images.numpy()})[0])


def _write_torchscript(model: nn.Module, images: Images, dynamic: bool, metadata: Metadata, path: Path) -> None:
    with _quiet(), _explain_failure('Export to TorchScript', dynamic):
        scripted = torch.jit.script(model)
        torch.jit.save(scripted, str(path), _extra_files={METADATA: json.dumps(metadata).encode()})


def _read_torchscript(path: Path) -> Graph:
    with _quiet():
        return cast(Graph, torch.jit.load(str(path)))  # noqa: TID251  # the file written above


def _write_pt2(model: nn.Module, images: Images, dynamic: bool, metadata: Metadata, path: Path) -> None:
    with _quiet(), _explain_failure('Export with torch.export', dynamic):
        shapes = _shapes(Dim.DYNAMIC, Dim.DYNAMIC) if dynamic else _shapes()  # torch derives the smallest size
        program = torch.export.export(model, (images,), dynamic_shapes=shapes)
        with path.open('wb') as file:  # torch accepts paths only if they end in .pt2
            torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})


def _read_pt2(path: Path) -> Graph:
    with _quiet(), path.open('rb') as file:
        return cast(Graph, torch.export.load(file).module())


WRITERS: dict[Format, Callable[[nn.Module, Images, bool, Metadata, Path], None]] = {
    'onnx': _write_onnx,
    'torchscript': _write_torchscript,
    'pt2': _write_pt2,
}
READERS: dict[Format, Callable[[Path], Graph]] = {
    'onnx': _read_onnx,
    'torchscript': _read_torchscript,
    'pt2': _read_pt2,
}


def _shapes(height: Any = None, width: Any = None) -> tuple[dict[int, Any]]:
    """Return the dynamic dimensions of the input: the batch, and height and width where given."""
    return ({0: Dim('batch'), **{axis: size for axis, size in ((2, height), (3, width)) if size is not None}},)


def _compare(
    classifier: Classifier, exported: Graph, img_size: tuple[int, int], dynamic: bool
) -> tuple[tuple[tuple[int, int, int], ...], float]:
    """Compare model and file on random images of several batches and sizes; return those and the largest difference."""
    height, width = img_size
    sizes = [(2, height, width), (1, height, width), (5, height, width)]
    if dynamic:
        sizes += [(1, height + 13, width + 32), (3, 2 * width + 1, height + 8)]
    largest = 0.0
    for batch, *size in sizes:
        images = _random_images(classifier, batch, *size)
        with torch.inference_mode(), _explain_failure('Running the exported file', dynamic):
            expected, found = classifier.model(images), exported(images)
        difference = float((found - expected).abs().max()) if found.shape == expected.shape else float('inf')
        if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise InputError(
                f'The exported file and the model differ: on a batch of {batch} images of {size[0]} x '
                f'{size[1]} a logit differs by {difference:.2g}. Nothing was written. Try another --format.'
            )
        largest = max(largest, difference)
    return tuple(sizes), largest


@contextmanager
def _explain_failure(what: str, dynamic: bool) -> Iterator[None]:
    """Turn an error of torch's exporters into an `InputError`."""
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:  # torch's exporters raise errors of any class
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
        hint = 'Try it without --dynamic, or another --format' if dynamic else 'Try another --format'
        raise InputError(f'{what} failed ({type(error).__name__}: {reason}). {hint}.') from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings and messages of torch's exporters."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)
