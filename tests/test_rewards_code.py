"""Programs run where they can do no harm: whatever they try costs that one score, and is no error."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from scalerl.rewards import code, jail, sandbox, system
from scalerl.rewards.hand import Spec
from scalerl.rewards.pool import Pool
from scalerl.runlog import UserError

pytestmark = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
# Asked of another program: a sandbox that refuses since it is broken must not skip its own tests.
ASKED = ["unshare", "-Urmpnf", "mount", "-t", "tmpfs", "x", "/mnt"]  # user as root, mount, pid, net; fork
ALLOWED = bool(shutil.which("unshare")) and subprocess.run(ASKED, check=False, capture_output=True).returncode == 0
ALLOWED = ALLOWED and platform.machine() in jail.CALLS
needs_namespaces = pytest.mark.skipif(not ALLOWED, reason="user namespaces are not allowed here")

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
    own = Path("/tmp/scalerl-was-here")  # noqa: S108 - a program has a folder of this name, and it is not ours
    (score,) = pool.score([({"tests": TESTS}, block(f"open({str(own)!r}, 'w').write('x')\n" + ADDS))])
    assert score == (1.0, None) and not own.exists()
    target = tmp_path / "written"
    for path in (target, Path.home() / "scalerl-was-here", Path("/dev/shm/scalerl")):  # noqa: S108
        (score,) = pool.score([({"tests": TESTS}, block(f"open({str(path)!r}, 'w').write('x')\n" + ADDS))])
        assert score == (0.0, None) and not path.exists()


def says(program: str) -> str:
    """Return what a program says in the sandbox; it must go well."""
    ran = sandbox.run(program, b"", wall_s=30.0)
    assert ran.refused is None and ran.finished, (ran, program)
    return ran.output.decode().strip()


TRIES = """
import ctypes, os, socket
def tries(name, function, *arguments):
    try: found = function(*arguments)
    except OSError: return
    print(name)
    return found
c = ctypes.CDLL(None, use_errno=True)
def call(*numbers):
    pointers = [ctypes.c_long(number) if isinstance(number, int) else number for number in numbers]
    if (found := c.syscall(*pointers)) < 0: raise OSError(ctypes.get_errno(), "")
    if found == 0: os._exit(0)  # a child
"""


@needs_namespaces
def test_no_socket_or_pipe_of_others():
    with tempfile.TemporaryDirectory() as folder:  # pytest's is too long a path for a socket
        path, pipe = str(Path(folder) / "s"), str(Path(folder) / "p")
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind(path)
            server.listen()
            client.connect(path)  # it works from here
            asks = f"tries('unix', lambda: socket.socket(socket.AF_UNIX).connect({path!r}))\n"
            os.mkfifo(pipe)
            reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))  # and so does this
            asks += f"tries('pipe', os.open, {pipe!r}, os.O_WRONLY | os.O_NONBLOCK)\n"
            asks += "for family in (1, 2, 10, 16, 17, 38, 40): tries(family, socket.socket, family, socket.SOCK_RAW)\n"
            assert says(TRIES + asks + "socket.socketpair(); os.pipe()") == ""
            os.close(reader)


@needs_namespaces
def test_no_data_of_others(tmp_path):
    data = tmp_path / "train.json"
    data.write_text('[{"tests": "secret"}]')
    paths = [str(data), str(Path(__file__).resolve()), sandbox.__file__, "/etc/shadow", "/etc/passwd"]
    asks = f"for path in {paths!r}: tries(path, os.open, path, os.O_RDONLY)\n"
    asks += "for path in ('/run', '/proc', '/sys', '/dev/shm'): tries(path, os.listdir, path)\n"
    assert says(TRIES + asks) == ""
    shown = {"program.py"}
    if Path(sys.prefix).parts[1] == "tmp":  # the interpreter must be there to run, and nothing beside it
        shown.add(Path(sys.prefix).parts[2])
    assert set(json.loads(says("import json, os\nprint(json.dumps(os.listdir('/tmp')))"))) == shown


@needs_namespaces
def test_no_part_of_the_kernel_and_no_device_can_be_opened_for_writing():
    paths = ["/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger", "/proc/1/mem"]
    paths += [str(path) for path in Path("/dev").iterdir() if not path.is_dir()]
    asks = f"paths = {paths!r}\n"
    asks += "for path in paths: tries(path, lambda: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)))\n"
    assert set(says(TRIES + asks).split()) <= {"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"}
    assert says("import os\nprint(*sorted(os.listdir('/dev')))") == "null random urandom zero"
    assert says("print(len(open('/dev/zero', 'rb').read(3)), open('/dev/null', 'w').write('x'))") == "3 1"


@needs_namespaces
def test_what_is_shown_cannot_be_changed():
    asks = "for path in (os.__file__, '/usr/bin/env', '/etc/ld.so.cache'):\n  tries(path, os.open, path, os.O_WRONLY)\n"
    asks += "  tries(path, os.chmod, path, 0o777); tries(path, os.utime, path)\n"
    asks += "for path in ('/', '/usr', os.path.dirname(os.__file__)): tries(path, os.mkdir, path + '/scalerl')\n"
    asks += "for path in ('/', '/usr/bin', os.__file__, '/dev/null'):\n"
    asks += "  if not os.statvfs(path).f_flag & os.ST_RDONLY: print('may be written', path)\n"
    asks += "  if not os.statvfs(path).f_flag & os.ST_NOSUID: print('set-user-id works', path)\n"
    asks += "  if path[:2] != '/d' and not os.statvfs(path).f_flag & os.ST_NODEV: print('devices work', path)\n"
    assert says(TRIES + asks) == ""


@needs_namespaces
def test_no_privileges_and_no_way_to_them():
    ids = "os.getresuid() + os.getresgid() + tuple(os.getgroups())" if os.getuid() == 0 else "os.getresuid()"
    asks = f"print(0 in {ids}, any(c.prctl(23, n, 0, 0, 0) for n in range(41)))\n"
    asks += "print(c.prctl(39, 0, 0, 0, 0), c.prctl(21, 0, 0, 0, 0))\n"
    assert says(TRIES + asks).splitlines() == ["False False", "1 2"]  # no capability; no new privileges, a filter
    user = f"{system.CLONE_NEWUSER:#x}"
    asks = "import platform\nclone = {'x86_64': 56, 'aarch64': 220}[platform.machine()]\n"
    asks += f"tries('clone', call, clone, {user} | 17, 0, 0, 0, 0)\n"
    asks += f"arguments = (ctypes.c_uint64 * 8)({user}, 0, 0, 0, 17)\n"
    asks += "tries('clone3', call, 435, ctypes.byref(arguments), 64)\n"
    asks += "if clone == 56: tries('x32', call, 0x40000000 + 39)\n"
    asks += f"tries('unshare', lambda: c.unshare({user}) and call(-1))\n"
    assert says(TRIES + asks) == ""


@needs_namespaces
def test_no_memory_that_nobody_counts():
    asks = "tries('memfd', os.memfd_create, 'x')\n"
    asks += "tries('shm', lambda: c.shmget(0, 4096, 0o1600) < 0 and call(-1))\n"
    asks += "tries('messages', lambda: c.msgget(0, 0o1600) < 0 and call(-1))\n"
    asks += "for n in range(5000):\n  try: open(str(n), 'w').close()\n  except OSError: break\n"
    asks += "else: print('files')\n"
    assert says(TRIES + asks) == ""


@needs_namespaces
def test_processes_files_and_memory_on_disk_are_limited():
    asks = "import threading, time\nfiles = []\nwhile len(files) < 1000:\n"
    asks += "  try: files.append(os.open('/dev/null', 0))\n  except OSError: break\n"
    asks += "print(len(files) < 64, os.statvfs('.').f_blocks * os.statvfs('.').f_frsize == 64 << 20)\n"
    asks += "count = 0\nwhile count < 1000:\n"
    asks += "  try: threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\n"
    asks += "  except RuntimeError: break\n  count += 1\n"
    asks += "print(count < 64)\n"
    assert says(TRIES + asks).splitlines() == ["True True", "True"]


HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_of_calls_are_those_of_the_kernel(machine):
    if not HEADERS[machine].exists():
        pytest.skip(f"{HEADERS[machine]} is not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text())
    numbers = {name: int(number) for name, number in found}
    ours = {"clone": jail.CLONE[machine], "pivot_root": jail.PIVOT_ROOT[machine], "clone3": jail.CLONE3}
    ours |= {"mount_setattr": jail.SYS_MOUNT_SETATTR, **jail.CALLS[machine]}
    assert ours == {name: numbers.get(name) for name in ours}


@needs_namespaces
def test_packages_processes_and_threads_work():
    program = """
