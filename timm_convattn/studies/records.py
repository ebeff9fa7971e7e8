"""Findings as a results file: plain numbers, from which the tables of README and report are rendered."""

from dataclasses import asdict
from typing import Any

import numpy as np

from timm_convattn.paper import TABLE_2
from timm_convattn.redact import strip_local_paths
from timm_convattn.studies.gathering import Findings, FinishedRun
from timm_convattn.studies.selection import selection_record
from timm_convattn.studies.statistics import Difference

__all__ = ['study_record']


def study_record(findings: Findings, scale: str) -> dict[str, Any]:
    """Put the findings of a study on one data set into a results file.

    Args:
        findings: The finished runs.
        scale: Name of the matrix.
    """
    study, data, differences = findings.study, findings.data, findings.differences()
    return {
        'study': study.name,
        'title': study.title,
        'scale': scale,
        'score': study.score,
        'data': {
            'name': data.name,
            'origin': strip_local_paths(data.origin),
            'classes': data.classes,
            'class_names': list(data.class_names),
            'counts': data.counts,
            'sha256': data.sha256,
            'validation_sha256': data.validation_sha256,
        },
        'rows': [_row_record(findings, row, differences.get(row)) for row, runs in findings.rows.items() if runs],
        'rows_without_runs': [row for row, runs in findings.rows.items() if not runs],
        'unfinished': findings.unfinished,
        'problems': [problem.replace(f'{findings.folder}/', '') for problem in findings.problems],
        'environment': _environments([run for runs in findings.rows.values() for run in runs]),
    }


def _row_record(findings: Findings, name: str, difference: Difference | None) -> dict[str, Any]:
    row, runs = findings.study.rows[name], findings.rows[name]
    scores = {score: findings.scores(name, score) for score in ('accuracy', 'macro_f1')}
    published = TABLE_2.get(findings.data.classes, {}).get(row.paper or '')
    return {
        'row': name,
        'model': row.options['model'],
        'options': runs[0].run.options,
        'parameters': runs[0].record['model']['parameters'],
        'paper': None if published is None else {'row': row.paper, 'mean': published[0], 'deviation': published[1]},
        **{score: _summary(values) for score, values in scores.items()},
        'against': row.against,
        'start': row.start,
        'difference': None if difference is None else _difference_record(difference),
        'per_class_f1': _per_class_f1(runs),
        'runs': [_run_record(run) for run in runs],
    }


def _difference_record(difference: Difference) -> dict[str, Any]:
    return {**asdict(difference), 'is_clear_alone': difference.is_clear_alone, 'is_clear': difference.is_clear}


def _summary(values: list[float]) -> dict[str, float | None]:
    return {'mean': float(np.mean(values)), 'deviation': float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _per_class_f1(runs: list[FinishedRun]) -> dict[str, float | None]:
    per_class = [run.record['metrics']['per_class'] for run in runs]
    return {
        name: None if scores['f1'] is None else float(np.mean([of_run[name]['f1'] for of_run in per_class]))
        for name, scores in per_class[0].items()
    }


def _run_record(run: FinishedRun) -> dict[str, Any]:
    record = run.record
    kept = ('accuracy', 'macro_f1', 'weighted_f1', 'loss', 'confusion_matrix')
    return {
        'run': run.run.name,
        'seed': run.run.seed,
        **{key: record['metrics'][key] for key in kept},
        'seconds': record['training']['seconds'],
        'epochs': record['training']['epochs'],
        'date': record['environment']['date'],
        'commit': record['environment']['commit'],
        'selection': selection_record(run),
    }


def _environments(runs: list[FinishedRun]) -> dict[str, Any]:
    """Say with what the runs were made: each kind of hardware and each set of versions once."""
    environments = [run.record['environment'] for run in runs]

    def distinct(key: str) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []
        for environment in environments:
            seen += [] if environment[key] in seen else [environment[key]]
        return seen

    dates = sorted(environment['date'] for environment in environments)
    return {
        'first_date': dates[0],
        'last_date': dates[-1],
        'commits': sorted({str(environment['commit']) for environment in environments}),
        'hardware': distinct('hardware'),
        'versions': distinct('versions'),
    }
