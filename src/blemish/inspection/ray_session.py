"""A connection to a Ray cluster: one that is there, or one that is started on this machine and stopped afterwards."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from blemish.errors import EngineError
from blemish.system import cores

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads must not spin beside the other workers
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anyone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its core writes to this process's stderr; what matters comes as an exception
}


@contextmanager
def session(address: str | None = None, workers: int | None = None) -> Iterator[Any]:
    """The `ray` module, connected: to `address`, else to `$RAY_ADDRESS`, else to a cluster of `workers` started here.

    A cluster started here is stopped at the end; another one keeps running. EngineError where Ray is not installed or
    the cluster does not answer.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError:
        raise EngineError("ray is not installed", hint="pip install 'blemish[ray]' brings it") from None
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    terminates = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            ray.init(address, runtime_env={"env_vars": ENVIRONMENT}, **quiet)
        else:
            # "local": else it would silently join a cluster that `ray start` has left running
            ray.init("local", num_cpus=workers or cores(), include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"no Ray cluster at {address or 'this machine'}: {error}", hint="check the address (--address)"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminates or signal.SIG_DFL)  # Ray's own prints a trace and exits with 15
    try:
        yield ray
    finally:
        ray.shutdown()
