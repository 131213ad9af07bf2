"""Two nodes: a Ray cluster over two network namespaces with addresses of their own, made and taken down here.

A run trains over both, waits out a link that is cut for 20 s, and goes on when the second node is lost. It needs root,
and minutes, since Ray takes its time to notice that a node is gone: ask for it with SCALERL_TWO_NODES=1.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.ray_kills import faults, settings, steps_of
from scalerl.data import prepare
from scalerl.runlog import read_log
from tests.test_worker import wait_until

if os.environ.get("SCALERL_TWO_NODES") != "1":
    pytest.skip("takes minutes and needs root: SCALERL_TWO_NODES=1", allow_module_level=True)

pytestmark = pytest.mark.slow
FIRST, SECOND, PORT = "10.213.77.1", "10.213.77.2", 6399
CUT_S, STARTS = 20.0, 5
MINUTES = 240.0  # for what Ray takes its time with


class Nodes:
    """Two namespaces, a link between them, and how to run something in one of them."""

    def __init__(self, folder: Path) -> None:
        self.names = [f"scalerl{os.getpid()}{end}" for end in "ab"]
        self.ends = [f"sr{os.getpid() % 100000}{end}" for end in "ab"]
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.env |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ADDRESS": f"{FIRST}:{PORT}",
        }

    def ip(self, *arguments: str, check: bool = True) -> None:
        subprocess.run(["ip", *arguments], check=check, capture_output=True)

    def make(self) -> None:
        for name in self.names:
            self.ip("netns", "add", name)
            self.ip("-n", name, "link", "set", "lo", "up")
        first, second = self.ends
        self.ip(
            "link", "add", first, "netns", self.names[0], "type", "veth", "peer", "name", second, "netns", self.names[1]
        )
        for name, end, address in zip(self.names, self.ends, (FIRST, SECOND), strict=True):
            self.ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            self.ip("-n", name, "link", "set", end, "up")

    def link(self, state: str) -> None:
        """Cut the link, or mend it, at the second node's end: the first one still has its own."""
        self.ip("-n", self.names[1], "link", "set", self.ends[1], state)

    def start(self, node: int, command: list[str]) -> subprocess.Popen[bytes]:
        output = (self.folder / f"node-{node}.txt").open("ab")
        inside = ["ip", "netns", "exec", self.names[node], *command]
        with output:
            process = subprocess.Popen(inside, env=self.env, stdout=output, stderr=subprocess.STDOUT)
        self.started.append(process)
        return process

    def join(self, node: int, options: list[str]) -> subprocess.Popen[bytes]:
        """Start Ray on a node; on a busy machine it may give up, and is started again."""
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats", *options]
        command += ["--object-store-memory=134217728", "--num-gpus=0", "--include-log-monitor=false", "--no-monitor"]
        said = self.folder / f"node-{node}.txt"
        for _ in range(STARTS):
            process = self.start(node, command)
            wait_until(lambda p=process: p.poll() is not None or b"Ray runtime started" in said.read_bytes(), MINUTES)
            if process.poll() is None:
                return process
            self.lose(node)
        raise AssertionError(self.told())

    def told(self) -> str:
        return "".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("node-*.txt")))

    def pids(self, node: int) -> list[int]:
        found = subprocess.run(["ip", "netns", "pids", self.names[node]], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    def actors(self, node: int) -> int:
        """How many actors generate on a node."""
        commands = [Path(f"/proc/{pid}/cmdline") for pid in self.pids(node)]
        return sum(path.read_bytes().startswith(b"ray::Actor") for path in commands if path.exists())

    def lose(self, node: int) -> None:
        """End all that runs on a node, at once."""
        for pid in self.pids(node):
            os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        for node in range(len(self.names)):
            self.lose(node)
        for process in self.started:
            process.wait(MINUTES)
        for name in self.names:
            self.ip("netns", "delete", name, check=False)


@pytest.fixture
def nodes(tmp_path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path)
    try:
        nodes.make()
    except (OSError, subprocess.CalledProcessError) as error:
        nodes.remove()
        pytest.skip(f"no network namespaces can be made here: {error}")
    yield nodes
    nodes.remove()


def test_a_run_over_two_nodes_survives_a_cut_of_20_s_and_the_loss_of_a_node(nodes, tmp_path):
    prepare("chain", str(tmp_path), sizes=(240, 8, 8))
    # Two CPUs on the first: after the loss of the second both generators have a place there.
    head = nodes.join(0, ["--head", f"--node-ip-address={FIRST}", f"--port={PORT}", "--num-cpus=2",
                          "--include-dashboard=false"])  # fmt: skip
    other = nodes.join(1, [f"--address={FIRST}:{PORT}", f"--node-ip-address={SECOND}", "--num-cpus=1"])
    run = tmp_path / "run"
    command = [sys.executable, "-m", "scalerl.cli", "train", "--config", "scalerl", "--config", "demo"]
    command += [part for one in settings(2) for part in ("--set", one)]
    command += ["--train-data", str(tmp_path / "train.json"), "--eval-data", str(tmp_path / "eval.json")]
    trainer = nodes.start(0, [*command, "--output-dir", str(run)])

    def updates(more: int) -> None:
        before = len(steps_of(run))
        wait_until(lambda: trainer.poll() is not None or len(steps_of(run)) >= before + more, MINUTES)
        assert trainer.poll() is None, nodes.told()

    updates(4)
    assert (nodes.actors(0), nodes.actors(1)) == (1, 1), nodes.told()
    nodes.link("down")
    time.sleep(CUT_S)
    nodes.link("up")
    updates(12)
    assert head.poll() is None and other.poll() is None
    nodes.link("down")  # first: nothing of the node's end is to be heard
    nodes.lose(1)
    updates(12)
    wait_until(lambda: nodes.actors(0) == 2, MINUTES)  # meanwhile the one that was left has generated all
    assert nodes.actors(1) == 0
    updates(4)
    trainer.send_signal(signal.SIGINT)
    trainer.wait(MINUTES)
    rows = read_log(run / "log.jsonl").rows
    assert faults(run, attempts=1) == []
    replaced = [row for row in rows if row.get("event") == "generator_replaced"]
    assert any(SECOND in row["name"] for row in replaced) and rows[-1]["event"] == "interrupted"
