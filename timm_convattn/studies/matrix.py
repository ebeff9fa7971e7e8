"""Matrix of runs: a YAML file with the options that each arm of each study is fine-tuned with.

    about: ResNet50 and VGG16 from ImageNet weights, on one GPU
    seeds: [0, 1, 2]
    options: {img_size: 60, crops_seen: 50_000}     # of all runs
    studies:
      table2:
        seeds: [0, 1, 2, 3, 4]                      # instead of those above
        classes: [two_class, four_class]
        title: Image classification performance
        score: accuracy                             # or macro_f1
        rows:
          ResNet50: {model: resnet50}               # options of an arm override those above
          AResNet50: {model: aresnet50_relmha, against: ResNet50, paper: AResNet50}
      fig10:
        grid: {of: {model: aresnet50_relmha}, num_heads: [1, 8], qk_ratio: [0.125, 1]}   # an arm per combination

`against` names the arm to compare with, `paper` the row of the paper's table whose accuracy is shown next to it,
`start` the arm whose finished run of the same seed provides the initial weights.
Options are those of `train_scripts/finetune.py`, with its defaults, and `crops_seen`: the number of epochs is chosen to
train on as many crops, so that runs on data sets of different sizes get the same budget.
"""

import hashlib
import itertools
import json
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from timm_convattn.config import TrainConfig, Trait, build_config, options_as_args, options_with
from timm_convattn.data.crops import CLASSES, Classes
from timm_convattn.errors import InputError
from timm_convattn.files import read_yaml
from timm_convattn.results import Score
from timm_convattn.studies.data import StudyData
from timm_convattn.studies.statistics import SCORES

__all__ = ['PARTS', 'Arm', 'Matrix', 'Run', 'Study', 'read_matrix']

VERSION = 1  # increase it if the same options lead to other results than before: all runs are repeated then

Options = Mapping[str, Any]
T = TypeVar('T')


@dataclass(frozen=True)
class Arm:
    """A network and how it is trained."""

    options: Options
    """Options of finetune.py, those of all runs included."""
    against: str | None = None
    """The arm that it is compared with."""
    paper: str | None = None
    """Row of the paper's table that it corresponds to."""
    start: str | None = None
    """The arm whose weights it starts from, seed by seed."""


@dataclass(frozen=True)
class Study:
    """The arms of a table or figure."""

    name: str
    seeds: tuple[int, ...]
    classes: tuple[Classes, ...]
    """Sets of classes that it is run on."""
    arms: Mapping[str, Arm]
    title: str
    score: Score
    """The score that arms are compared by."""


