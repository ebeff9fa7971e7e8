"""Data sets of crops, cut from annotated frames: Parquet shards that `datasets.load_dataset(folder)` opens.

Each frame is decoded once, in order. Memory holds a few frames and the rows of one row group, however many there are.
The shards do not depend on the number of processes.
"""

import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypedDict

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from tqdm.auto import tqdm

from timm_convattn.data.classes import CLASS_OF_CATEGORY, CLASSES, Classes
from timm_convattn.data.engines import Engine, OrderedMap, ordered_map
from timm_convattn.data.flir import Box, FlirFolder, Frame, Split, read_flir, read_frame
from timm_convattn.errors import InputError
from timm_convattn.files import create_folder, write_json
from timm_convattn.paper import TABLE_1
from timm_convattn.tables import format_table

__all__ = [
    'CLASSES',
    'CLASS_OF_CATEGORY',
    'Classes',
    'CropOptions',
    'CropSet',
    'build_crops',
    'built_crops',
    'crop_features',
    'crop_options',
    'format_counts',
    'load_crops',
    'narrow_crops',
]

FRAMES_PER_TASK = 16
ROWS_PER_GROUP = 1_000
ROWS_PER_SHARD = 20_000


class CropOptions(TypedDict, total=False):
    """Options of `build_crops` that the crops depend on."""

    classes: Classes
    min_size: int
    bits: Literal[8, 16]
    missing: Literal['fail', 'skip']
    percentiles: list[float]  # for 16-bit frames only


@dataclass
class CropSet:
    """Counts and options of a folder of crops, as `crops.json` stores them."""

    origin: str  # of the frames
    layout: str
    is_starter_set: bool  # whether the frames are those of the paper's Table 1
    class_names: tuple[str, ...]
    counts: dict[str, dict[str, int]]  # split -> class -> number of crops
    dropped: dict[str, dict[str, int]]  # split -> reason -> number of boxes, or of frames for "(frames)"
    options: CropOptions = field(default_factory=CropOptions)


def crop_features(class_names: tuple[str, ...]) -> datasets.Features:
    """Return the columns of a crop.

    `image` is a grey PNG of the box, `frame` the stem of the frame's file name, `bbox` [x, y, w, h] in pixels of the
    frame, clipped to it, and `source` the path of the frame relative to the folder that the crops were built from.
    """
    return datasets.Features(
        {
            'image': datasets.Image(),
            'label': datasets.ClassLabel(names=list(class_names)),
            'frame': datasets.Value('string'),
            'bbox': datasets.List(datasets.Value('int32'), length=4),
            'source': datasets.Value('string'),
        }
    )


def build_crops(
    flir_root: Path,
    out: Path,
    classes: Classes = 'four_class',
    min_size: int = 1,
    num_proc: int = 1,
    missing: Literal['fail', 'skip'] = 'fail',
    bits: Literal[8, 16] = 8,
    percentiles: tuple[float, float] = (1.0, 99.0),
    progress: bool = True,
    origin: str | None = None,
    engine: Engine = 'local',
    address: str | None = None,
) -> CropSet:
    """Cut every annotated object of a FLIR ADAS folder out of its frame and write the crops as Parquet shards.

    Args:
        flir_root: Folder of a FLIR ADAS release, v1.3 or v2.
        out: Folder to write, new or empty. It appears when it is complete.
        classes: Classes to keep: person, vehicle, bicycle, dog, or the first two.
        min_size: Smallest side of a box to keep, in pixels.
        num_proc: Number of processes that decode.
        missing: What to do with frames that are missing or cannot be decoded.
        bits: Whether to use the 8-bit or the 16-bit frames.
        percentiles: For 16-bit frames, the percentiles that become black and white (see `scale_percentiles`).
        progress: Whether to show a progress bar on a terminal.
        origin: Description of the frames. None: derived from the layout and the names of the frames.
        engine: Where to decode: in processes of this machine, or on the nodes of a Ray cluster, which all need to
            have the frames at the same path.
        address: Address of the cluster. None: a new one with `num_proc` CPUs on this machine.

    Returns:
        Counts and options, which are also written to `out/crops.json`.

    Raises:
        InputError: If `out` is not empty, no crops are left, or the folder cannot be read (see `read_flir` and
            `read_frame`).
    """
    if min_size < 1 or num_proc < 1:
        raise InputError(f'min_size is {min_size} and num_proc is {num_proc}, both must be at least 1.')
    flir = read_flir(flir_root, missing, bits)
    options = crop_options(classes, min_size, missing, bits, percentiles)
    crops = CropSet(origin or _origin(flir), flir.layout.name, flir.is_starter_set, CLASSES[classes], {}, {}, options)
    cut = _Cutter(crops.class_names, min_size, percentiles if bits == 16 else None, skip_broken=missing == 'skip')
    with create_folder(out) as folder:
        bar = tqdm(total=len(flir.frames), desc='Cutting crops', unit='frame', disable=None if progress else True)
        with ordered_map(engine, num_proc, address) as map_in_order, bar:
            for name, split in flir.splits.items():
                writer = _ShardWriter(folder / 'data', name, crop_features(crops.class_names))
                crops.dropped[name] = _write_split(split, writer, cut, map_in_order, bar)
                crops.counts[name] = {label: writer.labels[index] for index, label in enumerate(crops.class_names)}
        if not any(sum(counts.values()) for counts in crops.counts.values()):
            raise InputError(f'{flir_root} has no box of {", ".join(crops.class_names)} to make a crop of.')
        write_json(folder / 'crops.json', vars(crops))
    return crops


