"""Frames and boxes into a data set of crops: Parquet shards that `datasets.load_dataset(folder)` opens.

The frames go through in their order, each decoded once; what is in memory at a time is a few frames and the rows of
one row group, however many there are. The shards do not depend on the number of processes.
"""

import io
import json
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from tqdm.auto import tqdm

from timm_convattn.data.classes import CLASS_OF_CATEGORY, CLASSES, Classes
from timm_convattn.data.engines import Engine, ordered_map
from timm_convattn.data.flir import FlirFolder, Frame, read_flir, read_frame
from timm_convattn.errors import InputError
from timm_convattn.files import create_folder, write_json

__all__ = [
    'CLASSES',
    'CLASS_OF_CATEGORY',
    'Classes',
    'CropSet',
    'build_crops',
    'built_crops',
    'crop_features',
    'load_crops',
    'narrow_crops',
]

FRAMES_PER_TASK = 16
ROWS_PER_GROUP = 1_000
ROWS_PER_SHARD = 20_000


@dataclass
class CropSet:
    """What a build made: the counts that a person wants to see, and how it was made."""

    origin: str  # whose frames they are
    layout: str
    is_starter_set: bool  # the paper's data, whose counts its Table 1 gives
    class_names: tuple[str, ...]
    counts: dict[str, dict[str, int]]  # split -> class -> crops
    dropped: dict[str, dict[str, int]]  # split -> reason -> boxes (or frames, where the reason says so)
    options: dict[str, Any] = field(default_factory=dict)


def crop_features(class_names: tuple[str, ...]) -> datasets.Features:
    """Describe the columns of a crop.

    `image` is a grey PNG of the box, `frame` the stem of the frame's file, `bbox` [x, y, w, h] in pixels of the frame
    (clipped to it), `source` the frame's path below the folder that the crops were built from.
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
        out: Folder to write, which must not exist or be empty. It appears when it is complete.
        classes: Which classes to keep: person, vehicle, bicycle, dog, or the first two.
        min_size: Smallest side of a box to keep, in pixels.
        num_proc: Processes that decode.
        missing: What to do with frames that are missing or cannot be decoded.
        bits: Use the 8-bit frames, or the 16-bit frames.
        percentiles: For 16-bit frames, what becomes black and white (see `scale_percentiles`).
        progress: Whether to show a progress bar on a terminal.
        origin: Whose frames they are. None: the FLIR starter set where its counts say so, else frames in its layout.
        engine: Who decodes: `num_proc` processes of this machine, or the nodes of a Ray cluster, which all have to
            see the frames under the same path.
        address: Of the cluster. None: one that is started on this machine, with `num_proc` processors.

    Returns:
        Counts and options, which are also written to `out/crops.json`.

    Raises:
        InputError: If `out` holds something, or the folder cannot be read as `read_flir` and `read_frame` say.
    """
    if min_size < 1 or num_proc < 1:
        raise InputError(f'min_size is {min_size} and num_proc is {num_proc}, both must be at least 1.')
    flir = read_flir(flir_root, missing, bits)
    class_names = CLASSES[classes]
    with create_folder(out) as folder:
        made = CropSet(
            origin=origin or _origin(flir),
            layout=flir.layout.name,
            is_starter_set=flir.is_starter_set,
            class_names=class_names,
            counts={},
            dropped={},
            options=_options(classes, min_size, missing, bits, percentiles),
        )
        cut = partial(
            _cut_frames,
            class_names=class_names,
            min_size=min_size,
            percentiles=percentiles if bits == 16 else None,
            skip_broken=missing == 'skip',
        )
        with ordered_map(engine, num_proc, address) as map_in_order, _bar(flir, progress) as bar:
            for name, split in flir.splits.items():
                starts = range(0, len(split.frames), FRAMES_PER_TASK)
                tasks = (split.frames[start : start + FRAMES_PER_TASK] for start in starts)
                writer = _ShardWriter(folder / 'data', name, crop_features(class_names))
                dropped = split.dropped.copy()
                if split.missing:
                    dropped['frame that is not on disk (frames)'] += len(split.missing)
                for rows, lost, num_frames in map_in_order(cut, tasks):
                    writer.write(rows)
                    dropped.update(lost)
                    bar.update(num_frames)
                writer.close()
                made.counts[name] = {label: writer.labels[index] for index, label in enumerate(class_names)}
                made.dropped[name] = dict(sorted(dropped.items()))
        if not any(sum(counts.values()) for counts in made.counts.values()):
            raise InputError(f'{flir_root} has no box of {", ".join(class_names)} to make a crop of.')
        write_json(folder / 'crops.json', vars(made))
    return made


def built_crops(folder: Path, options: dict[str, Any] | None = None) -> CropSet | None:
    """Read what a build made, None where there is none.

    Args:
        folder: What `build_crops` wrote.
        options: Those of `build_crops` that decide what the crops are; None takes any.

    Raises:
        InputError: If it was built with other options.
    """
    if not (folder / 'crops.json').is_file():
        return None
    try:
        made = CropSet(**json.loads((folder / 'crops.json').read_text()))
        sum(sum(counts.values()) for counts in made.counts.values())
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f'{folder / "crops.json"} cannot be read ({error}). Build the crops again.') from error
    if options is not None and made.options != _options(**options):
        raise InputError(
            f'{folder} was built with other options: {made.options}. Give another folder, or the same options.'
        )
    return made


