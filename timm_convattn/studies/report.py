"""From the runs in a folder to the report and the results files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from timm_convattn.errors import InputError
from timm_convattn.results import write_results
from timm_convattn.studies.data import StudyData, open_study_data
from timm_convattn.studies.evidence import Evidence, keep_evidence, read_evidence, unique_names
from timm_convattn.studies.gathering import Findings, FinishedRun, gather
from timm_convattn.studies.history import Entry, read_history
from timm_convattn.studies.matrix import PARTS, Matrix, read_matrix
from timm_convattn.studies.page import Chapter, Report, Section, write_pages
from timm_convattn.studies.results import RunFolders, Runs
from timm_convattn.studies.sections import data_sections, study_sections
from timm_convattn.studies.summary import summarize

__all__ = ['write_report']


@dataclass(frozen=True)
class DataFindings:
    """What was studied on one data set."""

    data: StudyData
    findings: Sequence[tuple[Matrix, Findings]]
    gone: Sequence[str]
    """Studies that cannot be shown, a sentence each."""
    entries: Sequence[Entry]


def write_report(out: Path, results: Path | None = None, kept: Path | None = None) -> list[Path]:
    """Write `report.html` and `report.md` from all finished runs in a folder, and their results files.

    Args:
        out: The folder that studies were made in.
        results: Folder for a results file (JSON) of each study on each data set, and for the evidence of their runs
            (`timm_convattn.studies.evidence`). None: nothing is written.
        kept: Folder of results files whose evidence takes the place of the runs and crops of `out`. None: the report is
            of the runs in `out`.

    Returns:
        What was written.

    Raises:
        InputError: If no study was made here, or none has a finished run.
    """
    evidence = None if kept is None else read_evidence(kept)
    folder = out if evidence is None else evidence.folder
    entries = read_history(folder)
    if evidence is not None:
        entries = [replace(entry, matrix=str(folder / entry.matrix)) for entry in entries]
    if not entries:
        raise InputError(f'No study was made in {folder} yet. Make one: python train_scripts/reproduce.py table2')
    matrices = _read_matrices(entries)
    found = _gather(entries, matrices, out, evidence)
    of_crops_alone = any(PARTS.get(entry.study, ('',))[0] is None for entry in entries)
    if not of_crops_alone and not any(findings.is_begun for on_data in found for _, findings in on_data.findings):
        gone = ' '.join(said for on_data in found for said in on_data.gone)
        raise InputError(gone or f'No run in {folder} is finished yet. Go on with: {entries[-1].command}')
    report = Report(
        scales={matrix.scale: matrix.about for matrix in matrices.values()},
        commands=list(dict.fromkeys(entry.command for entry in entries)),
        environment=_environment([findings for on_data in found for _, findings in on_data.findings]),
        chapters=[Chapter(on_data.data, _sections(on_data)) for on_data in found],
    )
    written = [] if results is None else _write_results(found, results, list(map(Path, matrices)))
    return [*write_pages(report, out), *written]


def _read_matrices(entries: Sequence[Entry]) -> dict[str, Matrix]:
    """Read each matrix once; two that are named alike have to be the same."""
    matrices: dict[str, Matrix] = {}
    for path in dict.fromkeys(entry.matrix for entry in entries):
        matrix = read_matrix(Path(path))
        for known, other in matrices.items():
            if other.scale == matrix.scale and other != matrix:
                raise InputError(
                    f'{known} and {path} are two matrices of one name, {matrix.scale}: their results could not be told '
                    'apart. Rename one and name its studies again, in another --out or without its lines in '
                    'history.jsonl.'
                )
        matrices[path] = matrix
    return matrices


def _gather(
    entries: Sequence[Entry], matrices: Mapping[str, Matrix], out: Path, evidence: Evidence | None
) -> list[DataFindings]:
    """Read what was found on each data set, the studies in the order of their matrix."""
    opened: dict[str, StudyData] = {}
    made: dict[str, list[Entry]] = {}
    for source, classes in dict.fromkeys((entry.source, entry.classes) for entry in entries):
        if evidence is None:
            data = open_study_data(source, classes, out / 'crops')
        elif source is not None and source in evidence.data:
            data = evidence.data[source]
        else:
            raise InputError(f'{evidence.folder} has no crops {source}, which its history.jsonl names. Restore it.')
        opened.setdefault(data.sha256, data)  # the same crops can lie in two places
        here = [entry for entry in entries if (entry.source, entry.classes) == (source, classes)]
        made.setdefault(data.sha256, []).extend(here)
    runs: Runs = RunFolders(out / 'runs') if evidence is None else evidence
    found = []
    for sha256, data in opened.items():
        studies, gone = _studies(made[sha256], matrices)
        findings = [(matrix, gather(matrix, name, data, runs)) for matrix, name in studies]
        found.append(DataFindings(data, findings, gone, made[sha256]))
    return found


def _studies(entries: Sequence[Entry], matrices: Mapping[str, Matrix]) -> tuple[list[tuple[Matrix, str]], list[str]]:
    """List the studies that were begun, and say of those that their matrix does not have that they are gone."""
    begun = dict.fromkeys((entry.matrix, PARTS.get(entry.study, (entry.study,))[0]) for entry in entries)
    studies: list[tuple[Matrix, str]] = []
    for path, matrix in matrices.items():
        named = [(matrix, name) for name in matrix.studies if (path, name) in begun]
        studies += [study for study in named if study not in studies]
    gone = [
        f'The study {name} was begun, but {path} has it no more: its runs are not shown. What it has is '
        f'{", ".join(matrices[path].studies)}. Give the study its rows back, or its name, to see them.'
        for path, name in begun
        if name is not None and name not in matrices[path].studies
    ]
    return studies, gone


def _write_results(found: Sequence[DataFindings], results: Path, matrices: Sequence[Path]) -> list[Path]:
    """Write a results file of each study on each data set, each under a name of its own, and keep the runs."""
    names = unique_names([on_data.data for on_data in found])
    written = []
    runs: dict[str, FinishedRun] = {}
    for on_data in found:
        for matrix, findings in on_data.findings:
            if findings.is_begun:
                runs |= {run.run.name: run for of_row in findings.rows.values() for run in of_row}
                name = f'{findings.study.name}_{names[on_data.data.sha256]}_{_slug(matrix.scale)}.json'
                written.append(results / name)
                write_results(written[-1], summarize(findings, matrix.scale))
    if runs:
        entries = [(entry, on_data.data) for on_data in found for entry in on_data.entries]
        keep_evidence(list(runs.values()), entries, matrices, results)
    return written


def _sections(on_data: DataFindings) -> list[Section]:
    """Make the sections of a data set; those of a study carry its scale, since several may have made the same one."""
    sections = list(data_sections(on_data.data))
    several = len({matrix.scale for matrix, _ in on_data.findings}) > 1
    for matrix, findings in on_data.findings:
        for section in study_sections(findings, matrix.scale):
            title = f'{section.title}, scale {matrix.scale}' if several else section.title
            sections.append(replace(section, title=title))
    if on_data.gone:
        sections.append(Section('Studies that are not shown', statements=list(on_data.gone)))
    return sections


def _slug(text: str) -> str:
    return re.sub(r'\W+', '_', text)


def _environment(all_of: Sequence[Findings]) -> dict[str, str]:
    """Describe in a line each with what the runs were made."""
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
