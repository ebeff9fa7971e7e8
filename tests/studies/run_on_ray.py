"""Start a Ray cluster of a head and two nodes, make runs on it, and kill a node that works on one of them.

python run_on_ray.py SCRIPT OUT [FINETUNE ARGS ...]. A process of its own, since Ray leaves threads behind. Prints how
each run ended, and how many runs the killed node had begun.
"""

import os
import shutil
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

folder = Path(tempfile.mkdtemp(prefix='ray.'))  # short, for the sake of the sockets in it
(folder / 'ray').mkdir()  # where the test utility notes the address, and does not make it
os.environ |= {'RAY_TMPDIR': str(folder), 'RAY_USAGE_STATS_ENABLED': '0'}

import psutil  # noqa: E402  accelerate brings it
from ray.cluster_utils import Cluster  # noqa: E402  it reads the environment

from timm_convattn.studies.execution import Task  # noqa: E402
from timm_convattn.studies.scheduling import Resources, execute_all  # noqa: E402

script, out, *args = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 0, 'include_dashboard': False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
tasks = [Task(f'run{seed}', (*args, '--seed', str(seed)), script, place=out) for seed in range(2)]
tasks.append(Task('run2', (*args, '--seed', '2'), script, place=out, after='run0'))


def kill_a_node_that_works() -> None:
    """Wait until both nodes train, and end all that runs on one, as if its plug were pulled."""
    while len({path.parent for path in Path(out).glob('*/checkpoints/epoch_*')}) < 2:
        time.sleep(0.2)
    raylet = psutil.Process(nodes[0].all_processes['raylet'][0].process.pid)
    for process in [raylet, *raylet.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    cluster.remove_node(nodes[0], allow_graceful=False)
    print('killed a node', flush=True)


killer = threading.Thread(target=kill_a_node_that_works, daemon=True)
killer.start()
try:
    for outcome in execute_all(tasks, Resources(gpus_per_run=0), engine='ray', address=cluster.address):
        print(outcome.ended, outcome.task.name, flush=True)
finally:
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
