"""Results files: what a run, a study, a benchmark and a count of costs measured, as dataclasses stored as JSON."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from timm_convattn.environment import Environment, Hardware
from timm_convattn.errors import InputError
from timm_convattn.files import write_text

Score = Literal['accuracy', 'macro_f1']
T = TypeVar('T')


# --- runs


@dataclass(frozen=True)
class RunModel:
    """Model of a run."""

    architecture: str
    parameters: int
    input: Mapping[str, Any]
    """Data configuration, as timm resolves it."""


@dataclass(frozen=True, kw_only=True)
class RunData:
    """Crops that a model was evaluated on."""

    source: str
    """Folder or repository; a sentence for the embedded scenes."""
    origin: str = ''
    """Where the frames are from. Files without it have the source here."""
    repo_id: str | None = None
    """Repository on the Hub, if they were loaded from there."""
    split: str
    sha256: str
    class_names: list[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, 'origin', self.origin or self.source)


@dataclass(frozen=True)
class ClassScores:
    """Scores of a class; None without samples."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class SizeGroup:
    """Accuracy on crops of similar size."""

    from_side: int
    """Side of a crop in its frame, in pixels."""
    to_side: int | None
    num_samples: int
    accuracy: float | None


class Metrics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Metrics of a split."""

    loss: float
    """Mean cross entropy."""
    num_samples: int
    accuracy: float
    macro_f1: float
    weighted_f1: float
    absent_classes: list[str]
    per_class: dict[str, ClassScores]
    confusion_matrix: list[list[int]]
    """Rows are true classes, columns predicted ones."""
    by_size: list[SizeGroup] | None = None
    """None if the boxes of the crops are not known."""


@dataclass(frozen=True)
class TrainingSummary:
    """How a model was trained."""

    config: Mapping[str, Any]
    """Options of finetune.py by name."""
    crops: dict[str, int]
    """Class -> training crops."""
    epochs: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class Answers:
    """Effect of a confidence threshold on a set of samples."""

    threshold: float
    coverage: float
    num_answered: int
    accuracy: float | None
    """None if no sample is answered."""
    error_rate: float | None


@dataclass(frozen=True, kw_only=True)
class RejectionResults(Answers):
    """Effect of the confidence threshold that was chosen for a target error rate."""

    target_error_rate: float
    temperature: float


class RunResults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Results of a run, or of an evaluation of its model."""

    model: RunModel
    data: RunData
    metrics: Metrics
    environment: Environment
    training: TrainingSummary | None = None
    """None if the model was only evaluated."""
    rejection: RejectionResults | None = None


# --- studies


@dataclass(frozen=True)
class Difference:
    """Difference of a score between two arms of a study; optional fields are None with one seed."""

    seeds: int
    """Number of seeds that both arms have."""
    mean: float
    """Mean over the seeds."""
    low: float
    """95% confidence interval of the bootstrap over seeds and frames."""
    high: float
    seed_low: float | None = None
    """95% confidence interval over seeds (paired t), on the same crops."""
    seed_high: float | None = None
    deviation: float | None = None
    """Standard deviation over the seeds."""
    p_value: float | None = None
    """Paired t test over seeds."""
    adjusted_p_value: float | None = None
    """The same, adjusted for the number of comparisons made together (Holm)."""
    minimum_detectable: float | None = None
    """Minimum detectable difference with as many seeds and comparisons, at a power of 80%."""
    significant_unadjusted: bool = False
    """Whether neither interval contains zero."""
    significant: bool = False
    """Whether that is so and the adjusted p value is below 5%."""


@dataclass(frozen=True)
class Target:
    """Target error rate, and the threshold that was chosen for it on held-out crops."""

    error_rate: float
    refused: str | None = None
    """Why no threshold reaches the target."""
    held_out: Answers | None = None
    validation: Answers | None = None


@dataclass(frozen=True)
class SelectiveResults:
    """Selective classification by a run with held-out frames."""

    held_out: int
    """Number of held-out crops."""
    held_out_accuracy: float
    temperature: float
    area: float
    """Area under the risk-coverage curve on the validation split."""
    minimum_area: float
    """Area of a confidence that ranks all errors last."""
    calibration_error: float
    calibration_error_without_temperature: float
    targets: list[Target]


