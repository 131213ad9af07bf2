"""Shared pieces: a small policy with random weights, prompts on disk, and a quick configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import skips


def pytest_runtest_logreport(report):
    skips.note(report)


def pytest_collectreport(report):
    skips.note(report)


def pytest_terminal_summary(terminalreporter):
    skips.report(terminalreporter)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    here = not hasattr(session.config, "workerinput")  # under xdist the process that reports decides
    if here and session.exitstatus == pytest.ExitCode.OK and skips.refused(skips.skipped, skips.ALLOWED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def chain_model(tmp_path_factory) -> Path:
    """A policy directory for chain arithmetic, small and with random weights."""
    from scalerl.policy import new_policy
    from scalerl.tasks import get_task

    folder = tmp_path_factory.mktemp("model")
    new_policy(get_task("chain").characters, max_length=72, width=32, heads=2, seed=1).save(folder)
    return folder


@pytest.fixture(scope="session")
def prompts(tmp_path_factory) -> Path:
    """A folder with train.json, eval.json and test.json of chain arithmetic."""
    from scalerl.data import prepare

    folder = tmp_path_factory.mktemp("prompts")
    prepare("chain", str(folder), sizes=(24, 8, 8))
    return folder


@pytest.fixture
def quick():
    """Build a configuration of the demo's shape and checkpoint that runs in a second; fields change by name."""
    from scalerl.config import load_config

    def make(recipe: str = "scalerl", **fields):
        small = {
            "batch_size": 32,
            "generations_per_prompt": 4,
            "eval_generations": 2,
            "eval_every": 2,
            "max_steps": 4,
            **fields,
        }
        return load_config([recipe, "demo"], [f"{key}={value}" for key, value in small.items()])

    return make
