"""The options of a fine-tuning run: one dataclass, filled from recipes (YAML) and the command line.

The defaults are the base: the run of `finetune.py` without options. A recipe changes the options it names and nothing
else, and the command line overrides both. Keys of a recipe are names of options, without groups.
"""

import argparse
import difflib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import tyro
from msgspec import Meta

from timm_convattn.data.augment import AugmentAmounts
from timm_convattn.errors import InputError
from timm_convattn.files import read_yaml

__all__ = [
    'Config',
    'DataConfig',
    'ModelConfig',
    'OptionValue',
    'RunConfig',
    'TrainConfig',
    'Trait',
    'build_config',
    'flat',
    'named_paths',
    'options_as_args',
    'options_with',
    'parse_config',
    'read_recipe',
]

Plain = bool | int | float | str | None
OptionValue = Plain | list[Plain]

Count = Annotated[int, Meta(ge=1)]
CountOrZero = Annotated[int, Meta(ge=0)]
NonNegative = Annotated[float, Meta(ge=0)]

NEEDS_LABELS = 'needs all labels before training, which a stream does not have'


class Trait(Enum):
    """Fact about an option beyond its type and bounds, stated once in its annotation."""

    NEUTRAL = auto()
    """The weights do not depend on it, so it can change when a run is resumed."""
    EXTENDABLE = auto()
    """The weights depend on it, but it can change when a run is resumed."""
    SET_BY_STUDY = auto()
    """A study sets it for its runs; a matrix of runs cannot."""
    PER_CALL = auto()
    """It describes this call, not the run: it is not recorded in the run folder."""
    UNPUBLISHED = auto()
    """It is left out of the recipe on a model card."""


@dataclass(frozen=True)
class DataConfig:
    """Crops and how they are loaded."""

    data: Annotated[str | None, Trait.SET_BY_STUDY] = None
    """Folder of crops (from build_dataset.py) or id of a data set on the Hub. None: the embedded thermal scenes."""
    data_config: Annotated[str | None, Trait.SET_BY_STUDY] = None
    """Configuration of the data set on the Hub, such as two_class. None: its default configuration."""
    img_size: int | tuple[int, int] = 60
    """Size that crops are resized to, in pixels: the side of a square, or height and width."""
    hold_out: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of the training frames that is not trained on, for choosing rejection thresholds on their crops."""
    limit_train: Count | None = None
    """Number of crops to train on, drawn with the seed; of a stream, the first ones. None: all."""
    plain_input: bool = False
    """Decode and resize crops in every epoch, in colour, instead of once into a cache of grey pixels."""
    streaming: bool = False
    """Stream crops, for instance from the Hub, through a shuffle buffer, in colour; nothing is stored on disk."""
    num_workers: Annotated[CountOrZero, Trait.NEUTRAL] = 0
    """Worker processes that load crops, per training process. 0: the training process loads them."""


@dataclass(frozen=True)
class ModelConfig:
    """The network and its initial weights."""

    model: str = 'aresnet18_relmha'
    """Name of a timm model, of this package or another; or a saved model (see init_from), built without its weights."""
    pretrained: bool = False
    """Start from the weights of the model; for names of this package's models, the backbone's ImageNet weights."""
    calibrate: CountOrZero = 8
    """Batches that set the statistics of new batch norms after a pretrained start. 0: no calibration."""
    init_from: Annotated[str | None, Trait.SET_BY_STUDY] = None
    """Start from the weights of this model or backbone: the folder of a run or a model, local-dir:FOLDER,
    hf-hub:OWNER/NAME, hf-hub:OWNER/NAME@REVISION, or the name of a timm model with weights."""
    in_chans: Literal[1, 3] = 1
    """Input channels: 1 for grey, 3 for grey repeated three times."""
    mean: tuple[float, ...] | None = None
    """Mean that is subtracted from pixels in [0, 1]: one number, or one per channel. None: the model's own."""
    std: tuple[float, ...] | None = None
    """Standard deviation that pixels are divided by: one number, or one per channel. None: the model's own."""
    drop_rate: float = 0.0
    """Dropout rate before the classifier."""
    model_args: tuple[str, ...] = ()
    """Further arguments of the model as name=value, such as num_heads=4 qk_ratio=0.25."""


