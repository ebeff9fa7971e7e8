"""The commands and their options.

Nothing heavy is imported here: the module with the name of a command imports torch and timm when the command runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

__all__ = ['COMMANDS', 'Data', 'Explain', 'Export', 'Info', 'Models', 'Predict']

ModelName = Positional[
    Annotated[
        str,
        arg(
            metavar='MODEL',
            help='The folder of a run or a model, local-dir:FOLDER, hf-hub:OWNER/NAME, hf-hub:OWNER/NAME@REVISION, or '
            'the name of a timm model with weights.',
        ),
    ]
]
Bits = Annotated[
    Literal[8, 16],
    arg(help='16: also accept images of more than 8 bits, and scale their counts by --percentiles.'),
]
Percentiles = Annotated[
    tuple[float, float],
    arg(metavar='LOW HIGH', help='Percentiles of the counts of such an image that become black and white.'),
]


@dataclass(frozen=True)
class Models:
    """List the models: parameters, multiply-accumulates and the source of their weights.

    $ timm-convattn models
    $ timm-convattn models aresnet50
    $ timm-convattn models 'vit_tiny*' --timm
    """

    pattern: Positional[Annotated[str, arg(metavar='[PATTERN]')]] = '*'
    """Part of a name, or a pattern with * and ?."""
    timm: bool = False
    """Also list timm's own models, which takes longer: they are built without weights and counted."""
    num_classes: Annotated[int, arg(metavar='N')] = 4
    """Number of classes of the models."""
    json: bool = False
    """Print a JSON array."""


@dataclass(frozen=True)
class Info:
    """Show one model: its input, classes, cost, stages and attention layers.

    $ timm-convattn info aresnet50_relmha
    $ timm-convattn info runs/NAME
    $ timm-convattn info hf-hub:OWNER/NAME
    """

    model: Positional[Annotated[str, arg(metavar='MODEL')]]
    """The folder of a run or a model, local-dir:FOLDER, hf-hub:OWNER/NAME, hf-hub:OWNER/NAME@REVISION, or the name of a
    timm model."""
    json: bool = False
    """Print a JSON object."""


@dataclass(frozen=True)
class Predict:
    """Classify images, or the boxes of frames.

    $ timm-convattn predict runs/NAME crop.png
    $ timm-convattn predict runs/NAME crops/ --csv > answers.csv
    $ timm-convattn predict runs/NAME crops/ --reject-at 0.01
    $ timm-convattn predict runs/NAME frames/FLIR_08863.jpeg --boxes thermal_annotations.json

    Each image is classified as a whole and should show one object; --boxes gives the objects of a frame. Rows are
    printed to standard output, everything else to standard error. A file that cannot be decoded is reported there, the
    others are still classified, and the exit status is 1.
    """

    model: ModelName
    paths: Positional[Annotated[tuple[Path, ...], arg(metavar='[PATH ...]')]] = ()
    """Images, and folders that are searched for images. With --boxes, frames; without any, all frames with a box."""
    boxes: Annotated[Path | None, arg(metavar='JSON')] = None
    """COCO annotations of the frames, as in FLIR ADAS: each box is classified."""
    top: Annotated[int, arg(metavar='N')] = 4
    """Number of most probable classes to print for each image."""
    reject_at: Annotated[float | None, arg(metavar='RATE')] = None
    """Target error rate: answer only where the model is confident enough (for models trained with --hold-out)."""
    json: bool = False
    """Print JSON Lines, one object a line; the label is null where the model rejects."""
    csv: bool = False
    """Print CSV with a header; the label is empty where the model rejects."""
    bits: Bits = 8
    percentiles: Percentiles = (1.0, 99.0)
    batch_size: Annotated[int, arg(metavar='N')] = 64
    """Number of images in a batch."""
    threads: Annotated[int | None, arg(metavar='N')] = None
    """Number of CPU threads. None: all cores."""
    device: Annotated[str, arg(metavar='DEVICE')] = 'cpu'
    """Device that runs the model, such as cuda."""


@dataclass(frozen=True)
class Explain:
    """Draw where a model attends in an image and what its decision is based on.

    $ timm-convattn explain runs/NAME crop.png --out why.png
    $ timm-convattn explain runs/NAME crop.png --out why.png --label bicycle --position 20 31
    """

    model: ModelName
    image: Positional[Annotated[Path, arg(metavar='IMAGE')]]
    """An image of one object."""
    out: Annotated[Path, arg(metavar='PNG')]
    """PNG file to write."""
    label: Annotated[str | None, arg(metavar='NAME')] = None
    """Class to explain. None: the predicted one."""
    position: Annotated[tuple[int, int] | None, arg(metavar='ROW COLUMN')] = None
    """Row and column of the pixel whose attention is drawn. None: the mean over all positions."""
    bits: Bits = 8
    percentiles: Percentiles = (1.0, 99.0)


@dataclass(frozen=True)
class Export:
    """Export a model to ONNX, TorchScript or torch.export, and compare the file with the model.

    $ timm-convattn export runs/NAME --out model.onnx
    $ timm-convattn export runs/NAME --out model.pt2 --dynamic
    $ timm-convattn export runs/NAME --out model.pt --img-size 96 128

    The file maps batches of normalised images, of any batch size, to logits. It also stores the names of the classes,
    the preprocessing, and the temperature by which to divide the logits before the softmax: as metadata in ONNX, as
    convattn.json in the other formats.
    """

    model: ModelName
    out: Annotated[Path, arg(metavar='FILE')]
    """File to write."""
    format: Annotated[Literal['onnx', 'torchscript', 'pt2'] | None, arg(metavar='{onnx,torchscript,pt2}')] = None
    """Format of the file. None: by its suffix, .onnx, .pt (torchscript) or .pt2."""
    img_size: Annotated[int | tuple[int, int] | None, arg(metavar='S or H W')] = None
    """Side, or height and width, of the images in pixels. None: those that the model was trained for."""
    dynamic: bool = False
    """Accept any height and width, in addition to any batch size."""


@dataclass(frozen=True)
class Data:
    """Check a FLIR folder or a folder of crops: its contents, and the problems that stop a build of crops.

    $ timm-convattn data FLIR_ADAS_1_3
    $ timm-convattn data FLIR_ADAS_1_3 --check-images
    $ timm-convattn data crops/four_class

    The exit status is 1 if there is a problem at which train_scripts/build_dataset.py would stop.
    """

    folder: Positional[Annotated[Path, arg(metavar='FOLDER')]]
    """Folder of a FLIR ADAS release (v1.3 or v2), of frames in one of its layouts, or of crops (build_dataset.py)."""
    check_images: bool = False
    """Decode every frame that has a box."""
    bits: Literal[8, 16] = 8
    """8: the frames that the annotations name. 16: the 16-bit frames with the same stems."""


Command = Models | Info | Predict | Explain | Export | Data
COMMANDS: dict[str, type[Command]] = {
    'models': Models,
    'info': Info,
    'predict': Predict,
    'explain': Explain,
    'export': Export,
    'data': Data,
}
