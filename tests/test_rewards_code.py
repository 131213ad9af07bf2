"""Programs run where they can do no harm: whatever they try costs that one score, and is no error."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from scalerl.rewards import code, sandbox, system
from scalerl.rewards.hand import Spec
from scalerl.rewards.pool import Pool
from scalerl.runlog import UserError

pytestmark = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
REFUSED = sandbox.run("", b"", wall_s=30.0).refused
needs_namespaces = pytest.mark.skipif(REFUSED is not None, reason=f"user namespaces are not allowed here: {REFUSED}")

ADDS = "a, b = map(int, input().split())\nprint(a + b)\n"
TESTS = [{"input": "2 3\n", "output": "5\n"}, {"input": "1 1\n", "output": "2"}]


def block(program: str) -> str:
    return f"I add them.</think> Here it is:\n```python\n{program}\n```\nDone."


@pytest.fixture(scope="module")
def pool():
    made = Pool(Spec("code", "chain", ".", "</think>", 4.0, 1.0, False), workers=1)
    yield made
    made.close()


@needs_namespaces
@pytest.mark.parametrize(
    ("program", "right"),
    [
        (ADDS, True),
        ("print(5)", False),
        ("print(", False),
        (ADDS + "raise SystemExit(1)", False),
        ("import os\nos._exit(0)", False),
        ("while True: pass", False),
        ("while True: print('x' * 1000)", False),
        ("x = []\nwhile True: x.append(bytearray(10**8))", False),
        ("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", False),
        ("import subprocess\nsubprocess.Popen(['/bin/sleep', '986'], start_new_session=True)\n" + ADDS, True),
        ("open('mine', 'w').write('x')\n" + ADDS, True),
        ("f = open('mine', 'wb')\nwhile True: f.write(b'x' * 10**6)", False),
        ("import os\nassert set(os.environ) <= {'LC_CTYPE'}, os.environ\n" + ADDS, True),
        ("import os\nfor n in range(2, 400):\n  try: os.kill(n, 9)\n  except OSError: pass\n" + ADDS, True),
    ],
    ids=[
        "right", "wrong", "syntax", "code 1", "no output", "endless", "floods", "memory", "fork bomb", "leaves a child",
        "own file", "fills the disk", "empty environment", "kills",
    ],
)  # fmt: skip
def test_a_program_costs_its_own_score_at_most(pool, program, right):
    hostile, next_one = pool.score([({"tests": TESTS}, block(program)), ({"tests": TESTS}, block(ADDS))])
    assert hostile.value == right and (hostile.error is None or "fork" in program)  # a bomb is slow to clear away
    assert next_one.right
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"sleep\x00986" in _read(p)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@needs_namespaces
def test_no_network_and_no_files_of_others(pool, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        asks = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\n"
        socket.create_connection(("127.0.0.1", port), 2).close()  # it works from here
        (score,) = pool.score([({"tests": TESTS}, block(asks + ADDS))])
        assert score == (0.0, None)
    target = tmp_path / "written"
    for path in (target, Path.home() / "scalerl-was-here", Path("/tmp/scalerl-was-here"), Path("/dev/shm/scalerl")):  # noqa: S108
        (score,) = pool.score([({"tests": TESTS}, block(f"open({str(path)!r}, 'w').write('x')\n" + ADDS))])
        assert score == (0.0, None) and not path.exists()


@needs_namespaces
def test_assertions_as_tests(pool):
    tests = "assert double(2) == 4\nassert double(-1) == -2"
    texts = ["def double(x): return 2 * x", "def double(x): return 4", "raise SystemExit(0)", "import os; os._exit(0)"]
    scores = pool.score([({"tests": tests}, block(text)) for text in texts])
    assert [score.right for score in scores] == [True, False, False, False]


@needs_namespaces
def test_tests_as_json_text_the_last_block_and_none():
    code.prepare(time_limit_s=10)
    item = {"tests": '[{"input": "2 3", "output": "5  \\n\\n"}]'}
    assert code.score(item, f"```\nprint(0)\n```\nbetter:\n```py\n{ADDS}```")
    assert not code.score(item, f"```py\n{ADDS}```\nor\n```\nprint(0)\n```")
    assert not code.score(item, ADDS)  # no block


@pytest.mark.parametrize("tests", [None, "", [], [1], [{"input": "1"}], {"input": "1", "output": "2"}])
def test_an_item_without_tests_is_an_error_of_the_item(tests):
    with pytest.raises(ValueError, match="the item has no tests"):
        code.score({"tests": tests}, block(ADDS))


def test_where_the_kernel_forbids_it_programs_run_only_if_asked_for(monkeypatch):
    def forbidden(flags):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(system, "unshare_user", forbidden)
    with pytest.raises(UserError, match=r"reward: code: this system does not let .* reward_allow_network: true"):
        code.prepare(allow_network=False)
    code.prepare(allow_network=True, time_limit_s=2.0)
    before = system.family(os.getpid(), 1.0)
    try:
        assert code.score({"tests": TESTS}, block(ADDS))
        began = time.monotonic()
        left = (
            "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep(985)\n  os._exit(0)\n"
        )
        assert not code.score({"tests": TESTS}, block(left + "time.sleep(985)"))
        assert time.monotonic() - began < 10
        assert set(system.family(os.getpid(), 1.0)) <= set(before)  # nothing is left of it
    finally:
        monkeypatch.undo()
        code.prepare(allow_network=True)
