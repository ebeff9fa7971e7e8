"""Run the paper's studies, and show what came of them.

Examples:
    python train_scripts/reproduce.py table2 --scale cpu
    python train_scripts/reproduce.py table2 table3 --scale full --data crops/four_class --jobs 4
    python train_scripts/reproduce.py table2 --data crops/four_class --budget 60
    python train_scripts/reproduce.py table2 --data crops/four_class --engine ray --address 10.0.0.1:6379
    python train_scripts/reproduce.py report
    python train_scripts/reproduce.py report --from hub_cards/results --out studies

A run that is finished is not repeated, one that was interrupted goes on: give the same command again. The checkpoints
of a finished run are removed, its weights stay.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm.auto import tqdm

from timm_convattn.data.crops import Classes
from timm_convattn.entry_point import entry_point
from timm_convattn.errors import InputError
from timm_convattn.studies.data import open_study_data
from timm_convattn.studies.evidence import read_evidence, restore_runs
from timm_convattn.studies.execution import Resources, create_task, execute_all, log_path
from timm_convattn.studies.history import record_studies
from timm_convattn.studies.matrix import Run, read_matrix
from timm_convattn.studies.report import write_report

SCRIPTS = Path(__file__).parent


@dataclass(frozen=True)
class Args:
    """Which studies, on what, and where."""

    studies: tyro.conf.Positional[tuple[str, ...]]
    """Names of studies of the matrix (table2 table3 fig10 imbalance selective stages), or of what is read off them or
    off the crops (table1 table4 fig5 fig7 fig8 fig9); or report."""
    data: str | None = None
    """Folder of four_class crops (from build_dataset.py) or id of a data set on the Hub. None: the embedded thermal
    scenes."""
    scale: str = 'cpu'
    """The matrix of runs: full, cpu, or a YAML file of your own."""
    out: Path = Path('studies')
    """Folder for all runs and the report."""
    results: Path | None = None
    """For report: folder to write a results file of each study on each data set to, and the evidence of the runs
    (evidence): their results, and label, frame and logits of each crop."""
    kept: Annotated[Path | None, tyro.conf.arg(name='from')] = None
    """Folder that report --results wrote. Runs in its evidence count as finished. For report: render the report from
    its evidence alone, without runs and crops."""
    classes: tuple[Classes, ...] = ()
    """Only these sets of classes. None: all that a study has."""
    budget: Annotated[float | None, tyro.conf.arg(metavar='MINUTES')] = None
    """Begin no run after this time, and stop those under way at a checkpoint. Give the command again to go on."""
    jobs: int = 1
    """Runs at a time on this machine, which share its cores."""
    gpus_per_run: int | None = None
    """GPUs of each run, which share its batches. None: one, where there are any."""
    cpus_per_run: int | None = None
    """Threads of each run on a CPU. None: the cores shared out, or one on a Ray cluster."""
    engine: Literal['local', 'ray'] = 'local'
    """ray: each run is a task of a Ray cluster, whose nodes see the same files under the same paths."""
    address: str | None = None
    """Of the Ray cluster, host:port or ray://host:port. None: one on this machine."""


def main(args: Args) -> None:
    """Run what is not finished, then show."""
    check(args)
    if args.studies == ('report',):
        for written in write_report(args.out, args.results, args.kept):
            print(written)
        return
    runs = choose_runs(args)
    if args.kept is not None:
        restore_runs(read_evidence(args.kept), [run.name for run in runs], args.out / 'runs')
    processes = max(args.gpus_per_run or 1, 1)
    tasks = [create_task(run, args.out / 'runs', SCRIPTS / 'finetune.py', processes) for run in runs]
    print(
        f'{len(tasks)} runs, {sum(task.is_finished for task in tasks)} of them finished already, in {args.out / "runs"}'
    )
    failed = []
    outcomes = execute_all(tasks, resources_of(args), args.engine, args.address)
    for outcome in tqdm(outcomes, total=len(tasks), unit='run', disable=None):  # None: quiet where there is no terminal
        tqdm.write(f'{outcome.status}: {outcome.task.folder.name}, {outcome.seconds:.0f} s')
        failed += [str(log_path(outcome.task.folder))] if outcome.status == 'failed' else []
    if failed:
        raise InputError(f'{len(failed)} runs failed; what they said is in {", ".join(failed)}.')
    print(f'To show what was found: python train_scripts/reproduce.py report --out {args.out}')


def check(args: Args) -> None:
    """Refuse what makes no sense together, before anything is opened.

    Raises:
        InputError: Saying what to give.
    """
    if not args.studies:
        raise InputError('No study was named. Name some, such as table2, or say report to show what is finished.')
    if 'report' in args.studies and len(args.studies) > 1:
        others = ' '.join(name for name in args.studies if name != 'report')
        raise InputError(
            f'report shows all that is finished, and stands alone. Make {others or "it"} first, then report.'
        )
    resources_of(args).check()


def resources_of(args: Args) -> Resources:
    """Read what the runs have to share off the command line."""
    return Resources(args.jobs, args.gpus_per_run, args.cpus_per_run, args.budget)


def choose_runs(args: Args) -> list[Run]:
    """List the runs of the studies that were named, each once, and note in the folder that they are made."""
    path = Path(args.scale) if args.scale.endswith('.yaml') else SCRIPTS / 'studies' / f'{args.scale}.yaml'
    matrix = read_matrix(path)
    runs: dict[str, Run] = {}  # by their names: a run of two studies is one
    chosen = [(name, classes) for name in args.studies for classes in args.classes or matrix.classes(name)]
    for name, classes in chosen:
        data = open_study_data(args.data, classes, args.out / 'crops')
        runs |= {run.name: run for run in matrix.all_runs(name, data)}
    record_studies(args.out, path, chosen, args.data)
    return list(runs.values())


if __name__ == '__main__':
    with entry_point():
        main(tyro.cli(Args, description=__doc__))
