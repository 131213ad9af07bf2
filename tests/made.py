"""Runs made for the tests: the law with known parameters and noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import analysis as an
from analysis.curve import R

TRUE = {"R0": 0.12, "A": 0.74, "B": 1.8, "C_mid": 2.0}


def law(C, R0, A, B, C_mid):
    return R0 + (A - R0) / (1 + (C_mid / C) ** B)


def as_run(compute, pass_rate, name="made", **columns):
    data = {"gpu_hours": np.asarray(compute), "pass_rate": np.asarray(pass_rate), **columns}
    return an.Run(name, name, None, data, ("gpu_hours",), (), Path("none"), "")


def ar1(n, sd=0.01, rho=0.0, seed=0):
    """Normal noise whose neighbours have correlation rho."""
    noise = np.random.default_rng(seed).normal(0.0, sd, n)
    for i in range(1, n):
        noise[i] = rho * noise[i - 1] + (1.0 - rho**2) ** 0.5 * noise[i]
    return noise


def noisy(seed, *, k=4.0, n=25, sd=0.01, rho=0.0, **truth):
    """The law from compute 0 to k C_mid, n points, with AR(1) noise."""
    compute = np.linspace(0.0, k * TRUE["C_mid"], n)
    return as_run(compute, R(compute, **{**TRUE, **truth}) + ar1(n, sd, rho, seed))


def values(fit):
    return {name: p.value for name, p in fit.params.items()}


def codes(fit):
    return [f.code for f in fit.findings]
