"""The matrix of runs: plain data (YAML) that says which options each row of each study is fine-tuned with.

    about: ResNet50 and VGG16 from ImageNet weights, on one GPU
    seeds: [0, 1, 2]
    options: {img_size: 60, crops_seen: 50_000}     # of every run
    studies:
      table2:
        seeds: [0, 1, 2, 3, 4]                      # where they are other ones
        classes: [two_class, four_class]
        title: Image classification performance
        score: accuracy                             # or macro_f1
        rows:
          ResNet50: {model: resnet50}               # a row's options win over those above
          AResNet50: {model: aresnet50_relmha, against: ResNet50, paper: AResNet50}
      fig10:
        grid: {of: {model: aresnet50_relmha}, num_heads: [1, 8], qk_ratio: [0.125, 1]}   # a row each

`against` names the row that one is compared with, `paper` the row of the paper's table whose figure is shown beside it,
`start` the row whose finished run of the same seed gives the weights that one starts from.
Options are those of `train_scripts/finetune.py`, whose defaults hold for what is not given, and `crops_seen`: as many
epochs as it takes to see so many crops, so that runs on data sets of different sizes get the same budget.
"""

import hashlib
import itertools
import json
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm_convattn.config import TrainConfig, Trait, build_config, options_as_args, options_with
from timm_convattn.data.crops import CLASSES, Classes
from timm_convattn.errors import InputError
from timm_convattn.files import read_yaml
from timm_convattn.results import Score
from timm_convattn.studies.data import StudyData
from timm_convattn.studies.statistics import SCORES

__all__ = ['PARTS', 'Matrix', 'Row', 'Run', 'Study', 'read_matrix']

VERSION = 1  # counts up with every change of what the same options lead to, in code or quickstart: all is made anew


@dataclass(frozen=True)
class Study:
    """The rows of a table or figure."""

    name: str
    seeds: tuple[int, ...]
    classes: tuple[Classes, ...]
    """Sets of classes that it is made on: four_class, two_class."""
    rows: dict[str, 'Row']
    title: str = ''
    score: Score = 'accuracy'
    """What the rows are compared by."""


@dataclass(frozen=True)
class Row:
    """A network and how it is trained."""

    options: dict[str, Any]
    """Options of finetune.py, those of all runs included."""
    against: str | None = None
    """The row that it is compared with."""
    paper: str | None = None
    """The row of the paper's table that it stands for."""
    start: str | None = None
    """The row whose weights it starts from, seed by seed."""


# Tables and figures that are read off the runs of another study, or off the crops alone: of which study, on which
# classes, and which of its rows, by what they stand for in the paper (all of them if None).
PARTS: dict[str, tuple[str | None, Classes, tuple[str, ...] | None]] = {
    'table1': (None, 'four_class', ()),
    'fig5': (None, 'four_class', ()),
    'table4': ('table2', 'two_class', ('AResNet50', 'AVGG16')),
    'fig7': ('table2', 'four_class', ('AResNet50',)),
    'fig8': ('table2', 'four_class', ('AResNet50',)),
    'fig9': ('table2', 'four_class', ('AResNet50',)),
}


