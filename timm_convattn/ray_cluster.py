"""Connecting to a Ray cluster, or starting one on this machine (extra `ray`)."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from timm_convattn.errors import InputError

__all__ = ['ray_cluster']


@contextmanager
def ray_cluster(address: str | None, num_cpus: int) -> Iterator[Any]:
    """Connect to a cluster, or start one, give the module `ray`, and leave the cluster as it was found.

    Args:
        address: Of the cluster, as `ray.init` takes it. None: one of this machine.
        num_cpus: Processors of the one that is started.

    Raises:
        InputError: If Ray is not installed, is in use by this process, or has no cluster at the address.
    """
    # a thread of Ray Data that outlives the connection must not open another one
    os.environ.setdefault('RAY_ENABLE_AUTO_CONNECT', '0')
    # one of this machine tells nobody that it was used, and Ray Data has no thread that gathers what to tell
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    try:
        import ray
    except ImportError as error:
        raise InputError(f"Ray cannot be imported ({error}). Install it: pip install 'timm-convattn[ray]'.") from error
    if ray.is_initialized():
        raise InputError('This process is connected to a Ray cluster already. Disconnect it: ray.shutdown().')
    if address is not None:
        _check_address(address)
    where: dict[str, Any] = {'num_cpus': num_cpus} if address is None else {'address': address}
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **where)
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse at once an address where nobody listens: Ray itself tries for more than a minute."""
    place = urlsplit(address if '://' in address else f'//{address}')
    try:
        socket.create_connection((place.hostname or '', place.port or 0), timeout=10).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f'No Ray cluster at {address} ({error}). Start one with ray start --head, and give the host:port that it '
            'tells.'
        ) from error
