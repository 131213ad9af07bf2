"""Skipped tests are listed at the end of a run, and one that nobody allowed makes the run fail.

A skip is a promise that was not checked. Allowed are tests that need a GPU and tests that are asked for by a variable;
each stands here with its reason. The hooks work in one process and under pytest-xdist, where the process that reports
is not the one that runs tests.
"""

from __future__ import annotations

from fnmatch import fnmatch

import pytest

ALLOWED = {
    "tests/test_smollm2.py::*": "asked for by SCALERL_SMOLLM2=1: needs two wheels and minutes of a core",
    "tests/test_reporting.py::test_a_browser_opens_it_without_a_complaint*": "needs a browser (chromium)",
    "tests/test_rewards_gym.py*": "needs the extra gym, which wants a C compiler to install",
    "tests/test_rewards_code.py::test_the_numbers_of_calls_are_those_of_the_kernel*": "needs kernel headers",
    "tests/test_completion.py::test_fish_*": "needs fish",
    "tests/test_completion.py::test_zsh_*": "needs zsh",
    "tests/test_gpu*.py::*": "needs a CUDA device",
    "tests/test_ray.py*": "needs the extra ray",
    "tests/test_two_nodes.py*": "asked for by SCALERL_TWO_NODES=1: needs root, the extra ray, and minutes",
    "tests/test_generators.py::*ray*": "needs the extra ray",
    "tests/test_generators.py::*vllm*": "needs vLLM, which wants an environment of its own",
    "tests/test_vllm.py*": "needs vLLM, which wants an environment of its own",
}
"""Patterns of test names, and why these may be skipped."""

skipped: dict[str, str] = {}
"""Names of skipped tests and what they gave as reason, as far as reports came in."""


def note(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Keep a report of something skipped; an expected failure is reported the same way and is no skip."""
    if report.skipped and not hasattr(report, "wasxfail"):
        where = report.longrepr
        reason = where[2] if isinstance(where, tuple) else str(where)
        skipped[report.nodeid] = reason.removeprefix("Skipped: ")


def refused(names: dict[str, str], allowed: dict[str, str]) -> list[str]:
    """Return the names that no pattern allows."""
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in allowed)]


def report(terminal: pytest.TerminalReporter) -> None:
    """List what was skipped, and what of it may not be."""
    if not skipped:
        return
    wrong = refused(skipped, ALLOWED)
    terminal.section(f"{len(skipped)} skipped")
    for name, reason in sorted(skipped.items()):
        terminal.line(f"{'NOT ALLOWED  ' if name in wrong else ''}{name}: {reason}")
    if wrong:
        terminal.line("a skip that is meant goes on the list in tests/skips.py", red=True)