@dataclass(frozen=True)
class TrainConfig:
    """Optimization."""

    epochs: Annotated[Count, Trait.EXTENDABLE] = 7
    """Passes over the training crops."""
    batch_size: Count = 64
    """Crops per batch, in each process."""
    gradient_accumulation: Count = 1
    """Batches whose gradients are accumulated for one optimizer step."""
    optimizer: str = 'adamw'
    """Name of a timm optimizer."""
    lr: NonNegative = 1e-3
    """Peak learning rate."""
    added_lr_scale: NonNegative = 1.0
    """Factor on the learning rate of what a model adds to its backbone: attention, transitions, norms of blocks."""
    momentum: float = 0.9
    """Momentum of SGD and similar optimizers."""
    weight_decay: float = 0.05
    """Weight decay; biases, norms and position tables are not decayed."""
    schedule: Literal['constant', 'cosine', 'inverse_time'] = 'cosine'
    """Learning rate over steps: constant; cosine to zero; or lr / (1 + lr_decay * step), which is Keras's decay."""
    lr_decay: float = 0.0
    """Decay per step of the inverse_time schedule."""
    warmup_epochs: float = 1.0
    """Epochs of linear warmup from zero."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    loss: Literal['cross_entropy', 'focal', 'logit_adjusted'] = 'cross_entropy'
    """Loss function. focal down-weights easy examples; logit_adjusted compensates for class frequencies."""
    focal_gamma: float = 2.0
    """Strength of the focal loss (gamma). 0: cross entropy."""
    logit_adjustment: float = 1.0
    """Strength of the logit adjustment (tau). 0: cross entropy."""
    sampling: Literal['natural', 'balanced'] = 'natural'
    """balanced: an epoch has equally many crops of each class, so that crops of rare classes repeat."""
    sync_batchnorm: bool = False
    """Compute batch norm statistics over all processes, for small batches; GPUs only, slower."""
    clip_grad: float | None = None
    """Maximum norm of the gradient. None: no clipping."""
    ema: bool = False
    """Average the weights over the steps (EMA), and evaluate and save the average."""
    ema_decay: float = 0.999
    """Decay of the average per step; lower during the first steps, so that the initial weights are soon forgotten."""


@dataclass(frozen=True)
class RunConfig:
    """The run and its folder."""

    config: Annotated[Path | None, Trait.NEUTRAL, Trait.SET_BY_STUDY, Trait.PER_CALL] = None
    """Recipe (train_scripts/recipes/*.yaml). It replaces the defaults of the options that it names."""
    output: Annotated[Path | None, Trait.NEUTRAL, Trait.SET_BY_STUDY, Trait.PER_CALL] = None
    """Run folder. None: runs/<model>-<time>."""
    resume: Annotated[str | None, Trait.NEUTRAL, Trait.SET_BY_STUDY, Trait.PER_CALL] = None
    """Resume a run: its folder, or latest for the one in --output (or else the newest in runs/)."""
    seed: Annotated[CountOrZero, Trait.SET_BY_STUDY] = 0
    """Seed of the weights, the order of the crops and the augmentation."""
    mixed_precision: Literal['no', 'fp16', 'bf16'] | None = None
    """Precision of training. None: that of accelerate launch. Evaluation is always in float32."""
    compile: Annotated[bool, Trait.NEUTRAL] = False
    """Compile the model with torch.compile."""
    channels_last: bool = False
    """Use the channels-last memory format, which is faster with mixed precision."""
    push_to_hub: Annotated[str | None, Trait.NEUTRAL, Trait.SET_BY_STUDY, Trait.UNPUBLISHED] = None
    """Publish the finished run to this private repository on the Hub, owner/name (publish.py can make it public)."""
    tracker: Annotated[Literal['tensorboard', 'trackio', 'none'], Trait.NEUTRAL] = 'none'
    """Experiment tracker that also receives the log (extra: track)."""
    evaluate_every: Annotated[Count, Trait.NEUTRAL] = 1
    """Epochs between evaluations on the validation split. The last epoch is always evaluated."""
    checkpoint_every: Annotated[Count, Trait.NEUTRAL] = 1
    """Epochs between checkpoints. The last epoch and an interruption always write one."""
    keep: Annotated[Count, Trait.NEUTRAL] = 2
    """Number of checkpoints to keep, the newest."""
    threads: Annotated[Count | None, Trait.NEUTRAL, Trait.SET_BY_STUDY] = None
    """Threads of each process on a CPU. None: the cores divided among the processes of this machine."""


@dataclass(frozen=True)
class Config:
    """All options of a run."""

    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentAmounts = field(default_factory=AugmentAmounts)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def check(self) -> None:
        """Check that options are in range and do not contradict each other.

        Raises:
            InputError: Naming the options.
        """
        for key, value in flat(self).items():
            _decode(key, value)
        if self.train.lr_decay and self.train.schedule != 'inverse_time':
            raise InputError(f'lr_decay is {self.train.lr_decay}, which only schedule inverse_time reads.')
        if self.model.pretrained and self.model.init_from:
            raise InputError('pretrained and init_from both name the initial weights: leave one of them out.')
        self._check_streaming()
        channels = self.model.in_chans
        for key, values in (('mean', self.model.mean), ('std', self.model.std)):
            if values is not None and len(values) not in (1, channels):
                raise InputError(f'{key} has {len(values)} numbers, wanted 1 or in_chans={channels}.')

    def _check_streaming(self) -> None:
        reasons = {
            f'num_workers is {self.data.num_workers}, but a stream is read by one process': self.data.num_workers > 0,
            f'hold_out {NEEDS_LABELS}': self.data.hold_out > 0,
            f'sampling balanced {NEEDS_LABELS}': self.train.sampling == 'balanced',
            f'loss logit_adjusted {NEEDS_LABELS}': self.train.loss == 'logit_adjusted',
        }
        for reason in (reason for reason, applies in reasons.items() if applies and self.data.streaming):
            raise InputError(f'{reason}: leave one of them out.')


def _options() -> Iterator[tuple[str, str, Any]]:
    """Yield the group, name and annotated type of every option."""
    for group, cls in get_type_hints(Config).items():
        for name, annotation in get_type_hints(cls, include_extras=True).items():
            yield group, name, annotation


GROUPS = {name: group for group, name, _ in _options()}
TYPES = {name: annotation for _, name, annotation in _options()}
WORDS = {int: 'a whole number', float: 'a number', str: 'text', bool: 'true or false', Path: 'a path', NoneType: 'null'}


def options_with(*traits: Trait) -> frozenset[str]:
    """Return the names of the options that have one of the traits."""
    return frozenset(name for name, annotation in TYPES.items() if {*traits} & {*get_args(annotation)[1:]})


def flat(config: Config) -> dict[str, OptionValue]:
    """Return all options by name, as plain values that YAML and JSON can hold."""
    return {name: _plain(getattr(getattr(config, group), name)) for name, group in GROUPS.items()}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def parse_config(args: Sequence[str], base: Config | None = None, description: str | None = None) -> Config:
    """Parse a command line on top of `base`, by default the recipe that `--config` names on top of the defaults.

    `--help` prints the description of the program and the values of the base.

    Raises:
        InputError: If the recipe is not valid, or options contradict each other.
        SystemExit: If the command line cannot be parsed, or asks for help; the reason or the help is printed.
    """
    recipe = named_paths(args).config
    if base is None:
        base = Config() if recipe is None else read_recipe(Path(recipe))
    config = tyro.cli(Config, args=args, default=base, description=description, config=(tyro.conf.OmitArgPrefixes,))
    config.check()
    return config


def named_paths(args: Sequence[str]) -> argparse.Namespace:
    """Parse the options of a command line that determine its defaults: config, resume and output."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ('config', 'resume', 'output'):
        parser.add_argument(f'--{name}', nargs='?')  # tyro reports a missing value
    return parser.parse_known_args(args)[0]


def read_recipe(path: Path) -> Config:
    """Read a recipe, a YAML mapping whose keys are names of options, on top of the defaults.

    Raises:
        InputError: If the file is missing or not a mapping, a key is unknown, or a value is not valid for its option.
    """
    recipe = read_yaml(path, 'a mapping of options, such as "epochs: 10"', 'The recipes are in train_scripts/recipes.')
    return build_config(recipe, str(path))


def build_config(options: Mapping[str, object], where: str) -> Config:
    """Return the defaults with some options changed to values from YAML; messages state where these come from.

    Raises:
        InputError: If a name is unknown, or a value is not valid for its option.
    """
    groups: dict[str, dict[str, object]] = {group: {} for group in GROUPS.values()}
    for key, value in options.items():
        if key not in TYPES:
            close = difflib.get_close_matches(str(key), TYPES, n=1)
            hint = f' Did you mean "{close[0]}"?' if close else ''
            raise InputError(f'{where}: there is no option "{key}".{hint}')
        try:
            groups[GROUPS[key]][key] = _decode(key, value)
        except InputError as error:
            raise InputError(f'{where}: {error} finetune.py --help describes it.') from None
    base = Config()
    return Config(**{group: replace(getattr(base, group), **changed) for group, changed in groups.items()})


def _decode(key: str, value: object) -> Any:
    for candidate in (value, [value]):  # a list of one can be written without brackets
        try:
            return msgspec.convert(candidate, TYPES[key], strict=False, dec_hook=lambda kind, text: kind(text))
        except msgspec.ValidationError:
            continue
    raise InputError(f'{key} is {reprlib.repr(value)}, wanted {_in_words(TYPES[key])}.')


def _in_words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [bound for bound in arguments[1:] if isinstance(bound, Meta)]
        limits = [f' of at least {bound.ge}' + (f' and below {bound.lt}' if bound.lt else '') for bound in bounds]
        return ''.join([_in_words(arguments[0]), *limits])
    if origin is Literal:
        return f'one of {", ".join(map(str, arguments))}'
    if origin is tuple:
        kind = 'text' if arguments[0] is str else 'numbers'
        return f'a list of {kind}' if arguments[-1] is ... else f'{len(arguments)} {kind}'
    return WORDS[annotation] if origin is None else ' or '.join(map(_in_words, arguments))


def options_as_args(options: Mapping[str, OptionValue]) -> list[str]:
    """Return the arguments that set options to these values."""
    args = []
    for key, value in options.items():
        flag = key.replace('_', '-')
        values = [] if isinstance(value, bool) else value if isinstance(value, list) else [value]
        args += [f'--no-{flag}' if value is False else f'--{flag}', *map(str, values)]
    return args