@dataclass(frozen=True)
class ArmRun:
    """One run of an arm."""

    run: str
    seed: int
    accuracy: float
    macro_f1: float
    weighted_f1: float
    loss: float
    confusion_matrix: list[list[int]]
    seconds: float
    epochs: int
    date: str
    commit: str | None
    selection: SelectiveResults | None = None


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation over seeds."""

    mean: float
    deviation: float | None
    """None with one seed."""


@dataclass(frozen=True)
class PaperResult:
    """Accuracy that the paper reports for a network, on its own data."""

    name: str
    mean: float
    deviation: float


@dataclass(frozen=True)
class Arm:
    """A network of a study and how it was trained."""

    name: str
    model: str
    options: dict[str, object]
    """Options of finetune.py."""
    parameters: int
    accuracy: Summary
    macro_f1: Summary
    per_class_f1: dict[str, float | None]
    runs: list[ArmRun]
    paper: PaperResult | None = None
    against: str | None = None
    """The arm that this one is compared with."""
    start: str | None = None
    """The arm whose weights this one starts from."""
    difference: Difference | None = None

    def score(self, score: Score) -> Summary:
        """Return one of the scores."""
        return self.accuracy if score == 'accuracy' else self.macro_f1

    @property
    def selections(self) -> list[SelectiveResults]:
        """Selective classification of each run with held-out frames."""
        return [run.selection for run in self.runs if run.selection]


@dataclass(frozen=True)
class StudyDataset:
    """Crops that a study was run on."""

    name: str
    """Short name for files: the folder or repository, and the classes unless there are four."""
    origin: str
    """Where the frames are from."""
    classes: str
    """four_class or two_class."""
    class_names: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    """Split -> class -> crops."""
    sha256: str
    """Hash of all crops and labels of both splits."""
    validation_sha256: str
    """Hash of those of the validation split, as in the results of runs."""


@dataclass(frozen=True)
class StudyEnvironment:
    """Environments of all runs of a study, each distinct value once."""

    first_date: str
    last_date: str
    commits: list[str]
    hardware: list[Hardware]
    versions: list[dict[str, str]]


@dataclass(frozen=True)
class StudyResults:
    """Results of a study on one data set."""

    study: str
    title: str
    scale: str
    """Name of the matrix."""
    score: Score
    """The score that arms are compared by."""
    data: StudyDataset
    arms: list[Arm]
    environment: StudyEnvironment
    missing_arms: list[str] = field(default_factory=list)
    """Arms without a finished run."""
    unfinished: int = 0
    """Number of unfinished runs."""
    problems: list[str] = field(default_factory=list)
    """Runs that could not be used, and why."""


# --- benchmarks and costs


@dataclass(frozen=True)
class Comparison:
    """Two things measured alternately in one process."""

    case: str
    peer: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    """ours / theirs, of the medians."""
    spread: float = 0.0
    """Half the interquartile range of the ratios of neighbouring measurements."""


@dataclass(frozen=True)
class Growth:
    """Power law between a size and a measurement."""

    case: str
    of: str
    """What the sizes count."""
    sizes: list[float]
    values: list[float]
    unit: str
    exponent: float


@dataclass(frozen=True)
class BenchmarkResults:
    """Results of a benchmark."""

    what: str
    comparisons: list[Comparison]
    growth: list[Growth]
    environment: Environment


@dataclass(frozen=True)
class Complexity:
    """Cost of one image of one size."""

    macs: int
    """Multiply-accumulates of convolutions and matrix products, relative positions included."""
    attention_maps: list[tuple[int, int]]
    """Height and width of the map that each attention reads, in positions."""


@dataclass(frozen=True)
class ModelCost:
    """Parameters of a model, and its cost by image size in pixels."""

    parameters: int
    sizes: dict[str, Complexity]


@dataclass(frozen=True)
class ModelCosts:
    """Costs of models with their default arguments."""

    num_classes: int
    versions: dict[str, str]
    models: dict[str, ModelCost]


# Keys of files written before 0.2.0: path of the old key ('*' is every item of a list) -> the key's name now.
OLD_KEYS: dict[type, dict[str, str]] = {
    RunResults: {'rejection.wanted_error_rate': 'target_error_rate'},
    StudyResults: {
        'rows': 'arms',
        'rows_without_runs': 'missing_arms',
        'arms.*.row': 'name',
        'arms.*.paper.row': 'name',
        'arms.*.difference.least_visible': 'minimum_detectable',
        'arms.*.difference.is_clear_alone': 'significant_unadjusted',
        'arms.*.difference.is_clear': 'significant',
        'arms.*.runs.*.selection.least_area': 'minimum_area',
        'arms.*.runs.*.selection.wanted': 'targets',
    },
    BenchmarkResults: {'rows': 'comparisons'},
}


def read_results(path: Path, kind: type[T]) -> T:
    """Read a results file.

    Raises:
        InputError: If it cannot be read, or holds something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f'{path} cannot be read as {kind.__name__} ({error}).') from error
    return parse_results(content, kind, path)


def parse_results(content: bytes | msgspec.Raw, kind: type[T], path: Path) -> T:
    """Convert the JSON of results.

    Args:
        content: The JSON.
        kind: One of the classes above.
        path: File that the error names.

    Raises:
        InputError: If it is something else.
    """
    try:
        return msgspec.convert(_rename(msgspec.json.decode(content), OLD_KEYS.get(kind, {})), kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError(f'{path} cannot be read as {kind.__name__} ({error}).') from error


def write_results(path: Path, value: object) -> None:
    """Write a results file, complete or not at all."""
    write_text(path, msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + '\n')


def _rename(content: Any, old_keys: dict[str, str]) -> Any:
    for path, new in old_keys.items():
        *parents, old = path.split('.')
        for owner in _items(content, parents):
            if isinstance(owner, dict) and old in owner:
                owner[new] = owner.pop(old)
    return content


def _items(content: Any, path: list[str]) -> Iterator[Any]:
    """Yield what is found at a path of keys."""
    if not path:
        yield content
    elif path[0] == '*' and isinstance(content, list):
        for item in content:
            yield from _items(item, path[1:])
    elif isinstance(content, dict) and path[0] in content:
        yield from _items(content[path[0]], path[1:])
