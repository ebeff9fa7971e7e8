"""The configuration of a fine-tuning run: one dataclass that recipes (YAML) and the command line fill.

A recipe gives defaults, the command line wins. Keys of a recipe are the names of the options, flat.
"""

import dataclasses
import difflib
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from timm_convattn.data.augment import AugmentAmounts
from timm_convattn.errors import InputError
from timm_convattn.files import read_yaml

__all__ = [
    'Config',
    'DataConfig',
    'ModelConfig',
    'RunConfig',
    'TrainConfig',
    'checked_args',
    'flat',
    'options_as_args',
    'parse_config',
    'read_recipe',
]

Plain = bool | int | float | str | None


@dataclass(frozen=True)
class DataConfig:
    """Crops and what is done to them."""

    data: str | None = None
    """Folder of crops (from build_dataset.py) or id of a data set on the Hub. None: the embedded thermal scenes."""
    data_config: str | None = None
    """Configuration of the data set on the Hub, such as two_class. None: its default one."""
    img_size: int | tuple[int, int] = 60
    """Side, or height and width, that crops are resized to, in pixels."""
    hold_out: float = 0.0
    """Share of the training frames whose crops are not trained on, but kept to choose on them what to reject."""
    limit_train: int | None = None
    """Train on this many crops, chosen by the seed; of a stream, the first."""
    plain_input: bool = False
    """Decode and resize the crops in every epoch, and keep colours, instead of once, to grey, into a cache."""
    streaming: bool = False
    """Read the crops while training, from the Hub for instance, shuffled within a buffer: as --plain-input, but they
    never lie on this disk as a whole."""
    num_workers: int = 0
    """Processes that load crops, for each training process. 0: the training process loads them."""


