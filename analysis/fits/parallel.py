"""Fit many runs at once: through joblib, so that its Ray or Dask backend takes the same call to a cluster.

Promises: the results of the serial path, in the same order, to the last bit; what is wrong with a run is told as it is
there. Does not promise to be faster for a handful of runs: a worker is a process that imports the analysis first.

Workers are processes of this program, on this machine unless the backend says otherwise; what goes to them and comes
back is pickled by joblib. Nothing that was read from a file is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from analysis.fits.results import Fit
from analysis.schema import Run
from scalerl.runlog import UserError


def fit_each(
    function: Callable[..., Fit], runs: Sequence[Run], arguments: Sequence[Any], jobs: int | None
) -> list[Fit]:
    """Return ``function(*arguments[i])`` for every run i, computed one after the other or in parallel.

    Parameters
    ----------
    function : callable
        Of a module, so that a worker can import it.
    runs : sequence of Run
        Whose fits are made.
    arguments : sequence of tuple
        One a run; picklable.
    jobs : int or None
        Processes; -1 is one a core, or all that a cluster has. None and 1 compute here.

    Raises
    ------
    UserError
        If joblib is missing, or what `function` raises for the first of the runs that it refuses.
    """
    if jobs in (None, 1):
        return [function(*given) for given in arguments]
    try:
        from joblib import Parallel, delayed
    except ModuleNotFoundError:
        raise UserError("jobs: fitting in parallel needs joblib: pip install 'scalerl[parallel]'") from None
    with _one_thread_each():
        told = Parallel(n_jobs=jobs, max_nbytes=None)(delayed(_told)(function, given) for given in arguments)
    fits = []
    for run, found in zip(runs, told, strict=True):
        if isinstance(found, UserError):
            raise found
        fits.append(replace(found, run=run))  # what came back holds a copy
    return fits


def _told(function: Callable[..., Fit], given: tuple[Any, ...]) -> Fit | UserError:
    """In a worker: a refusal travels back as a value, so that the first run that is refused is named."""
    try:
        return function(*given)
    except UserError as error:
        return error


def _one_thread_each() -> AbstractContextManager[Any]:
    """Give processes that start here one thread each; Ray and Dask see to their own workers."""
    from joblib import parallel_config
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    if type(backend).__name__ != "LokyBackend":
        return nullcontext()
    config: AbstractContextManager[Any] = parallel_config(backend="loky", inner_max_num_threads=1)
    return config