@dataclass(frozen=True)
class Run:
    """One fine-tuning run. Equal runs of different studies are the same run."""

    data: StudyData
    seed: int
    options: Mapping[str, Any]
    """Options of finetune.py that are given, but for data, seed, folder and start."""
    start: 'Run | None' = None
    """The run whose weights it starts from."""

    @property
    def name(self) -> str:
        """Name the run by its model, its seed, and a hash of everything that its result depends on."""
        identity = {'version': VERSION, 'data': self.data.sha256, 'seed': self.seed, 'options': dict(self.options)}
        identity |= {} if self.start is None else {'start': self.start.name}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return f'{self.options["model"]}-s{self.seed}-{digest[:12]}'

    def args(self, processes: int = 1) -> list[str]:
        """Give the command line of finetune.py that makes the run, but for its folder and where its weights start.

        Args:
            processes: That share its batches, which stay as large as they are with one.

        Raises:
            InputError: If they cannot share them equally.
        """
        batch_size = self.options.get('batch_size', TrainConfig.batch_size)
        if batch_size % processes:
            raise InputError(f'{processes} processes cannot share batches of {batch_size} crops equally.')
        where = {'data': self.data.source, 'data_config': self.data.configuration, 'seed': self.seed}
        where |= {'batch_size': batch_size // processes} if processes > 1 else {}
        return options_as_args({**self.options, **{key: value for key, value in where.items() if value is not None}})


@dataclass(frozen=True)
class Matrix:
    """All studies of a scale."""

    scale: str
    about: str
    """What the scale means, for everyone who reads its results."""
    studies: dict[str, Study]

    def study(self, name: str) -> Study:
        """Look a study up.

        Raises:
            InputError: If there is none of this name.
        """
        if name not in self.studies:
            known = ', '.join([*self.studies, *PARTS])
            raise InputError(f'The matrix {self.scale} has no study {name!r}, but {known}.')
        return self.studies[name]

    def classes(self, name: str) -> tuple[Classes, ...]:
        """Give the sets of classes that a study, or a part of one, is made on."""
        return (PARTS[name][1],) if name in PARTS else self.study(name).classes

    def runs(self, study: str, row: str, data: StudyData) -> list[Run]:
        """Give the runs of a row, one a seed, each with the one that it starts from."""
        chosen = self.study(study)
        options = dict(chosen.rows[row].options)
        crops_seen = options.pop('crops_seen', None)
        if crops_seen is not None:
            options['epochs'] = max(1, round(crops_seen / data.num_train))
        start = chosen.rows[row].start
        starts = [None] * len(chosen.seeds) if start is None else self.runs(study, start, data)
        return [Run(data, seed, options, start) for seed, start in zip(chosen.seeds, starts, strict=True)]

    def all_runs(self, name: str, data: StudyData) -> Iterator[Run]:
        """Give the runs of a study, or of a part of one, a whole seed of all rows before the next seed.

        What a run starts from comes before it, whether or not its row is asked for.
        """
        study, _, papers = PARTS.get(name, (name, None, None))
        if study is None:
            return
        chosen = self.study(study).rows
        rows = [self.runs(study, row, data) for row, told in chosen.items() if papers is None or told.paper in papers]
        for of_one_seed in zip(*rows, strict=True):
            for run in of_one_seed:
                yield from _with_starts(run)


def _with_starts(run: Run) -> Iterator[Run]:
    if run.start is not None:
        yield from _with_starts(run.start)
    yield run


def read_matrix(path: Path) -> Matrix:
    """Read a matrix of runs.

    Raises:
        InputError: If it is none: no YAML, a study without rows, an option that finetune.py does not have.
    """
    content = read_yaml(path, 'a matrix of runs', 'Those of the paper are in train_scripts/studies.')
    if not isinstance(content.get('studies'), dict) or not content['studies']:
        raise InputError(f'{path} is no matrix of runs: it needs "studies", a mapping of names to rows.')
    common = _mapping(content.get('options'), f'{path}: options')
    studies = {}
    for name, entry in content['studies'].items():
        if not re.fullmatch(r'[\w.-]+', str(name)) or name in (*PARTS, 'report'):
            raise InputError(
                f'{path}: no study can be named {name!r}. A name is of letters, digits, _, . and -, and none of '
                f'{", ".join([*PARTS, "report"])}, which have a meaning of their own.'
            )
        if not isinstance(entry, dict) or not (entry.get('rows') or entry.get('grid')):
            raise InputError(f'{path}: study {name} has no rows, wanted rows: {{NAME: {{model: ...}}}}.')
        where = f'{path}: study {name}'
        given_rows = {**_mapping(entry.get('rows'), f'{where}: rows'), **_expand(entry.get('grid'), where)}
        rows = {
            str(row): _row({**common, **_mapping(given, f'{where}, row {row}')}, f'{where}, row {row}')
            for row, given in given_rows.items()
        }
        unknown = {name for row in rows.values() for name in (row.against, row.start)} - rows.keys() - {None}
        if unknown:
            raise InputError(f'{where} names {", ".join(map(str, unknown))}, but has the rows {", ".join(rows)}.')
        for row in rows:
            _check_start(row, rows, where)
        seeds = _seeds(entry.get('seeds', content.get('seeds')), where)
        classes, score = entry.get('classes', ['four_class']), entry.get('score', 'accuracy')
        if score not in list(SCORES):
            raise InputError(f'{where} has score {reprlib.repr(score)}, wanted one of {", ".join(SCORES)}.')
        if not isinstance(classes, list) or not classes or not all(entry in list(CLASSES) for entry in classes):
            raise InputError(f'{where} has classes {reprlib.repr(classes)}, wanted some of {", ".join(CLASSES)}.')
        studies[str(name)] = Study(str(name), seeds, tuple(classes), rows, str(entry.get('title', name)), score)
    return Matrix(path.stem, str(content.get('about', '')), studies)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is not None and not (isinstance(value, dict) and all(isinstance(key, str) for key in value)):
        raise InputError(f'{where} is {reprlib.repr(value)}, wanted a mapping of names.')
    return value or {}


def _expand(grid: Any, where: str) -> dict[str, dict[str, Any]]:
    """Make a row of each combination of a grid: {of: {model: ...}, num_heads: [1, 8], qk_ratio: [0.125, 1]}."""
    if grid is None:
        return {}
    if not isinstance(grid, dict) or not isinstance(grid.get('of'), dict):
        raise InputError(f'{where}: grid is {reprlib.repr(grid)}, wanted {{of: OPTIONS, NAME: [VALUES]}}.')
    axes = {name: values for name, values in grid.items() if name != 'of'}
    if not all(isinstance(values, list) for values in axes.values()):
        raise InputError(f'{where}: grid is {reprlib.repr(grid)}, wanted a list of values for each name.')
    rows = {}
    for values in itertools.product(*axes.values()):
        args = [f'{name}={value}' for name, value in zip(axes, values, strict=True)]
        rows[' '.join(args)] = {**grid['of'], 'model_args': [*grid['of'].get('model_args', []), *args]}
    return rows


def _seeds(seeds: Any, where: str) -> tuple[int, ...]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise InputError(
            f'{where}: seeds are {reprlib.repr(seeds)}, wanted a list of whole numbers, such as [0, 1, 2].'
        )
    if len(set(seeds)) < len(seeds):
        raise InputError(f'{where}: seeds {seeds} name one twice.')
    return tuple(seeds)


def _row(given: dict[str, Any], where: str) -> Row:
    names = {key: given.get(key) for key in ('against', 'paper', 'start')}
    options = {key: value for key, value in given.items() if key not in names}
    _check_options(options, where)
    for key, name in names.items():
        if not (name is None or isinstance(name, str)):
            raise InputError(f'{where}: {key} is {reprlib.repr(name)}, wanted the name of a row.')
    return Row(options, **names)


def _check_start(row: str, rows: Mapping[str, Row], where: str) -> None:
    """Refuse a row that starts from itself, over whatever other rows."""
    passed = [row]
    while (start := rows[passed[-1]].start) is not None:
        if start in passed:
            raise InputError(f'{where}: row {row} starts from itself ({" from ".join([*passed, start])}).')
        passed.append(start)


def _check_options(options: dict[str, Any], where: str) -> None:
    wrong = sorted(options.keys() & options_with(Trait.SET_BY_STUDY))
    if wrong:
        raise InputError(f'{where}: {", ".join(wrong)} cannot be given here, a study chooses it.')
    crops_seen = options.get('crops_seen', 1)
    if type(crops_seen) is not int or crops_seen < 1:
        raise InputError(f'{where}: crops_seen is {reprlib.repr(crops_seen)}, wanted a number of crops.')
    build_config({key: value for key, value in options.items() if key != 'crops_seen'}, where)
    if 'model' not in options:
        raise InputError(f'{where} names no model.')
    if 'crops_seen' in options and 'epochs' in options:
        raise InputError(f'{where} gives both epochs and crops_seen: give one of them.')
    if not re.fullmatch(r'[\w.]+', str(options['model'])):
        raise InputError(f'{where}: model is {options["model"]!r}, wanted the name of a timm model.')