def _write_split(
    split: Split, writer: '_ShardWriter', cut: '_Cutter', map_in_order: OrderedMap, bar: 'tqdm[None]'
) -> dict[str, int]:
    """Write the crops of a split and return the number of dropped boxes by reason."""
    dropped = split.dropped.copy()
    if split.missing:
        dropped['frame that is not on disk (frames)'] += len(split.missing)
    starts = range(0, len(split.frames), FRAMES_PER_TASK)
    tasks = (split.frames[start : start + FRAMES_PER_TASK] for start in starts)
    for rows, dropped_by_task, num_frames in map_in_order(cut, tasks):
        writer.write(rows)
        dropped.update(dropped_by_task)
        bar.update(num_frames)
    writer.close()
    return dict(sorted(dropped.items()))


def crop_options(
    classes: Classes,
    min_size: int,
    missing: Literal['fail', 'skip'],
    bits: Literal[8, 16],
    percentiles: tuple[float, float],
) -> CropOptions:
    """Return the options of `build_crops` that the crops depend on."""
    options: CropOptions = {'classes': classes, 'min_size': min_size, 'bits': bits, 'missing': missing}
    return {**options, 'percentiles': list(percentiles)} if bits == 16 else options


def built_crops(folder: Path, options: CropOptions | None = None) -> CropSet | None:
    """Read `crops.json` of a folder that `build_crops` wrote; None if there is none.

    Raises:
        InputError: If it cannot be read, or the crops were built with other options than `options` (None: any).
    """
    if not (folder / 'crops.json').is_file():
        return None
    try:
        crops = CropSet(**json.loads((folder / 'crops.json').read_text()))
        sum(sum(counts.values()) for counts in crops.counts.values())
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f'{folder / "crops.json"} cannot be read ({error}). Build the crops again.') from error
    if options is not None and crops.options != options:
        raise InputError(
            f'{folder} was built with other options: {crops.options}. Use another folder, or the same options.'
        )
    return crops


def narrow_crops(folder: Path, out: Path, classes: Classes) -> CropSet:
    """Copy the crops of some classes from a folder that `build_crops` wrote to a new or empty folder.

    Raises:
        InputError: If `folder` has no `crops.json`, or lacks one of the classes.
    """
    built, names = built_crops(folder), CLASSES[classes]
    if built is None or not set(names) <= set(built.class_names):
        raise InputError(f'{folder} has no crops of {", ".join(names)} to choose from.')
    old_labels = [built.class_names.index(name) for name in names]
    crops = replace(built, class_names=names, counts={}, dropped={}, options={**built.options, 'classes': classes})
    with create_folder(out) as temporary:
        for split, counts in built.counts.items():
            writer = _ShardWriter(temporary / 'data', split, crop_features(names))
            for rows in _relabelled(folder / 'data', split, old_labels):
                writer.write(rows)
            writer.close()
            crops.counts[split] = {name: counts[name] for name in names}
            unused = {f'class that is not used: {name}': n for name, n in counts.items() if name not in names and n}
            crops.dropped[split] = dict(sorted({**built.dropped[split], **unused}.items()))
        write_json(temporary / 'crops.json', vars(crops))
    return crops


def _relabelled(folder: Path, split: str, old_labels: list[int]) -> Iterator[pa.Table]:
    """Yield the rows with one of the labels; their new label is its index in `old_labels`."""
    for shard in sorted(folder.glob(f'{split}-*.parquet')):
        for batch in pq.ParquetFile(shard).iter_batches(ROWS_PER_GROUP):
            rows = pa.Table.from_batches([batch])
            rows = rows.filter(pc.is_in(rows['label'], pa.array(old_labels)))
            labels = pa.array([old_labels.index(label) for label in rows['label'].to_pylist()], pa.int64())
            yield rows.set_column(rows.schema.get_field_index('label'), 'label', labels)


def load_crops(source: Path | str, configuration: str | None = None) -> datasets.DatasetDict:
    """Open a folder of crops, or a data set on the Hub, as `datasets.load_dataset` does."""
    return datasets.load_dataset(str(source), configuration)


