"""Move the slider of notebook 02 in a real browser on a running JupyterLab, and see figure and text follow.

    python -m benchmarks.slider_in_browser [--pictures FOLDER] [--presses 6]

Starts JupyterLab on a copy of the notebook and a headless Chromium, runs the cells, presses the right arrow key on the
slider and prints after how long the text and the figure were others. Ends with 1 if one of them stays as it was. Needs
the extra `notebook` and a chromium; talks to it over its own protocol, by a package that JupyterLab brings with it.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = "02_what_can_the_data_say.ipynb"
TOKEN = "slider"  # noqa: S105 -- of a server on this machine, for as long as this runs
PATIENCE_S = 300.0
PANEL = "[...(window.jupyterapp?.shell.widgets('main') ?? [])][0]"
# What the page shows: the slider's own words, the text below it, and a piece of the picture's bytes.
STATE = """(() => {
  const box = [...document.querySelectorAll('.jp-OutputArea-output .widget-vbox')][0];
  const handle = box && box.querySelector('.noUi-handle'), image = box && box.querySelector('img');
  if (!handle || !image || !image.complete || !image.naturalWidth) return null;
  return {reads: box.querySelector('.widget-readout').textContent, text: box.querySelector('pre').textContent,
          picture: image.src};
})()"""
DIGEST = """(async () => {
  const bytes = await (await fetch(document.querySelector('.jp-OutputArea-output .widget-vbox img').src)).arrayBuffer();
  const hash = await crypto.subtle.digest('SHA-256', bytes);
  return [...new Uint8Array(hash)].map(b => b.toString(16).padStart(2, '0')).join('');
})()"""


class Page:
    """One tab of a browser, asked over the DevTools protocol."""

    def __init__(self, address: str) -> None:
        import websocket

        self.socket = websocket.create_connection(address, timeout=PATIENCE_S)
        self.number = 0

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.number:
            pass  # events
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def value(self, script: str) -> Any:
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", "a script failed"))
        return found["result"].get("value")

    def press(self, key: str) -> None:
        code = {"ArrowRight": 39, "ArrowLeft": 37}[key]
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))


def until(found: Callable[[], Any], what: str, patience_s: float = PATIENCE_S, step_s: float = 0.02) -> Any:
    """Return the first answer that is not nothing."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if (answer := found()) is not None:
            return answer
        time.sleep(step_s)
    raise TimeoutError(f"{what}: not there after {patience_s:.0f} s")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="move the slider of notebook 02 in a browser")
    parser.add_argument("--pictures", type=Path, help="folder for screenshots before and after")
    parser.add_argument("--presses", type=int, default=6)
    args = parser.parse_args(argv)
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        print("no chromium on this machine")
        return 2
    started: list[subprocess.Popen[bytes]] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a kill ends what was started, too
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            return _drive(Path(folder), browser, args, started)
        finally:
            for process in started:
                process.terminate()
                process.wait()


def _drive(folder: Path, browser: str, args: argparse.Namespace, started: list[subprocess.Popen[bytes]]) -> int:
    shutil.copy(ROOT / "notebooks" / NOTEBOOK, folder)
    (folder / "data").symlink_to(ROOT / "data")
    port, quiet = free_port(), {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    lab = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    lab += [f"--port={port}", f"--IdentityProvider.token={TOKEN}", f"--notebook-dir={folder}"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "JUPYTERLAB_SETTINGS_DIR": str(folder / "lab-settings")}
    started.append(subprocess.Popen(lab, env=env, **quiet))
    profile = folder / "profile"
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1100"]
    command += ["--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={profile}", "about:blank"]
    started.append(subprocess.Popen(command, **quiet))
    page = Page(until(lambda: _address(profile), "the browser"))
    until(lambda: _answers(f"http://127.0.0.1:{port}/api?token={TOKEN}"), "JupyterLab")
    page.ask("Page.enable")
    page.ask("Page.navigate", url=f"http://127.0.0.1:{port}/lab/tree/{NOTEBOOK}?token={TOKEN}")
    idle = f"{PANEL}?.sessionContext?.session?.kernel?.status === 'idle' ? true : null"
    until(lambda: page.value(idle), "the notebook's kernel", step_s=0.5)
    page.value(f"window.jupyterapp.shell.activateById({PANEL}.id)")
    page.value("window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)")
    seen = until(lambda: page.value(STATE), "the slider", step_s=0.2)
    page.value(
        "document.querySelector('.widget-vbox').scrollIntoView(); document.querySelector('.noUi-handle').focus()"
    )
    digest, moved = page.value(DIGEST), True
    print(f"{seen['reads']}\n{seen['text']}\n")
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
        page.screenshot(args.pictures / "slider-before.png")
    for _ in range(args.presses):
        begun = time.monotonic()
        page.press("ArrowRight")
        after = until(lambda old=seen: _other(page.value(STATE), old), "another figure and text", 60.0)
        took, other = time.monotonic() - begun, page.value(DIGEST)
        moved &= other != digest
        print(f"after {took:.2f} s: {after['text'].splitlines()[1]}{'' if other != digest else '   SAME PICTURE'}")
        seen, digest = after, other
    if args.pictures:
        page.screenshot(args.pictures / "slider-after.png")
    return 0 if moved else 1


def _other(now: dict[str, str] | None, old: dict[str, str]) -> dict[str, str] | None:
    return now if now is not None and all(now[name] != old[name] for name in old) else None


def _address(profile: Path) -> str | None:
    """Where the browser's first tab listens, once it does."""
    try:
        port = int((profile / "DevToolsActivePort").read_text(encoding="utf-8").split()[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
    except (OSError, ValueError, IndexError):
        return None
    return str(tabs[0]["webSocketDebuggerUrl"]) if tabs else None


def _answers(url: str) -> bool | None:
    try:
        with urllib.request.urlopen(url):  # noqa: S310
            return True
    except OSError:
        return None


if __name__ == "__main__":
    sys.exit(main())
