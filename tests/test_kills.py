"""A run that is killed again and again ends as one that never was; `benchmarks/kills.py` does it 200 times."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("in_flight", "kills"), [("kv", 15), ("refresh", 8)])
def test_a_killed_and_resumed_run_equals_the_unkilled_one_bit_for_bit(in_flight, kills):
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", str(kills), "--seed", "1", "--in-flight", in_flight]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert "every run equals the unkilled one, bit for bit" in done.stdout, done.stdout + done.stderr
    hits = dict(re.findall(r"^  (\w+) +(\d+)$", done.stdout, flags=re.MULTILINE))
    assert sum(map(int, hits.values())) == kills
    # With eight kills none may fall on a checkpoint; other phases are over in fractions of a millisecond.
    for phase in ("generate", "train", "evaluate", "checkpoint") if kills > 10 else ("generate",):
        assert int(hits[phase]) > 0, done.stdout