def format_counts(crops: CropSet) -> str:
    """Return the crops per split and class, with the paper's Table 1 for the paper's data, and what was left out."""
    header, rows = ['split', *crops.class_names, 'total'], []
    for split, counts in crops.counts.items():
        rows.append([split, *(f'{counts[name]:,}' for name in crops.class_names), f'{sum(counts.values()):,}'])
        if crops.is_starter_set and split in TABLE_1:
            paper = [TABLE_1[split][name] for name in crops.class_names]
            rows.append(['paper, Table 1', *(f'{count:,}' for count in paper), f'{sum(paper):,}'])
    left_out = [
        f'left out of {split}: ' + ', '.join(f'{count:,} x {reason}' for reason, count in reasons.items())
        for split, reasons in crops.dropped.items()
        if reasons
    ]
    return '\n'.join([format_table(header, rows, right=range(1, len(header))), *left_out])


def _origin(flir: FlirFolder) -> str:
    if flir.is_starter_set:
        return f'the FLIR starter thermal set ({flir.layout.name})'
    return f'frames laid out as {flir.layout.name}'


@dataclass(frozen=True)
class _Cutter:
    """Decodes frames and cuts out their boxes; picklable for worker processes."""

    class_names: tuple[str, ...]
    min_size: int
    percentiles: tuple[float, float] | None
    skip_broken: bool

    def __call__(self, frames: list[Frame]) -> tuple[pa.Table, Counter[str], int]:
        """Return the rows, the number of dropped boxes by reason, and the number of frames."""
        schema = crop_features(self.class_names).arrow_schema
        rows: list[dict[str, object]] = []
        dropped: Counter[str] = Counter()
        for frame in frames:
            rows += self._cut(frame, dropped)
        return pa.Table.from_pylist(rows, schema=schema), dropped, len(frames)

    def _cut(self, frame: Frame, dropped: Counter[str]) -> list[dict[str, object]]:
        chosen = [(label, box) for box in frame.boxes if (label := self._label(box, dropped)) is not None]
        if not chosen:
            return []
        try:
            image = read_frame(frame, self.percentiles)
        except InputError:
            if not self.skip_broken:
                raise
            dropped['frame that cannot be decoded (frames)'] += 1
            return []
        return [
            {
                'image': {'bytes': _encode_png(box.cut(image)), 'path': f'{frame.stem}_{index}.png'},
                'label': label,
                'frame': frame.stem,
                'bbox': [box.x, box.y, box.w, box.h],
                'source': frame.source,
            }
            for index, (label, box) in enumerate(chosen)
        ]

    def _label(self, box: Box, dropped: Counter[str]) -> int | None:
        name = CLASS_OF_CATEGORY.get(box.category)
        if name not in self.class_names:
            dropped[f'category that is not used: {box.category}'] += 1
        elif min(box.w, box.h) < self.min_size:
            dropped[f'box under {self.min_size} pixels'] += 1
        else:
            return self.class_names.index(name)
        return None


def _encode_png(crop: Image.Image) -> bytes:
    """Encode a crop with Huffman coding alone: in noise, a search for repetitions takes time and finds none."""
    buffer = io.BytesIO()
    crop.save(buffer, format='PNG', compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY)
    return buffer.getvalue()


class _ShardWriter:
    """Writes rows to Parquet shards, named as on the Hub, one row group at a time.

    A split without rows gets no shard, because `datasets` cannot open an empty one.
    """

    def __init__(self, folder: Path, split: str, features: datasets.Features) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.split = split
        self.schema: pa.Schema = features.arrow_schema
        self.labels: Counter[int] = Counter()
        self.pending: pa.Table = self.schema.empty_table()
        self.shards: list[Path] = []
        self.writer: pq.ParquetWriter | None = None
        self.rows_in_shard = 0

    def write(self, rows: pa.Table) -> None:
        self.labels.update(rows['label'].to_pylist())
        self.pending = pa.concat_tables([self.pending, rows.cast(self.schema)])
        while len(self.pending) >= ROWS_PER_GROUP:
            self._write_group()

    def close(self) -> None:
        if len(self.pending):
            self._write_group()
        self._close_shard()
        for index, shard in enumerate(self.shards):
            shard.rename(self.folder / f'{self.split}-{index:05d}-of-{len(self.shards):05d}.parquet')

    def _write_group(self) -> None:
        writer = self.writer or self._open_shard()
        group, self.pending = self.pending[:ROWS_PER_GROUP], self.pending[ROWS_PER_GROUP:]
        writer.write_table(group.combine_chunks())
        self.rows_in_shard += len(group)
        if self.rows_in_shard >= ROWS_PER_SHARD:
            self._close_shard()

    def _open_shard(self) -> pq.ParquetWriter:
        self.shards.append(self.folder / f'{self.split}-{len(self.shards):05d}')
        self.writer = pq.ParquetWriter(self.shards[-1], self.schema)
        self.rows_in_shard = 0
        return self.writer

    def _close_shard(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None
