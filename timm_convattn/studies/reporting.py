"""From the runs in a folder to the report and the results files."""

import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm_convattn.errors import InputError
from timm_convattn.files import write_json
from timm_convattn.studies.data import StudyData, open_study_data
from timm_convattn.studies.gathering import Findings, FinishedRun, gather
from timm_convattn.studies.history import Entry, read_history
from timm_convattn.studies.matrix import PARTS, Matrix, read_matrix
from timm_convattn.studies.page import Chapter, Report, write_html, write_markdown
from timm_convattn.studies.records import study_record
from timm_convattn.studies.sections import Section, data_sections, study_sections

__all__ = ['write_report']

EVIDENCE = ('config.yaml', 'results.json', 'validation.safetensors', 'held_out.safetensors')  # all but the weights


def write_report(out: Path, results: Path | None = None) -> list[Path]:
    """Write `report.html` and `report.md` from all finished runs in a folder, and their results files.

    Args:
        out: The folder that studies were made in.
        results: Folder for a results file (JSON) of each study on each data set, and for `runs/`: of every run that
            they tell of, its options, its results and what it says of each crop. Copied to where runs are made, such a
            run is a finished one. None: nothing is written.

    Returns:
        What was written.

    Raises:
        InputError: If no study was made here, or none has a finished run.
    """
    entries = read_history(out)
    if not entries:
        raise InputError(f'No study was made in {out} yet. Make one: python train_scripts/reproduce.py table2')
    matrices = {entry.matrix: read_matrix(Path(entry.matrix)) for entry in entries}
    found = [
        (data, [(matrix, gather(matrix, name, data, out / 'runs')) for matrix, name in studies])
        for data, studies in _studies_by_data(entries, matrices, out)
    ]
    of_crops_alone = any(PARTS.get(entry.study, ('',))[0] is None for entry in entries)
    if not of_crops_alone and not any(findings.is_begun for _, all_of in found for _, findings in all_of):
        raise InputError(f'No run in {out} is finished yet. Go on with: {entries[-1].command}')
    report = Report(
        scales={matrix.scale: matrix.about for matrix in matrices.values()},
        commands=list(dict.fromkeys(entry.command for entry in entries)),
        environment=_environment([findings for _, all_of in found for _, findings in all_of]),
        chapters=[Chapter(data, _sections(data, all_of)) for data, all_of in found],
    )
    written = [out / 'report.html', out / 'report.md']
    write_html(report, written[0])
    write_markdown(report, written[1])
    for data, all_of in found:
        for matrix, findings in all_of:
            if results is not None and findings.is_begun:
                written.append(results / f'{findings.study.name}_{data.name}.json')
                write_json(written[-1], study_record(findings, matrix.scale))
                for run in itertools.chain.from_iterable(findings.rows.values()):
                    _keep_evidence(run, results / 'runs')
    return written


def _keep_evidence(run: FinishedRun, folder: Path) -> None:
    """Copy all of a run but its weights, whole or not at all."""
    beside, place = folder / f'.{run.run.name}', folder / run.run.name
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name in EVIDENCE:
        if (run.folder / name).is_file():
            shutil.copyfile(run.folder / name, beside / name)
    shutil.rmtree(place, ignore_errors=True)
    beside.rename(place)


def _studies_by_data(
    entries: Sequence[Entry], matrices: Mapping[str, Matrix], out: Path
) -> list[tuple[StudyData, list[tuple[Matrix, str]]]]:
    """List what was studied on each data set, the studies in the order of their matrix."""
    made: dict[str, tuple[StudyData, list[tuple[Matrix, str]]]] = {}
    for source, classes in dict.fromkeys((entry.source, entry.classes) for entry in entries):
        data = open_study_data(source, classes, out / 'crops')
        here = [entry for entry in entries if (entry.source, entry.classes) == (source, classes)]
        begun = {(entry.matrix, PARTS[entry.study][0] if entry.study in PARTS else entry.study) for entry in here}
        _, studies = made.setdefault(data.sha256, (data, []))  # the same crops can lie in two places
        for path, matrix in matrices.items():
            named = [(matrix, name) for name in matrix.studies if (path, name) in begun]
            studies += [study for study in named if study not in studies]
    return list(made.values())


def _sections(data: StudyData, all_of: Sequence[tuple[Matrix, Findings]]) -> list[Section]:
    sections = list(data_sections(data))
    for matrix, findings in all_of:
        sections += study_sections(findings, matrix.scale)
    return sections


def _environment(all_of: Sequence[Findings]) -> dict[str, Any]:
    """Say in a line each with what the runs were made."""
    runs = {run.run.name: run for findings in all_of for of_row in findings.rows.values() for run in of_row}
    environments = [run.record['environment'] for run in runs.values()]
    hardware = {
        f'{", ".join(had["gpus"]) or had["cpu"]}, {had["processes"]} process(es), {had["threads"]} thread(s)'
        for had in (environment['hardware'] for environment in environments)
    }
    versions = {', '.join(f'{k} {v}' for k, v in environment['versions'].items()) for environment in environments}
    dates = sorted(environment['date'][:10] for environment in environments)
    hours = sum(run.record['training']['seconds'] for run in runs.values()) / 3600
    return {
        'Runs': f'{len(runs)}, which trained for {hours:.1f} hours',
        'Seeds': ', '.join(map(str, sorted({run.run.seed for run in runs.values()}))),
        'Hardware': '; '.join(sorted(hardware)),
        'Versions': '; '.join(sorted(versions)),
        'Commits': ', '.join(sorted({str(environment['commit']) for environment in environments})),
        'Dates': f'{dates[0]} to {dates[-1]}' if dates else '',
    }
