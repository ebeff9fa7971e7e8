"""Start a Ray cluster of two nodes and build crops on it; then build from a folder whose frame is broken.

python build_on_ray.py FRAMES BROKEN_FRAMES OUT. A process of its own, since Ray leaves threads behind. Says which there
are when a connection is closed.
"""

import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

folder = Path(tempfile.mkdtemp(prefix='ray.'))  # short, for the sake of the sockets in it
(folder / 'ray').mkdir()  # where the test utility notes the address, and does not make it
os.environ |= {'RAY_TMPDIR': str(folder), 'RAY_USAGE_STATS_ENABLED': '0'}
os.environ |= {'RAY_worker_niceness': '0'}  # else they get only the time that no other test wants
os.environ['RAY_ENABLE_AUTO_CONNECT'] = '0'  # as `ray_cluster` sets it where it is the first to import ray

import ray  # noqa: E402  it reads the environment
from ray.cluster_utils import Cluster  # noqa: E402

from timm_convattn.data.crops import build_crops  # noqa: E402
from timm_convattn.errors import InputError  # noqa: E402

shutdown = ray.shutdown


def close():
    """End a connection, and say which threads of this process it leaves alone."""
    print('closed beside', *sorted(thread.name for thread in threading.enumerate()))
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
    shutil.rmtree(folder, ignore_errors=True)
