"""Evidence: results and logits of the runs of studies, without weights and without local paths.

    evidence/
        history.jsonl                     one line per study and data set
        cpu.yaml                          matrix of the studies
        runs.jsonl                        one line per run: its name and results
        thermal_uav.parquet               one row per validation crop: label, frame, logits of each run
        thermal_uav_held_out_0.1.parquet  the same for the training crops that runs held out

Everything that needs neither images nor weights is computed from these files alone.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from timm_convattn.errors import InputError
from timm_convattn.files import replace_folder, write_bytes, write_json
from timm_convattn.predictions import Predictions
from timm_convattn.redact import strip_local_paths
from timm_convattn.results import RunResults, parse_results
from timm_convattn.studies.data import StudyData
from timm_convattn.studies.findings import FinishedRun, Runs, Split
from timm_convattn.studies.history import Entry, read_history, write_history

__all__ = ['FOLDER', 'Evidence', 'add_evidence', 'read_evidence', 'restore_runs', 'unique_names']

FOLDER = 'evidence'  # in a folder of results files
RUNS = 'runs.jsonl'
FACTS = b'study_data'  # key in the metadata of a Parquet file
COLUMNS = ['label', 'frame']
SPLITS: tuple[Split, ...] = ('validation', 'held_out')


class Line(msgspec.Struct):
    """Line of `runs.jsonl`."""

    run: str
    results: msgspec.Raw


@dataclass(frozen=True)
class CropTable:
    """Logits of several runs on the same crops."""

    data: StudyData
    hold_out: float | None
    """Share of the training frames that these crops are of. None: the validation split."""
    labels: npt.NDArray[np.int64]
    frames: Sequence[str | None]
    logits: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """Run -> (N, num_classes)."""


@dataclass(frozen=True)
class Evidence:
    """Runs stored as evidence."""

    folder: Path
    results: Mapping[str, msgspec.Raw]
    """Run -> JSON of its results."""
    files: Mapping[tuple[str, Split], Path]
    """Run and split -> Parquet file."""
    data: Mapping[str, StudyData]
    """Hash of a data set -> the data set."""

    @property
    def runs(self) -> Runs:
        """The runs."""
        remedy = f'Restore {self.folder}, or remove the run from it to repeat it.'
        return Runs(self.folder, self._read_results, self.read_predictions, lambda _: remedy)

    def _read_results(self, name: str) -> RunResults | None:
        content = self.results.get(name)
        return None if content is None else parse_results(content, RunResults, self.folder / RUNS)

    def read_predictions(self, name: str, split: Split) -> Predictions:
        """Return the logits of a run.

        Raises:
            InputError: If there are none.
        """
        path = self.files.get((name, split))
        if path is None:
            raise InputError(f'{self.folder} has no logits of {name} on its split {split}.')
        table = _read_table(path, [name])
        return Predictions(table.logits[name], table.labels, table.data.class_names)


def read_evidence(results: Path) -> Evidence:
    """Read the evidence in a folder of results files.

    Raises:
        InputError: If it has none, or it cannot be read.
    """
    folder = results / FOLDER
    if not (folder / RUNS).is_file():
        raise InputError(f'{results} has no {FOLDER}/{RUNS}. Name a folder that report --results wrote.')
    files: dict[tuple[str, Split], Path] = {}
    crops: dict[str, dict[float | None, Path]] = {}
    data = {}
    try:
        lines = msgspec.json.Decoder(Line).decode_lines((folder / RUNS).read_bytes())
        for path in sorted(folder.glob('*.parquet')):
            schema = pq.read_schema(path)
            facts, hold_out = _read_facts(schema)
            crops.setdefault(facts.sha256, {})[hold_out] = path
            data[facts.sha256] = facts
            split: Split = 'validation' if hold_out is None else 'held_out'
            files |= {(name, split): path for name in schema.names if name not in COLUMNS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, msgspec.MsgspecError, pa.ArrowException) as error:
        reason = f'{type(error).__name__}: {error}'
        raise InputError(f'{folder} cannot be read as evidence of runs ({reason}). Restore its files.') from error
    located = {sha256: replace(facts, kept=crops[sha256]) for sha256, facts in data.items()}
    return Evidence(folder, {line.run: line.results for line in lines}, files, located)


def restore_runs(evidence: Evidence, names: Sequence[str], folder: Path) -> None:
    """Write runs of the evidence as run folders without weights, if they are missing.

    Args:
        evidence: The evidence.
        names: Runs to restore. Those that are not in the evidence are left out.
        folder: Folder of all runs.
    """
    missing = [name for name in names if name in evidence.results and not (folder / name / 'results.json').is_file()]
    for name in missing:
        folder.mkdir(parents=True, exist_ok=True)
        with replace_folder(folder / name) as temporary:
            write_json(temporary / 'results.json', msgspec.json.decode(evidence.results[name]))
            for split in (split for split in SPLITS if (name, split) in evidence.files):
                evidence.read_predictions(name, split).save(temporary / f'{split}.safetensors')


def add_evidence(
    runs: Sequence[FinishedRun], entries: Sequence[tuple[Entry, StudyData]], matrices: Sequence[Path], results: Path
) -> None:
    """Add runs to the evidence in a folder of results files, which is replaced as a whole.

    Args:
        runs: The runs.
        entries: Their studies, each with its data set.
        matrices: Files of the studies' matrices, with different names.
        results: Folder of results files.

    Raises:
        InputError: If runs with equal options held out different crops, or the evidence there cannot be read.
    """
    folder = results / FOLDER
    lines: dict[str, msgspec.Raw] = {}
    tables: dict[tuple[str, float | None], CropTable] = {}
    history: list[Entry] = []
    if (folder / RUNS).is_file():
        before = read_evidence(results)
        lines, history = dict(before.results), read_history(folder)
        stored = [_read_table(path) for path in sorted(set(before.files.values()))]
        tables = {(table.data.sha256, table.hold_out): table for table in stored}
    for run in runs:
        content = strip_local_paths(msgspec.to_builtins(run.results))
        lines[run.run.name] = msgspec.Raw(msgspec.json.encode(content))
        _add(tables, run, None, run.predictions)
        if run.held_out is not None:
            _add(tables, run, float(run.run.options['hold_out']), run.held_out)
    history += [_strip_entry(entry, data) for entry, data in entries]
    results.mkdir(parents=True, exist_ok=True)
    with replace_folder(folder) as temporary:
        temporary.mkdir()
        for path in [*folder.glob('*.yaml'), *matrices]:  # a newer matrix replaces an older one of the same name
            shutil.copyfile(path, temporary / path.name)
        write_history(temporary, list(dict.fromkeys(history)))
        ordered = [Line(name, lines[name]) for name in sorted(lines)]
        write_bytes(temporary / RUNS, msgspec.json.Encoder().encode_lines(ordered))
        names = unique_names([table.data for table in tables.values()])
        for (sha256, hold_out), table in tables.items():
            ending = '' if hold_out is None else f'_held_out_{hold_out:g}'
            _write_table(table, temporary / f'{names[sha256]}{ending}.parquet')


def unique_names(data: Sequence[StudyData]) -> dict[str, str]:
    """Return hash -> file name stem of data sets; a part of the hash is appended to names that several share."""
    names = {each.sha256: each.name for each in data}
    counts = Counter(names.values())
    return {sha256: name if counts[name] == 1 else f'{name}_{sha256[:8]}' for sha256, name in names.items()}


def _strip_entry(entry: Entry, data: StudyData) -> Entry:
    """Replace local paths of a study: the data set by its hash, the matrix by its file name."""
    command = strip_local_paths({'command': entry.command})['command'] or ''
    return msgspec.structs.replace(entry, command=command, source=data.sha256, matrix=Path(entry.matrix).name)


def _add(
    tables: dict[tuple[str, float | None], CropTable],
    run: FinishedRun,
    hold_out: float | None,
    predictions: Predictions,
) -> None:
    data = run.run.data
    if (data.sha256, hold_out) not in tables:
        labels, frames = data.labels_and_frame_names(hold_out)
        tables[data.sha256, hold_out] = CropTable(data, hold_out, labels, frames or [None] * len(labels))
    table = tables[data.sha256, hold_out]
    if not np.array_equal(table.labels, predictions.labels):
        raise InputError(
            f'{run.folder}: its held-out logits are of other crops than a share of {hold_out} of the training frames. '
            'Remove the folder to repeat the run.'
        )
    table.logits[run.run.name] = predictions.logits


def _read_facts(schema: pa.Schema) -> tuple[StudyData, float | None]:
    facts = json.loads(schema.metadata[FACTS])
    hold_out = facts.pop('hold_out')
    return StudyData(**{**facts, 'class_names': tuple(facts['class_names'])}), hold_out


def _read_table(path: Path, names: Sequence[str] | None = None) -> CropTable:
    """Read the logits of some runs, by default of all."""
    with pq.ParquetFile(path) as file:
        data, hold_out = _read_facts(file.schema_arrow)
        chosen = [name for name in file.schema_arrow.names if name not in COLUMNS] if names is None else names
        table = file.read(columns=[*COLUMNS, *chosen])
    logits = {name: _logits(table[name]) for name in chosen}
    return CropTable(data, hold_out, table['label'].to_numpy().copy(), table['frame'].to_pylist(), logits)


def _logits(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    rows = column.combine_chunks()
    values: npt.NDArray[np.float32] = rows.flatten().to_numpy().reshape(len(rows), -1).copy()  # torch needs it writable
    return values


def _write_table(table: CropTable, path: Path) -> None:
    num_classes = len(table.data.class_names)
    facts = asdict(table.data.description) | {'hold_out': table.hold_out}
    columns = {'label': pa.array(table.labels), 'frame': pa.array(table.frames, pa.string())}
    for name, logits in sorted(table.logits.items()):
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), num_classes)
    pq.write_table(
        pa.table(columns).replace_schema_metadata({FACTS: json.dumps(facts)}),
        path,
        compression='zstd',
        compression_level=19,
        use_dictionary=COLUMNS,
        use_byte_stream_split=[f'{name}.list.element' for name in columns if name not in COLUMNS],
        write_statistics=False,
    )
