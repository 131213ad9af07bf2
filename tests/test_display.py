"""How a run shows itself: a bar on a terminal, one line an evaluation elsewhere."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

from scalerl.display import Display
from scalerl.train import Progress

STEPS = [
    Progress(0, 0.0, 0.1, 0.0, evaluated=True),
    Progress(1, 0.01, 0.1, 0.5, evaluated=False),
    Progress(2, 0.02, 0.4, 1.0, evaluated=True),
]


def test_plain_lines_say_step_pass_rate_gpu_hours_and_time_left():
    stream = io.StringIO()
    with Display(stream) as display:
        for progress in STEPS:
            display(progress)
    first, last = stream.getvalue().splitlines()
    assert first == "step 0  pass rate 0.100  0.0000 GPU-hours  started"
    assert last == "step 2  pass rate 0.400  0.0200 GPU-hours  done"
    assert "\r" not in stream.getvalue()


def test_what_a_run_decides_is_a_line_of_its_own():
    stream = io.StringIO()
    with Display(stream) as display:
        display(Progress(2, 0.02, 0.4, 1.0, evaluated=False, note="stopped at step 2"))
    assert stream.getvalue() == "stopped at step 2\n"


def test_time_left_is_what_the_rate_so_far_says(monkeypatch):
    clock = iter([100.0, 220.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    with Display(stream) as display:
        display(Progress(0, 0.0, 0.2, 0.0, evaluated=True))
        display(Progress(5, 0.01, 0.2, 0.25, evaluated=True))
    assert "6.0 min left" in stream.getvalue()  # 2 minutes for a quarter


def test_time_left_of_a_run_that_goes_on_leaves_out_what_was_done_before(monkeypatch):
    clock = iter([100.0, 160.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    with Display(stream) as display:
        display(Progress(8, 0.01, 0.2, 0.8, evaluated=False, note="going on from step 8"))
        display(Progress(8, 0.01, 0.2, 0.8, evaluated=True))
        display(Progress(9, 0.02, 0.2, 0.9, evaluated=True))
    lines = stream.getvalue().splitlines()
    assert lines[1].endswith("started") and lines[2].endswith(" 1.0 min left")  # 1 minute for a tenth


def test_the_bar_of_a_run_that_goes_on_counts_from_where_it_was():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    with Display(Terminal()) as display:
        display(Progress(8, 0.01, 0.2, 0.8, evaluated=False))
        display(Progress(9, 0.02, 0.2, 0.9, evaluated=False))
        shown = display._bar.format_dict
    assert (shown["initial"], shown["n"]) == (0.8, 0.9)


def test_on_a_terminal_a_bar_is_redrawn_in_place():
    """A real pseudo-terminal and a process of its own, as a person would start it."""
    code = (
        "from scalerl.display import Display\nfrom scalerl.train import Progress\nimport time\n"
        "with Display() as display:\n"
        "    for n in range(11):\n"
        "        display(Progress(n, n / 100, n / 20, n / 10, evaluated=n % 5 == 0)); time.sleep(.05)\n"
        "    display(Progress(10, .1, .5, 1., evaluated=False, note='stopped at step 10'))\n"
    )
    leader, follower = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stderr=follower) as process:
        process.wait(timeout=60)
    os.close(follower)
    shown = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # how Linux says that the other side has closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(leader)
    text = shown.decode()
    assert text.count("\r") > 3 and "100%" in text
    assert "stopped at step 10\r\n" in text
    assert "step 10  pass rate 0.500  0.1000 GPU-hours" in text