@dataclass(frozen=True)
class ModelConfig:
    """The network and where its weights start."""

    model: str = 'aresnet18_relmha'
    """Name of a timm model, one of ours or any other."""
    pretrained: bool = False
    """Start from the weights that timm names for the model (for ours, the backbone's on ImageNet), from the Hub."""
    calibrate: int = 8
    """Batches that a pretrained start takes the statistics of its new batch norms from. 0: they start plain."""
    init_from: str | None = None
    """Start from the weights of this model: local-dir:RUN/model or hf-hub:owner/name. One of ours also starts from a
    trained backbone (aresnet18_relmha from a resnet18), and computes at first what that does."""
    in_chans: Literal[1, 3] = 3
    """Channels of the input: 1 for grey, 3 for grey three times."""
    mean: tuple[float, ...] | None = None
    """Mean that is taken from the pixels (in [0, 1]), one number or one a channel. None: the model's own."""
    std: tuple[float, ...] | None = None
    """Standard deviation that the pixels are divided by. None: the model's own."""
    drop_rate: float = 0.0
    """Dropout before the classifier."""
    model_args: tuple[str, ...] = ()
    """Further arguments of the model, as name=value: num_heads=4 qk_ratio=0.25."""


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation."""

    epochs: int = 10
    """Passes over the training crops."""
    batch_size: int = 32
    """Crops in a batch, of each process."""
    gradient_accumulation: int = 1
    """Batches whose gradients make one step."""
    optimizer: str = 'adamw'
    """Name of an optimizer of timm."""
    lr: float = 1e-3
    """Highest learning rate."""
    added_lr_scale: float = 1.0
    """Learning rate of what a model has beyond its backbone (attention, transitions, the norms of forms), over that of
    the rest."""
    momentum: float = 0.9
    """Momentum of SGD and its like."""
    weight_decay: float = 0.0
    """Weight decay; biases, norms and position tables are left out of it."""
    schedule: Literal['constant', 'cosine', 'inverse_time'] = 'cosine'
    """Learning rate over steps: constant; cosine to zero; or lr / (1 + lr_decay * step), Keras's decay."""
    lr_decay: float = 0.0
    """For the inverse_time schedule."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate grows from zero."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    loss: Literal['cross_entropy', 'focal', 'logit_adjusted'] = 'cross_entropy'
    """What is minimised. focal counts what is classified well less; logit_adjusted treats rare classes as frequent
    ones."""
    focal_gamma: float = 2.0
    """How much less, for the focal loss."""
    logit_adjustment: float = 1.0
    """How far classes are treated alike, for the logit-adjusted loss: 0 is the cross entropy."""
    sampling: Literal['natural', 'balanced'] = 'natural'
    """balanced: an epoch has as many crops of each class; crops of rare classes come up several times."""
    sync_batchnorm: bool = False
    """Take the statistics of batch norms over the batches of all processes, on GPUs: for batches so small that those of
    one process say little. It costs an exchange at every norm."""
    clip_grad: float | None = None
    """Largest norm of the gradient."""
    ema: bool = False
    """Average the weights over the steps, and evaluate and save the average."""
    ema_decay: float = 0.999
    """Share of the average that stays at each step; at first less, so that the start is soon forgotten."""


@dataclass(frozen=True)
class RunConfig:
    """The run and its folder."""

    config: Path | None = None
    """Recipe to take the options from that the command line does not give (train_scripts/recipes/*.yaml)."""
    output: Path | None = None
    """Folder of the run. None: runs/<model>-<time>."""
    resume: str | None = None
    """Go on with a run: its folder, or latest for the one in --output (or else the newest in runs/)."""
    seed: int = 0
    """Seed of the weights, the order of the crops and the augmentation."""
    mixed_precision: Literal['no', 'fp16', 'bf16'] | None = None
    """Precision of training. None: what accelerate was launched with. Results are always evaluated in float32."""
    compile: bool = False
    """Compile the model with torch.compile."""
    channels_last: bool = False
    """Keep the channels of weights and maps last in memory, which mixed precision is faster with."""
    push_to_hub: str | None = None
    """Publish the finished run to this repository on the Hub, owner/name, private (publish.py can make it public)."""
    tracker: Literal['tensorboard', 'trackio', 'none'] = 'none'
    """Experiment tracker that gets the log as well (extra: track)."""
    evaluate_every: int = 1
    """Epochs between evaluations on the validation split. The last epoch is always evaluated."""
    checkpoint_every: int = 1
    """Epochs between checkpoints. The last one and an interrupted one are always written."""
    keep: int = 2
    """Checkpoints to keep, the newest."""
    threads: int | None = None
    """Threads of each process on a CPU. None: the cores shared out among the processes of this machine."""


@dataclass(frozen=True)
class Config:
    """Everything that a run is told."""

    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentAmounts = field(default_factory=AugmentAmounts)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def check(self) -> None:
        """Refuse options that are out of range or contradict each other.

        Raises:
            InputError: Naming the options.
        """
        at_least = {'epochs': 1, 'batch_size': 1, 'gradient_accumulation': 1, 'evaluate_every': 1, 'keep': 1}
        at_least |= {
            'checkpoint_every': 1,
            'num_workers': 0,
            'limit_train': 1,
            'seed': 0,
            'lr': 0,
            'added_lr_scale': 0,
            'threads': 1,
            'calibrate': 0,
        }
        values = flat(self)
        for key, lowest in at_least.items():
            if values[key] is not None and values[key] < lowest:
                raise InputError(f'{key} is {values[key]}, it must be at least {lowest}.')
        if self.train.lr_decay and self.train.schedule != 'inverse_time':
            raise InputError(f'lr_decay is {self.train.lr_decay}, which only schedule inverse_time reads.')
        if self.model.pretrained and self.model.init_from:
            raise InputError('pretrained and init_from both say where the weights start: give one of them.')
        if not 0 <= self.data.hold_out < 1:
            raise InputError(f'hold_out is {self.data.hold_out}, wanted a share from 0 to below 1.')
        if self.data.streaming:
            self._check_streaming()
        for key in ('mean', 'std'):
            if values[key] is not None and len(values[key]) not in (1, self.model.in_chans):
                raise InputError(f'{key} has {len(values[key])} numbers, wanted 1 or in_chans={self.model.in_chans}.')

    def _check_streaming(self) -> None:
        if self.data.num_workers:
            raise InputError(
                f'num_workers is {self.data.num_workers}, but a stream is read by one process: leave one of them out.'
            )
        needs_all = {
            'hold_out': self.data.hold_out > 0,
            'sampling balanced': self.train.sampling == 'balanced',
            'loss logit_adjusted': self.train.loss == 'logit_adjusted',
        }
        for option in (option for option, given in needs_all.items() if given):
            raise InputError(
                f'{option} needs all labels before it starts, which a stream has not: leave one of them out.'
            )


def flat(config: Config) -> dict[str, Any]:
    """Give all options by name, as plain values that YAML and JSON can hold."""
    options: dict[str, Any] = {}
    for group in dataclasses.fields(config):
        for key, value in vars(getattr(config, group.name)).items():
            options[key] = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
    return options


def parse_config(args: Sequence[str], recipe: Path | None = None, description: str | None = None) -> Config:
    """Parse a command line: options, on top of a recipe, on top of the defaults.

    Args:
        args: The command line.
        recipe: The recipe where the command line names none with `--config`.
        description: What the program does, for `--help`.

    Raises:
        InputError: If the recipe cannot be used, or options contradict each other.
        SystemExit: If the command line cannot be parsed, or asks for help; the reason or the help is printed.
    """
    config = _parse(args, description)
    path = config.run.config or recipe
    if path is not None:  # of two values for an option the later one counts
        config = _parse([*read_recipe(path), *args], description)
    config.check()
    return config


def read_recipe(path: Path) -> list[str]:
    """Read a recipe, a YAML mapping whose keys are names of options, as the command line that says the same.

    Raises:
        InputError: If the file is missing or no mapping, a key is unknown, or a value is not of its option's type.
    """
    recipe = read_yaml(path, 'a mapping of options, such as "epochs: 10"', 'The recipes are in train_scripts/recipes.')
    return checked_args(recipe, str(path))


def checked_args(options: Mapping[str, Any], where: str) -> list[str]:
    """Give the command line that says what a mapping of option names to values says, once it can be parsed.

    Args:
        options: Names of options, with plain values or lists of them.
        where: Where they stand, for the message.

    Raises:
        InputError: If a key is unknown, or a value is not of its option's type.
    """
    known = flat(Config())
    for key, value in options.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            raise InputError(
                f'{where}: there is no option "{key}".' + (f' Did you mean "{close[0]}"?' if close else '')
            )
        if not all(isinstance(item, Plain) for item in (value if isinstance(value, list) else [value])):
            raise InputError(f'{where}: {key} is {reprlib.repr(value)}, wanted a number, a text, or a list of them.')
    args = options_as_args(options)
    try:
        _parse(args)
    except SystemExit:
        raise InputError(f'{where}: {_first_refused(options)}. finetune.py --help says what it can be.') from None
    return args


def _parse(args: Sequence[str], description: str | None = None) -> Config:
    return tyro.cli(Config, args=args, description=description, config=(tyro.conf.OmitArgPrefixes,))


def _first_refused(options: Mapping[str, Any]) -> str:
    for key, value in options.items():
        try:
            _parse(_as_option(key, value))
        except SystemExit:
            return f'{key} cannot be {value!r}'
    return 'its options cannot be parsed together'


def options_as_args(options: Mapping[str, Any]) -> list[str]:
    """Give the command line that says what a mapping of option names to values says."""
    return [arg for key, value in options.items() for arg in _as_option(key, value)]


def _as_option(key: str, value: Any) -> list[str]:
    flag = key.replace('_', '-')
    if isinstance(value, bool):
        return [f'--{flag}' if value else f'--no-{flag}']
    values = value if isinstance(value, list) else [value]
    return [f'--{flag}', *(str(item) for item in values)]
