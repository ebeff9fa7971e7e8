"""Run the paper's studies and report their results.

Examples:
    python train_scripts/reproduce.py table2 --scale cpu
    python train_scripts/reproduce.py table2 table3 --scale full --data crops/four_class --jobs 4
    python train_scripts/reproduce.py table2 --data crops/four_class --budget 60
    python train_scripts/reproduce.py table2 --data crops/four_class --engine ray --address 10.0.0.1:6379
    python train_scripts/reproduce.py report
    python train_scripts/reproduce.py report --from hub_cards/results --out studies

Finished runs are not repeated. Interrupted runs are resumed by the same command. The checkpoints of a finished run are
removed, its weights are kept.
"""

from dataclasses import dataclass, field
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
    """Studies, crops and folders."""

    studies: tyro.conf.Positional[tuple[str, ...]]
    """Studies of the matrix (table2 table3 fig10 imbalance selective stages), tables and figures that are computed from
    them or from the crops (table1 table4 fig5 fig7 fig8 fig9); or report."""
    data: str | None = None
    """Folder of four_class crops (from build_dataset.py) or id of a data set on the Hub. None: the embedded thermal
    scenes."""
    scale: str = 'cpu'
    """Matrix of runs: full, cpu, or your own YAML file."""
    out: Path = Path('studies')
    """Folder for all runs and the report."""
    results: Path | None = None
    """For report: folder for a results file of each study on each data set, and for the evidence of the runs: their
    results, and label, frame and logits of each crop."""
    kept: Annotated[Path | None, tyro.conf.arg(name='from')] = None
    """Folder that report --results wrote. Runs in its evidence count as finished. For report: render the report from
    its evidence alone, without runs and crops."""
    classes: tuple[Classes, ...] = ()
    """Only these sets of classes. None: all of the study."""
    resources: Annotated[Resources, tyro.conf.arg(name='')] = field(default_factory=Resources)
    engine: Literal['local', 'ray'] = 'local'
    """ray: each run is a task of a Ray cluster, whose nodes see the same files under the same paths."""
    address: str | None = None
    """Address of the Ray cluster, host:port or ray://host:port. None: one is started on this machine."""


def main(args: Args) -> None:
    """Run what is not finished, or write the report."""
    check(args)
    if args.studies == ('report',):
        for written in write_report(args.out, args.results, args.kept):
            print(written)
        return
    runs = choose_runs(args)
    if args.kept is not None:
        restore_runs(read_evidence(args.kept), [run.name for run in runs], args.out / 'runs')
    processes = max(args.resources.gpus_per_run or 1, 1)
    tasks = [create_task(run, args.out / 'runs', SCRIPTS / 'finetune.py', processes) for run in runs]
    print(
        f'{len(tasks)} runs, {sum(task.is_finished for task in tasks)} of them finished already, in {args.out / "runs"}'
    )
    failed = []
    outcomes = execute_all(tasks, args.resources, args.engine, args.address)
    for outcome in tqdm(outcomes, total=len(tasks), unit='run', disable=None):  # None: quiet where there is no terminal
        tqdm.write(f'{outcome.status}: {outcome.task.folder.name}, {outcome.seconds:.0f} s')
        failed += [str(log_path(outcome.task.folder))] if outcome.status == 'failed' else []
    if failed:
        raise InputError(f'{len(failed)} runs failed; their output is in {", ".join(failed)}.')
    print(f'Next, write the report: python train_scripts/reproduce.py report --out {args.out}')


def check(args: Args) -> None:
    """Refuse invalid combinations of arguments, before anything is opened.

    Raises:
        InputError: If there are any.
    """
    if not args.studies:
        raise InputError('No study was named. Name some, such as table2, or report for a report of what is finished.')
    if 'report' in args.studies and len(args.studies) > 1:
        others = ' '.join(name for name in args.studies if name != 'report')
        raise InputError(f'report cannot be combined with studies. Run {others or "them"} first, then report.')
    args.resources.check()


def choose_runs(args: Args) -> list[Run]:
    """Return the runs of the named studies, each once, and add the studies to the history of the folder."""
    path = Path(args.scale) if args.scale.endswith('.yaml') else SCRIPTS / 'studies' / f'{args.scale}.yaml'
    matrix = read_matrix(path)
    runs: dict[str, Run] = {}  # by name: equal runs of two studies are one run
    chosen = [(name, classes) for name in args.studies for classes in args.classes or matrix.classes(name)]
    for name, classes in chosen:
        data = open_study_data(args.data, classes, args.out / 'crops')
        runs |= {run.name: run for run in matrix.all_runs(name, data)}
    record_studies(args.out, path, chosen, args.data)
    return list(runs.values())


if __name__ == '__main__':
    with entry_point():
        main(tyro.cli(Args, description=__doc__))
