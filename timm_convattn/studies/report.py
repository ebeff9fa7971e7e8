"""Write the report and the results files of all studies in a folder."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from timm_convattn.errors import InputError
from timm_convattn.results import write_results
from timm_convattn.studies.data import StudyData, open_study_data
from timm_convattn.studies.evidence import Evidence, add_evidence, read_evidence, unique_names
from timm_convattn.studies.findings import Findings, FinishedRun, gather, run_folders
from timm_convattn.studies.history import Entry, read_history
from timm_convattn.studies.matrix import PARTS, Matrix, read_matrix
from timm_convattn.studies.page import Chapter, Report, Section, write_pages
from timm_convattn.studies.sections import data_sections, study_sections
from timm_convattn.studies.summary import summarize

__all__ = ['write_report']


@dataclass(frozen=True)
class DataFindings:
    """Findings on one data set."""

    data: StudyData
    findings: Sequence[tuple[Matrix, Findings]]
    removed: Sequence[str]
    """Studies that are no longer in their matrix, a sentence each."""
    entries: Sequence[Entry]


def write_report(out: Path, results: Path | None = None, kept: Path | None = None) -> list[Path]:
    """Write `report.html` and `report.md`, and results files and evidence if asked for.

    Args:
        out: Folder for the report, and of the studies unless `kept` is given.
        results: Folder for a results file (JSON) of each study on each data set, and for the evidence of their runs
            (`timm_convattn.studies.evidence`). None: they are not written.
        kept: Folder of results files with evidence, to report on instead of the runs and crops in `out`.

    Returns:
        Paths of the written files.

    Raises:
        InputError: If there are no studies, or none has a finished run.
    """
    evidence = None if kept is None else read_evidence(kept)
    folder = out if evidence is None else evidence.folder
    entries = read_history(folder)
    if evidence is not None:
        entries = [msgspec.structs.replace(entry, matrix=str(folder / entry.matrix)) for entry in entries]
    if not entries:
        raise InputError(f'{folder} has no studies yet. Run one: python train_scripts/reproduce.py table2')
    matrices = _read_matrices(entries)
    found = _gather(entries, matrices, out, evidence)
    runs = {run.run.name: run for on_data in found for _, findings in on_data.findings for run in findings.runs}
    needs_runs = all(PARTS.get(entry.study, ('',))[0] is not None for entry in entries)
    if needs_runs and not runs:
        removed = ' '.join(sentence for on_data in found for sentence in on_data.removed)
        raise InputError(removed or f'{folder} has no finished run yet. Continue with: {entries[-1].command}')
    report = Report(
        scales={matrix.scale: matrix.about for matrix in matrices.values()},
        commands=list(dict.fromkeys(entry.command for entry in entries)),
        environment=_environment(list(runs.values())),
        chapters=[Chapter(on_data.data, _sections(on_data)) for on_data in found],
    )
    written = [] if results is None else _write_results(found, results)
    if results is not None and runs:
        studies = [(entry, on_data.data) for on_data in found for entry in on_data.entries]
        add_evidence(list(runs.values()), studies, list(map(Path, matrices)), results)
    return [*write_pages(report, out), *written]


def _read_matrices(entries: Sequence[Entry]) -> dict[str, Matrix]:
    """Read each matrix once; those with equal names must be equal."""
    matrices: dict[str, Matrix] = {}
    for path in dict.fromkeys(entry.matrix for entry in entries):
        matrix = read_matrix(Path(path))
        for other_path, other in matrices.items():
            if other.scale == matrix.scale and other != matrix:
                raise InputError(
                    f'{other_path} and {path} are two matrices of one name, {matrix.scale}, so their results would be '
                    'mixed. Rename one and run its studies again, with another --out or without its lines in '
                    'history.jsonl.'
                )
        matrices[path] = matrix
    return matrices


def _gather(
    entries: Sequence[Entry], matrices: Mapping[str, Matrix], out: Path, evidence: Evidence | None
) -> list[DataFindings]:
    """Read the findings on each data set, with the studies in the order of their matrix."""
    opened: dict[str, StudyData] = {}
    by_data: dict[str, list[Entry]] = {}
    for source, classes in dict.fromkeys((entry.source, entry.classes) for entry in entries):
        if evidence is None:
            data = open_study_data(source, classes, out / 'crops')
        elif source is not None and source in evidence.data:
            data = evidence.data[source]
        else:
            raise InputError(f'{evidence.folder} has no crops {source}, which its history.jsonl names. Restore it.')
        opened.setdefault(data.sha256, data)  # the same crops can be in two folders
        here = [entry for entry in entries if (entry.source, entry.classes) == (source, classes)]
        by_data.setdefault(data.sha256, []).extend(here)
    runs = run_folders(out / 'runs') if evidence is None else evidence.runs
    found = []
    for sha256, data in opened.items():
        studies, removed = _studies(by_data[sha256], matrices)
        findings = [(matrix, gather(matrix, name, data, runs)) for matrix, name in studies]
        found.append(DataFindings(data, findings, removed, by_data[sha256]))
    return found


def _studies(entries: Sequence[Entry], matrices: Mapping[str, Matrix]) -> tuple[list[tuple[Matrix, str]], list[str]]:
    """Return the studies of the entries, and a sentence for each that its matrix no longer has."""
    started = dict.fromkeys((entry.matrix, PARTS.get(entry.study, (entry.study,))[0]) for entry in entries)
    studies: list[tuple[Matrix, str]] = []
    for path, matrix in matrices.items():
        named = [(matrix, name) for name in matrix.studies if (path, name) in started]
        studies += [study for study in named if study not in studies]
    removed = [
        f'The study {name} is no longer in {path}, so its runs are not shown. It has '
        f'{", ".join(matrices[path].studies)}. Add the study again, or rename it back, to show them.'
        for path, name in started
        if name is not None and name not in matrices[path].studies
    ]
    return studies, removed


def _write_results(found: Sequence[DataFindings], results: Path) -> list[Path]:
    """Write a results file of each study on each data set and return their paths, which all differ."""
    names = unique_names([on_data.data for on_data in found])
    written = []
    for on_data in found:
        for matrix, findings in on_data.findings:
            if findings.runs:
                scale = re.sub(r'\W+', '_', matrix.scale)
                written.append(results / f'{findings.study.name}_{names[on_data.data.sha256]}_{scale}.json')
                write_results(written[-1], summarize(findings, matrix.scale))
    return written


def _sections(on_data: DataFindings) -> list[Section]:
    """Return the sections of a data set; titles name the scale if there are several."""
    sections = list(data_sections(on_data.data))
    several = len({matrix.scale for matrix, _ in on_data.findings}) > 1
    for matrix, findings in on_data.findings:
        for section in study_sections(findings, matrix.scale):
            title = f'{section.title}, scale {matrix.scale}' if several else section.title
            sections.append(replace(section, title=title))
    if on_data.removed:
        sections.append(Section('Studies that are not shown', statements=list(on_data.removed)))
    return sections


def _environment(runs: Sequence[FinishedRun]) -> dict[str, str]:
    """Describe hardware, versions, dates, commits and seeds of the runs, a line each."""
    environments = [run.results.environment for run in runs]
    hardware = {
        f'{", ".join(each.gpus) or each.cpu}, {each.processes} process(es), {each.threads} thread(s)'
        for each in (environment.hardware for environment in environments)
    }
    versions = {', '.join(f'{k} {v}' for k, v in environment.versions.items()) for environment in environments}
    dates = sorted(environment.date[:10] for environment in environments)
    hours = sum(run.training.seconds for run in runs) / 3600
    return {
        'Runs': f'{len(runs)}, {hours:.1f} hours of training',
        'Seeds': ', '.join(map(str, sorted({run.run.seed for run in runs}))),
        'Hardware': '; '.join(sorted(hardware)),
        'Versions': '; '.join(sorted(versions)),
        'Commits': ', '.join(sorted({str(environment.commit) for environment in environments})),
        'Dates': f'{dates[0]} to {dates[-1]}' if dates else '',
    }
