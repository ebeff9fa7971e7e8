"""Start a Ray cluster of two nodes and build crops on it; then build from a folder with a broken frame.

python build_on_ray.py FRAMES BROKEN_FRAMES OUT. In a separate process, because Ray leaves threads behind. Prints the
threads that are alive when a connection is closed.
"""

import sys
import threading
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from timm_convattn.data.crops import build_crops
from timm_convattn.errors import InputError

shutdown = ray.shutdown


def close():
    """Close a connection, and print the threads of this process before."""
    print('threads at shutdown:', *sorted(thread.name for thread in threading.enumerate()))
    shutdown()


ray.shutdown = close
frames, broken, out = map(Path, sys.argv[1:])
nodes = Cluster(initialize_head=True, head_node_args={'num_cpus': 1, 'include_dashboard': False})
nodes.add_node(num_cpus=1)
try:
    build_crops(frames, out, engine='ray', address=nodes.address)
    try:
        build_crops(broken, out.with_name('broken'), engine='ray', address=nodes.address)
    except InputError as error:
        print(error)
finally:
    nodes.shutdown()
