"""Fits in several processes: those of one, to the last bit, in the same order; what is refused is told the same way."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import joblib
import numpy as np
import pytest

import analysis as an
from analysis.fits.parallel import fit_each
from scalerl.cli import main
from tests.made import as_run, noisy

RUNS = [replace(noisy(seed, n=12 + seed), name=f"run{seed}") for seed in range(4)]
# Of these some have a curve, one is flat, one has too few points, and one decays: each with findings of its own.
ODD = [
    RUNS[0],
    as_run([1.0, 2.0, 3.0, 4.0, 5.0], [0.3] * 5, "flat"),
    as_run([1.0, 2.0], [0.1, 0.2], "short"),
    RUNS[3],
]


@pytest.fixture(scope="module", autouse=True)
def _end_workers():
    """Let the pool of this module go when its tests are over; idle workers end by themselves later."""
    yield
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


def same(one: an.Fits, other: an.Fits) -> bool:
    """To the last bit: the saved form holds parameters, draws, findings and report."""
    return one.to_json() == other.to_json()


def test_two_processes_give_the_fits_of_one_in_the_same_order():
    alone, both = an.fit(ODD), an.fit(ODD, jobs=2)
    assert [fit.name for fit in both] == [run.name for run in ODD]
    assert same(alone, both)
    assert all(fit.run is run for fit, run in zip(both, ODD, strict=True)), "each fit holds the run that was given"
    assert [fit.fitted for fit in both] == [True, True, False, True]


def test_runs_that_share_r0_are_fitted_in_parallel_too():
    start = {"checkpoint": {"sha256": "one"}}
    runs = [replace(r, header=start, data={**r.data, "prompt_set": np.array(["p"] * len(r))}) for r in RUNS[:3]]
    options = {"r0": "shared", "tolerance": 0.05}
    assert same(an.fit(runs, **options), an.fit(runs, **options, jobs=2))


def test_the_first_run_that_is_refused_is_named_as_it_is_without_processes():
    """Run 2 has the axis that is asked for; 1 and 3 have not, and 3 is refused at once while 1 waits."""
    runs = [replace(RUNS[0], name="has", axes=("gpu_hours", "steps"), data={**RUNS[0].data, "steps": np.arange(12.0)})]
    runs += RUNS[1:]
    with pytest.raises(an.UserError) as serial:
        an.fit(runs, x="steps")
    with pytest.raises(an.UserError) as parallel:
        an.fit(runs, x="steps", jobs=2)
    assert str(parallel.value) == str(serial.value) and "run1" in str(serial.value)


def _threads(run, _):
    """A function of a fit's form that tells of its process."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    threads = " ".join(os.environ.get(name, "none") for name in names)
    told = an.Finding("threads", "note", f"{os.getpid()} {threads}", None)
    return replace(an.fit(run, level=None), findings=(told,))


def test_workers_compute_with_one_thread_each(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    told = fit_each(_threads, RUNS, [(run, None) for run in RUNS], 2)
    said = [fit.findings[0].message.split() for fit in told]
    assert all(threads == ["1", "1", "1"] for _, *threads in said)
    assert str(os.getpid()) not in {pid for pid, *_ in said}


def test_a_backend_that_the_caller_names_is_the_one_that_is_used():
    """As joblib's Ray and Dask backends are; threads are a backend that can be watched from here."""
    with joblib.parallel_config(backend="threading"):
        told = fit_each(_threads, RUNS, [(run, None) for run in RUNS], 2)
    assert {fit.findings[0].message.split()[0] for fit in told} == {str(os.getpid())}


@pytest.mark.parametrize("jobs", [0, -2, 1.5, True, "2"])
def test_a_number_of_processes_that_makes_no_sense_is_refused(jobs):
    with pytest.raises(an.UserError, match=r"^jobs: .* is neither a number of processes"):
        an.fit(RUNS, jobs=jobs)


def test_one_process_needs_no_joblib(monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    assert same(an.fit(RUNS[:2], jobs=1), an.fit(RUNS[:2]))
    with pytest.raises(an.UserError, match=r"^jobs: fitting in parallel needs joblib"):
        an.fit(RUNS[:2], jobs=2)


def test_jobs_and_groups_do_not_go_together():
    with pytest.raises(an.UserError, match=r"^by: .*jobs is not read there"):
        an.fit(RUNS, by="batch_size", jobs=2)


def test_without_joblib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(an.UserError, match=r"^jobs: .*pip install 'scalerl\[parallel\]'"):
        an.fit(RUNS, jobs=2)
    assert len(an.fit(RUNS[:2], level=None)) == 2, "and without jobs nothing asks for it"


def test_the_command_prints_the_same_with_two_processes(tmp_path, capsys):
    frames = [run.frame for run in RUNS[:2]]
    paths = []
    for i, frame in enumerate(frames):
        paths.append(str(tmp_path / f"r{i}.csv"))
        frame.to_csv(paths[-1], index=False)
    assert main(["fit", *paths]) == 0
    alone = capsys.readouterr().out
    assert main(["fit", *paths, "--jobs", "2"]) == 0
    assert capsys.readouterr().out == alone
    assert main(["fit", *paths, "--jobs", "0"]) == 2
    assert "(--jobs)" in capsys.readouterr().err