def narrow_crops(folder: Path, out: Path, classes: Classes) -> CropSet:
    """Write those crops of a folder that are of fewer classes as a data set of its own, a row group at a time.

    Args:
        folder: What `build_crops` wrote.
        out: Folder to write, which must not exist or be empty.
        classes: The classes to keep.

    Returns:
        Counts and options, which are also written to `out/crops.json`.

    Raises:
        InputError: If `folder` was not built, or lacks one of the classes.
    """
    whole, names = built_crops(folder), CLASSES[classes]
    if whole is None or not set(names) <= set(whole.class_names):
        raise InputError(f'{folder} has no crops of {", ".join(names)} to choose from.')
    kept = {whole.class_names.index(name): label for label, name in enumerate(names)}
    made = replace(whole, class_names=names, counts={}, dropped={}, options={**whole.options, 'classes': classes})
    with create_folder(out) as beside:
        for split, counts in whole.counts.items():
            writer = _ShardWriter(beside / 'data', split, crop_features(names))
            for shard in sorted((folder / 'data').glob(f'{split}-*.parquet')):
                for batch in pq.ParquetFile(shard).iter_batches(ROWS_PER_GROUP):
                    rows = pa.Table.from_batches([batch])
                    rows = rows.filter(pc.is_in(rows['label'], pa.array(list(kept))))
                    labels = pa.array([kept[label] for label in rows['label'].to_pylist()], pa.int64())
                    writer.write(rows.set_column(rows.schema.get_field_index('label'), 'label', labels))
            writer.close()
            made.counts[split] = {name: counts[name] for name in names}
            unused = {f'class that is not used: {name}': n for name, n in counts.items() if name not in names and n}
            made.dropped[split] = dict(sorted({**whole.dropped[split], **unused}.items()))
        write_json(beside / 'crops.json', vars(made))
    return made


def load_crops(source: Path | str, configuration: str | None = None) -> datasets.DatasetDict:
    """Open a folder of crops, or a data set on the Hub, as `datasets.load_dataset` does."""
    return datasets.load_dataset(str(source), configuration)


def _options(
    classes: Classes, min_size: int, missing: str, bits: int, percentiles: tuple[float, float]
) -> dict[str, Any]:
    options: dict[str, Any] = {'classes': classes, 'min_size': min_size, 'bits': bits, 'missing': missing}
    return options | ({'percentiles': list(percentiles)} if bits == 16 else {})


def _origin(flir: FlirFolder) -> str:
    if flir.is_starter_set:
        return f'the FLIR starter thermal set ({flir.layout.name})'
    return f'frames laid out as {flir.layout.name}'


def _cut_frames(
    frames: list[Frame],
    class_names: tuple[str, ...],
    min_size: int,
    percentiles: tuple[float, float] | None,
    skip_broken: bool,
) -> tuple[pa.Table, Counter[str], int]:
    """Decode some frames and cut their boxes out: rows, reasons for what was left out, number of frames."""
    schema = crop_features(class_names).arrow_schema
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    dropped: Counter[str] = Counter()
    for frame in frames:
        wanted = []
        for box in frame.boxes:
            label = CLASS_OF_CATEGORY.get(box.category)
            if label not in class_names:
                dropped[f'category that is not used: {box.category}'] += 1
            elif min(box.w, box.h) < min_size:
                dropped[f'box under {min_size} pixels'] += 1
            else:
                wanted.append((class_names.index(label), box))
        if not wanted:
            continue
        try:
            image = read_frame(frame, percentiles)
        except InputError:
            if not skip_broken:
                raise
            dropped['frame that cannot be decoded (frames)'] += 1
            continue
        stem = frame.stem
        for index, (label_index, box) in enumerate(wanted):
            columns['image'].append({'bytes': _encode_png(box.cut(image)), 'path': f'{stem}_{index}.png'})
            columns['label'].append(label_index)
            columns['frame'].append(stem)
            columns['bbox'].append([box.x, box.y, box.w, box.h])
            columns['source'].append(frame.source)
    return pa.Table.from_pydict(columns, schema=schema), dropped, len(frames)


def _encode_png(crop: Image.Image) -> bytes:
    """Encode a crop without a search for repetitions: crops hold noise, where that costs time and gains nothing."""
    buffer = io.BytesIO()
    crop.save(buffer, format='PNG', compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY)
    return buffer.getvalue()


class _ShardWriter:
    """Writes rows to Parquet shards named as the Hub names them, a row group at a time.

    A split without rows gets no shard: `datasets` cannot open an empty one.
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


def _bar(flir: FlirFolder, progress: bool) -> Any:
    return tqdm(total=len(flir.frames), desc='Cutting crops', unit='frame', disable=None if progress else True)