import asyncio, os, subprocess, sys, tempfile, threading, numpy
print(numpy.arange(3).sum(), sys.prefix)
asyncio.run(asyncio.sleep(0))
with tempfile.TemporaryFile() as file: file.write(b"x")
print(subprocess.run(["/bin/echo", "x"], capture_output=True, text=True, check=True).stdout.strip())
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
"""
    assert says(program).splitlines() == [f"3 {sys.prefix}", "x", "thread"]


@needs_namespaces
def test_a_python_below_the_temporary_folder_is_seen(monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "module.py").write_text("x = 3")
    module = str(tmp_path / "lib" / "module.py")
    shown = [*jail.visible(), str(tmp_path / "lib")]
    monkeypatch.setattr(jail, "visible", lambda: shown)
    asks = f"print(open({module!r}).read())\ntries('written', open, {module!r}, 'w')"
    assert says(TRIES + asks) == "x = 3"


@needs_namespaces
def test_a_python_that_does_not_start_is_found_before_the_first_program(monkeypatch):
    monkeypatch.setattr(jail, "visible", list)
    with pytest.raises(UserError, match=r"reward: code: .*; allow user namespaces"):
        code.prepare(allow_network=False)


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
    assert code.score(item, f"```py\n{ADDS}```\nIt prints\n```\n5\n```")
    assert not code.score(item, f"```py\n{ADDS}```\nor\n```python\nprint(0)\n```")
    assert not code.score(item, ADDS)  # no block


@pytest.mark.parametrize(
    ("marks", "taken"),
    [
        (["python", "python"], 1),
        (["py", ""], 0),
        (["Python3 title=a", "text", "cpp"], 0),
        (["{python}", "output"], 0),
        (["", ""], 1),
        (["", "text"], 0),
        (["text", "code"], 1),
        (["pythonic", ""], 1),
        ([], None),
    ],
)
def test_the_last_block_that_says_python_is_taken_else_the_last_that_says_nothing(marks, taken):
    text = "".join(f"Block {n}:\n```{mark}\nprint({n})\n```\n" for n, mark in enumerate(marks))
    assert code.last_block(text) == (None if taken is None else f"print({taken})\n")


@pytest.mark.parametrize("tests", [None, "", [], [1], [{"input": "1"}], {"input": "1", "output": "2"}])
def test_an_item_without_tests_is_an_error_of_the_item(tests):
    with pytest.raises(ValueError, match="the item has no tests"):
        code.score({"tests": tests}, block(ADDS))


def test_where_the_kernel_forbids_it_programs_run_only_if_asked_for(monkeypatch):
    def forbidden(flags):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(system, "unshare", forbidden)
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
