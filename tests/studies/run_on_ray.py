"""Start a Ray cluster of a head and two nodes, have reproduce.py use it, and kill a node that works on a run.

python run_on_ray.py OUT REPRODUCE ARGS ... A process of its own, since Ray leaves threads behind. Each node says that
it has a GPU, whether the machine has any or not: it is what the runs share. Prints what reproduce.py does.
"""

import runpy
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil  # accelerate brings it
from ray.cluster_utils import Cluster

out, script, *args = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 0, 'num_gpus': 0, 'include_dashboard': False})
nodes = [cluster.add_node(num_cpus=4, num_gpus=1) for _ in range(2)]


def kill_a_node_that_works() -> None:
    """Wait until both nodes train, and end all that runs on one, as if its plug were pulled."""
    while len({path.parent for path in Path(out).glob('runs/*/checkpoints/epoch_*')}) < 2:
        time.sleep(0.2)
    raylet = psutil.Process(nodes[0].all_processes['raylet'][0].process.pid)
    for process in [raylet, *raylet.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    cluster.remove_node(nodes[0], allow_graceful=False)
    print('killed a node', flush=True)


threading.Thread(target=kill_a_node_that_works, daemon=True).start()
sys.argv = [script, *args, '--out', out, '--engine', 'ray', '--address', cluster.address, '--gpus-per-run', '1']
try:
    runpy.run_path(script, run_name='__main__')
finally:
    cluster.shutdown()