# Tables and figures that are computed from the runs of another study, or from the crops alone: name -> that study, the
# set of classes, and the rows of the paper's table whose arms are needed (None: all).
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
    options: Options
    """Options of finetune.py without data, seed, folder and initial weights."""
    start: 'Run | None' = None
    """The run whose weights it starts from."""

    @property
    def name(self) -> str:
        """Model, seed, and a hash of everything that the result depends on."""
        identity = {'version': VERSION, 'data': self.data.sha256, 'seed': self.seed, 'options': dict(self.options)}
        identity |= {} if self.start is None else {'start': self.start.name}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return f'{self.options["model"]}-s{self.seed}-{digest[:12]}'

    def args(self, processes: int = 1) -> list[str]:
        """Return the arguments of finetune.py for this run, without its folder and initial weights.

        Args:
            processes: Number of processes, which share each batch.

        Raises:
            InputError: If they cannot share it equally.
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
    """What the scale means, for readers of the results."""
    studies: Mapping[str, Study]

    def study(self, name: str) -> Study:
        """Return a study.

        Raises:
            InputError: If there is none of this name.
        """
        if name not in self.studies:
            known = ', '.join([*self.studies, *PARTS])
            raise InputError(f'The matrix {self.scale} has no study {name!r}, but {known}.')
        return self.studies[name]

    def classes(self, name: str) -> tuple[Classes, ...]:
        """Return the sets of classes that a study, or a part of one, is run on."""
        return (PARTS[name][1],) if name in PARTS else self.study(name).classes

    def runs(self, study: str, arm: str, data: StudyData) -> list[Run]:
        """Return the runs of an arm, one per seed, each with the run that it starts from."""
        seeds, chosen = self.study(study).seeds, self.study(study).arms[arm]
        options = dict(chosen.options)
        crops_seen = options.pop('crops_seen', None)
        if crops_seen is not None:
            options['epochs'] = max(1, round(crops_seen / data.num_train))
        starts = [None] * len(seeds) if chosen.start is None else self.runs(study, chosen.start, data)
        return [Run(data, seed, options, start) for seed, start in zip(seeds, starts, strict=True)]

    def all_runs(self, name: str, data: StudyData) -> Iterator[Run]:
        """Yield the runs of a study, or of a part of one: all arms of a seed before the next seed.

        A run comes after the one that it starts from, even if the latter's arm is not part of it.
        """
        study, _, papers = PARTS.get(name, (name, None, None))
        if study is None:
            return
        arms = [arm for arm, each in self.study(study).arms.items() if papers is None or each.paper in papers]
        for of_one_seed in zip(*(self.runs(study, arm, data) for arm in arms), strict=True):
            for run in of_one_seed:
                yield from _with_starts(run)


def _with_starts(run: Run) -> Iterator[Run]:
    if run.start is not None:
        yield from _with_starts(run.start)
    yield run


class _StudyEntry(msgspec.Struct):
    """Study in the file."""

    rows: dict[str, Options] = {}
    grid: Any = None
    seeds: Any = None
    classes: Any = msgspec.field(default_factory=lambda: ['four_class'])
    title: str = ''
    score: Any = 'accuracy'


class _MatrixFile(msgspec.Struct):
    studies: dict[str, object]
    options: Options | None = None
    seeds: Any = None
    about: str = ''


def read_matrix(path: Path) -> Matrix:
    """Read a matrix of runs.

    Raises:
        InputError: If it is not valid: no YAML, a study without rows, an unknown option of finetune.py.
    """
    content = read_yaml(path, 'a matrix of runs', 'Those of the paper are in train_scripts/studies.')
    if not content.get('studies'):
        raise InputError(f'{path} is no matrix of runs: it needs "studies", a mapping of names to rows.')
    file = _convert(content, _MatrixFile, str(path))
    studies = {}
    for name, entry in file.studies.items():
        if not re.fullmatch(r'[\w.-]+', name) or name in (*PARTS, 'report'):
            raise InputError(
                f'{path}: a study cannot be named {name!r}. A name consists of letters, digits, _, . and -; '
                f'{", ".join([*PARTS, "report"])} are reserved.'
            )
        where = f'{path}: study {name}'
        study = _convert(entry, _StudyEntry, where)
        rows = study.rows | _expand(study.grid, where)
        if not rows:
            raise InputError(f'{where} has no rows, wanted rows: {{NAME: {{model: ...}}}}.')
        arms = {row: _arm({**(file.options or {}), **entry}, f'{where}, row {row}') for row, entry in rows.items()}
        _check_names(arms, where)
        seeds = _seeds(file.seeds if study.seeds is None else study.seeds, where)
        if study.score not in list(SCORES):
            raise InputError(f'{where} has score {reprlib.repr(study.score)}, wanted one of {", ".join(SCORES)}.')
        classes = study.classes
        if not isinstance(classes, list) or not classes or not all(each in list(CLASSES) for each in classes):
            raise InputError(f'{where} has classes {reprlib.repr(classes)}, wanted some of {", ".join(CLASSES)}.')
        studies[name] = Study(name, seeds, tuple(classes), arms, study.title or name, study.score)
    return Matrix(path.stem, file.about, studies)


def _convert(content: object, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise InputError(f'{where}: {error}.') from error


def _expand(grid: Any, where: str) -> dict[str, Options]:
    """Return a row for each combination of a grid: {of: {model: ...}, num_heads: [1, 8], qk_ratio: [0.125, 1]}."""
    if grid is None:
        return {}
    common, axes = (grid.get('of'), dict(grid)) if isinstance(grid, dict) else (None, {})
    axes.pop('of', None)
    if not isinstance(common, dict) or not all(isinstance(values, list) for values in axes.values()):
        raise InputError(f'{where}: grid is {reprlib.repr(grid)}, wanted {{of: OPTIONS, NAME: [VALUES]}}.')
    rows: dict[str, Options] = {}
    for values in itertools.product(*axes.values()):
        args = [f'{name}={value}' for name, value in zip(axes, values, strict=True)]
        rows[' '.join(args)] = {**common, 'model_args': [*common.get('model_args', []), *args]}
    return rows


def _seeds(seeds: Any, where: str) -> tuple[int, ...]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise InputError(
            f'{where}: seeds are {reprlib.repr(seeds)}, wanted a list of whole numbers, such as [0, 1, 2].'
        )
    if len(set(seeds)) < len(seeds):
        raise InputError(f'{where}: seeds {seeds} contain one twice.')
    return tuple(seeds)


def _arm(entry: Options, where: str) -> Arm:
    names = {key: entry.get(key) for key in ('against', 'paper', 'start')}
    options = {key: value for key, value in entry.items() if key not in names}
    _check_options(options, where)
    for key, name in names.items():
        if not (name is None or isinstance(name, str)):
            raise InputError(f'{where}: {key} is {reprlib.repr(name)}, wanted the name of a row.')
    return Arm(options, **names)


def _check_names(arms: Mapping[str, Arm], where: str) -> None:
    """Refuse arms that name others which do not exist, or start from themselves, directly or through others."""
    unknown = {name for arm in arms.values() for name in (arm.against, arm.start)} - arms.keys() - {None}
    if unknown:
        raise InputError(f'{where} names {", ".join(map(str, unknown))}, but has the rows {", ".join(arms)}.')
    for name in arms:
        passed = [name]
        while (start := arms[passed[-1]].start) is not None:
            if start in passed:
                raise InputError(f'{where}: row {name} starts from itself ({" from ".join([*passed, start])}).')
            passed.append(start)


def _check_options(options: Options, where: str) -> None:
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
        raise InputError(f'{where} has both epochs and crops_seen: leave one of them out.')
    if not re.fullmatch(r'[\w.]+', str(options['model'])):
        raise InputError(f'{where}: model is {options["model"]!r}, wanted the name of a timm model.')
