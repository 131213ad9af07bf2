"""A skip is listed with its reason, and fails the run unless it is on the list, with one process and with two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = """
import pytest

def test_that_passes():
    pass

@pytest.mark.xfail(reason="known")
def test_that_is_known_to_fail():
    assert False

@pytest.mark.skipif(True, reason="has no device")
@pytest.mark.parametrize("size", [1, 2])
def test_on_a_device(size):
    pass

def test_that_gives_up():
    pytest.skip("too dark")
"""


def outcome(folder: Path, allowed: dict[str, str], *options: str) -> tuple[int, str]:
    """Run pytest on a folder with the hooks of this suite and another list."""
    (folder / "test_these.py").write_text(TESTS)
    (folder / "conftest.py").write_text(
        "from tests import skips\nfrom tests.conftest import *\nfrom tests.conftest import pytest_sessionfinish\n"
        f"skips.ALLOWED = {allowed!r}\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(folder),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *options, str(folder)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two"])
def test_a_skip_that_is_not_on_the_list_fails_the_run(tmp_path, options):
    device = {"test_these.py::test_on_a_device*": "needs a device"}
    code, said = outcome(tmp_path, device, *options)
    assert code == 1 and "3 skipped" in said and "known" not in said
    assert "test_these.py::test_on_a_device[1]: has no device" in said
    assert "NOT ALLOWED  test_these.py::test_that_gives_up: too dark" in said and said.count("NOT ALLOWED") == 1
    code, said = outcome(tmp_path, {**device, "test_these.py::test_that_gives_up": "at night"}, *options)
    assert code == 0 and "test_these.py::test_that_gives_up: too dark" in said and "NOT ALLOWED" not in said
