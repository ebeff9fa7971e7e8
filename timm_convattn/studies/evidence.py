"""Evidence: what is kept of the runs of studies, without their weights and without paths of the machine they ran on.

    evidence/
        history.jsonl                     a line a study on a data set
        cpu.yaml                          its matrix
        runs.jsonl                        a line a run: its name and its results
        thermal_uav.parquet               a row a crop of the validation split: label, frame, the logits of each run
        thermal_uav_held_out_0.1.parquet  the same for the crops that runs held out of training

Everything that needs neither images nor weights is computed from these files alone.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from timm_convattn.errors import InputError
from timm_convattn.files import replace_folder, write_json, write_text
from timm_convattn.predictions import Predictions
from timm_convattn.redact import strip_local_paths
from timm_convattn.studies.data import StudyData
from timm_convattn.studies.gathering import FinishedRun
from timm_convattn.studies.history import Entry, read_history, write_history
from timm_convattn.studies.results import Split

__all__ = ['FOLDER', 'Evidence', 'keep_evidence', 'read_evidence', 'restore_runs', 'unique_names']

FOLDER = 'evidence'  # in a folder of results files
FACTS = b'study_data'  # key in the metadata of a Parquet file
COLUMNS = ['label', 'frame']
SPLITS: tuple[Split, ...] = ('validation', 'held_out')


@dataclass(frozen=True)
class CropTable:
    """The logits of many runs on the same crops."""

    data: StudyData
    hold_out: float | None
    """Share of the training frames that these crops are of. None: they are the validation split."""
    labels: npt.NDArray[np.int64]
    frames: Sequence[str | None]
    logits: dict[str, npt.NDArray[np.float32]]
    """Name of a run -> (N, num_classes)."""


@dataclass(frozen=True)
class Evidence:
    """Runs that were kept, read as those in a folder of runs are."""

    folder: Path
    results: Mapping[str, Any]
    """Name of a run -> content of its results file."""
    files: Mapping[tuple[str, Split], Path]
    """Name of a run and split -> Parquet file."""
    data: Mapping[str, StudyData]
    """Hash of a data set -> the data set."""

    def results_path(self, name: str) -> Path:
        """Return the file that holds the results of a run."""
        return self.folder / 'runs.jsonl'

    def read_results(self, name: str) -> Any:
        """Return the content of the results file of a run; None where the run is not finished."""
        return self.results.get(name)

    def run_folder(self, name: str) -> Path:
        """Return where a run is stored."""
        return self.folder

    def read_predictions(self, name: str, split: Split) -> Predictions:
        """Return the logits of a run.

        Raises:
            InputError: If they were not kept.
        """
        path = self.files.get((name, split))
        if path is None:
            raise InputError(f'{self.folder} has no logits of {name} on its split {split}.')
        table = _read_table(path, [name])
        return Predictions(table.logits[name], table.labels, table.data.class_names)

    def remedy(self, name: str) -> str:
        """Return what to do about a run that cannot be used."""
        return f'Restore {self.folder}, or remove the run {name} from it to repeat the run.'


def read_evidence(results: Path) -> Evidence:
    """Read what `keep_evidence` wrote to a folder of results files.

    Raises:
        InputError: If it has none, or it cannot be read.
    """
    folder = results / FOLDER
    if not (folder / 'runs.jsonl').is_file():
        raise InputError(f'{results} has no {FOLDER}/runs.jsonl. Name a folder that report --results wrote.')
    files: dict[tuple[str, Split], Path] = {}
    kept: dict[str, dict[float | None, Path]] = {}
    data = {}
    try:
        lines = [json.loads(line) for line in (folder / 'runs.jsonl').read_text().splitlines()]
        results_of_runs = {line['run']: line['results'] for line in lines}
        for path in sorted(folder.glob('*.parquet')):
            schema = pq.read_schema(path)
            facts, hold_out = _read_facts(schema)
            kept.setdefault(facts.sha256, {})[hold_out] = path
            data[facts.sha256] = facts
            split: Split = 'validation' if hold_out is None else 'held_out'
            files |= {(name, split): path for name in schema.names if name not in COLUMNS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, pa.ArrowException) as error:
        reason = f'{type(error).__name__}: {error}'
        raise InputError(f'{folder} cannot be read as evidence of runs ({reason}). Restore its files.') from error
    located = {sha256: replace(facts, kept=kept[sha256]) for sha256, facts in data.items()}
    return Evidence(folder, results_of_runs, files, located)


def restore_runs(evidence: Evidence, names: Sequence[str], folder: Path) -> None:
    """Write runs that were kept as run folders without weights, where a folder of runs lacks them.

    Args:
        evidence: The kept runs.
        names: The runs that are wanted. Those that were not kept are left out.
        folder: The folder of runs.
    """
    for name in names:
        if name not in evidence.results or (folder / name / 'results.json').is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with replace_folder(folder / name) as temporary:
            write_json(temporary / 'results.json', evidence.results[name])
            for split in SPLITS:
                if (name, split) in evidence.files:
                    evidence.read_predictions(name, split).save(temporary / f'{split}.safetensors')


def keep_evidence(
    runs: Sequence[FinishedRun], entries: Sequence[tuple[Entry, StudyData]], matrices: Sequence[Path], results: Path
) -> None:
    """Add runs to the evidence in a folder of results files. All of it is replaced at once.

    Args:
        runs: The runs.
        entries: The studies that they belong to, each with its data set.
        matrices: The files of their matrices, whose names all differ.
        results: The folder of results files.

    Raises:
        InputError: If runs with equal options held different crops out, or the evidence there cannot be read.
    """
    folder = results / FOLDER
    lines: dict[str, Any] = {}
    tables: dict[tuple[str, float | None], CropTable] = {}
    known: list[Entry] = []
    if (folder / 'runs.jsonl').is_file():
        before = read_evidence(results)
        lines, known = dict(before.results), read_history(folder)
        for path in sorted(set(before.files.values())):
            table = _read_table(path)
            tables[table.data.sha256, table.hold_out] = table
    for run in runs:
        lines[run.run.name] = strip_local_paths(run.record)
        _add(tables, run, None, run.predictions)
        if run.held_out is not None:
            _add(tables, run, float(run.run.options['hold_out']), run.held_out)
    new = [
        replace(entry, command=strip_local_paths({'command': entry.command})['command'] or '', source=data.sha256)
        for entry, data in entries
    ]
    new = [replace(entry, matrix=Path(entry.matrix).name) for entry in new]
    names = unique_names([table.data for table in tables.values()])
    results.mkdir(parents=True, exist_ok=True)
    with replace_folder(folder) as temporary:
        temporary.mkdir()
        for path in [*folder.glob('*.yaml'), *matrices]:  # a newer matrix replaces the older one of its name
            shutil.copyfile(path, temporary / path.name)
        write_history(temporary, list(dict.fromkeys([*known, *new])))
        text = (json.dumps({'run': name, 'results': lines[name]}) + '\n' for name in sorted(lines))
        write_text(temporary / 'runs.jsonl', ''.join(text))
        for (sha256, hold_out), table in tables.items():
            ending = '' if hold_out is None else f'_held_out_{hold_out:g}'
            _write_table(table, temporary / f'{names[sha256]}{ending}.parquet')


def unique_names(data: Sequence[StudyData]) -> dict[str, str]:
    """Return hash -> file name stem of data sets; names that several share get a part of the hash."""
    names = {of_one.sha256: of_one.name for of_one in data}
    counts = Counter(names.values())
    return {sha256: name if counts[name] == 1 else f'{name}_{sha256[:8]}' for sha256, name in names.items()}


def _add(
    tables: dict[tuple[str, float | None], CropTable],
    run: FinishedRun,
    hold_out: float | None,
    predictions: Predictions,
) -> None:
    data = run.run.data
    if (data.sha256, hold_out) not in tables:
        labels, frames = data.labels_and_frame_names(hold_out)
        tables[data.sha256, hold_out] = CropTable(data, hold_out, labels, frames or [None] * len(labels), {})
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
    data = StudyData(source=None, configuration=None, **{**facts, 'class_names': tuple(facts['class_names'])})
    return data, hold_out


def _read_table(path: Path, names: Sequence[str] | None = None) -> CropTable:
    """Read the logits of some runs, or of all of them."""
    with pq.ParquetFile(path) as file:
        data, hold_out = _read_facts(file.schema_arrow)
        wanted = [name for name in file.schema_arrow.names if name not in COLUMNS] if names is None else names
        table = file.read(columns=[*COLUMNS, *wanted])
    logits = {name: _logits(table[name]) for name in wanted}
    return CropTable(data, hold_out, table['label'].to_numpy().copy(), table['frame'].to_pylist(), logits)


def _logits(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    rows = column.combine_chunks()
    values: npt.NDArray[np.float32] = rows.flatten().to_numpy().reshape(len(rows), -1).copy()  # torch wants to write
    return values


def _write_table(table: CropTable, path: Path) -> None:
    num_classes = len(table.data.class_names)
    facts = {key: value for key, value in asdict(table.data).items() if key not in ('source', 'configuration', 'kept')}
    facts |= {'origin': strip_local_paths(table.data.origin), 'hold_out': table.hold_out}
    columns = {'label': pa.array(table.labels), 'frame': pa.array(table.frames, pa.string())}
    for name, logits in sorted(table.logits.items()):
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), num_classes)
    content = pa.table(columns).replace_schema_metadata({FACTS: json.dumps(facts)})
    pq.write_table(
        content,
        path,
        compression='zstd',
        compression_level=19,
        use_dictionary=COLUMNS,
        use_byte_stream_split=list(_leaves(content.schema)),
        write_statistics=False,
    )


def _leaves(schema: pa.Schema) -> Iterator[str]:
    """Name the columns of floating-point numbers as Parquet does."""
    for name in schema.names:
        if name not in COLUMNS:
            yield f'{name}.list.element'
