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
    """Connect to a Ray cluster, or start one, yield the module `ray`, and disconnect.

    Args:
        address: Address of the cluster, as `ray.init` takes it. None: start one on this machine.
        num_cpus: Number of CPUs of the cluster that is started.

    Raises:
        InputError: If Ray is not installed, this process is already connected, or there is no cluster at the address.
    """
    # a thread of Ray Data that outlives the connection must not open another one
    os.environ.setdefault('RAY_ENABLE_AUTO_CONNECT', '0')
    # send no usage statistics; this also keeps Ray Data from starting a thread that collects them
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    try:
        import ray
    except ImportError as error:
        raise InputError(f"Ray cannot be imported ({error}). Install it: pip install 'timm-convattn[ray]'.") from error
    if ray.is_initialized():
        raise InputError('This process is already connected to a Ray cluster. Disconnect it: ray.shutdown().')
    if address is not None:
        _check_address(address)
    started = num_cpus if address is None else None
    ray.init(address, num_cpus=started, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse an address without a listener at once; Ray itself would retry for more than a minute."""
    url = urlsplit(address if '://' in address else f'//{address}')
    try:
        socket.create_connection((url.hostname or '', url.port or 0), timeout=10).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f'No Ray cluster at {address} ({error}). Start one with ray start --head, and use the host:port that it '
            'prints.'
        ) from error
