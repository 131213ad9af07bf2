"""Runs made for the tests: the law with known parameters and noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import analysis as an
from analysis.curves.curve import R

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


def counted(rate, name="made", *, k=16, seed=0, last=6.0):
    """A run that logs, of each evaluation, the correct completions of each prompt; rates (evaluations, prompts)."""
    correct = np.random.default_rng(seed).binomial(k, rate)
    column, each = np.empty(len(rate), dtype=object), np.empty(len(rate), dtype=object)
    column[:], each[:] = correct.tolist(), [k] * len(rate)
    return as_run(np.linspace(0.0, last, len(rate)), correct.mean(axis=1) / k, name, correct=column, k=each)


def solving(solved, name="made", *, prompts=24, C_mid=1.0, last=6.0, **about):
    """A counted run that comes to solve `solved` of its prompts: what the others do is left to another sample."""
    ends = [np.where(np.arange(prompts) < few, 0.98, 0.02) for few in (2, solved)]
    share = R(np.linspace(0.0, last, 40), 0.0, 1.0, 1.5, C_mid)[:, None]
    return counted(ends[0] + (ends[1] - ends[0]) * share, name, last=last, **about)


def values(fit):
    return {name: p.value for name, p in fit.params.items()}


def codes(fit):
    return [f.code for f in fit.findings]
