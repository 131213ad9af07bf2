"""The wheel: small, whole, and at home where nothing is installed but what an extra asks for.

The environments are made of links to what is installed here, found by following the requirements of the wheel, so that
a package that is used and not asked for is missing as it would be from a fresh install.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import matplotlib
import pytest
from packaging.requirements import Requirement

import scalerl

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
LIMIT_MB = 2.0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Make an environment with the wheel, what it requires, and what an extra adds; return its folder of commands."""
    made: dict[str, Path] = {}

    def make(extra: str) -> Path:
        if extra not in made:
            folder = tmp_path_factory.mktemp(extra or "base") / "venv"
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
            (site,) = folder.glob("lib/python*/site-packages")
            for name in _top_level(_required(wheel, extra)):
                (site / name.name).symlink_to(name)
            here = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--quiet"]
            subprocess.run(
                [*here, "--no-deps", "--no-index", "--no-compile", str(wheel)], check=True, capture_output=True
            )
            made[extra] = folder / "bin"
        return made[extra]

    return make


def _required(wheel: Path, extra: str) -> dict[str, Distribution]:
    """The distributions that an install of the wheel with an extra would bring, by their requirements."""
    with zipfile.ZipFile(wheel) as file:
        (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        lines = file.read(metadata).decode().splitlines()
    wanted = [(Requirement(line.partition(": ")[2]), {extra}) for line in lines if line.startswith("Requires-Dist: ")]
    found: dict[str, Distribution] = {}
    done = set()
    while wanted:
        need, extras = wanted.pop()
        if need.marker is not None and not any(need.marker.evaluate({"extra": name}) for name in {"", *extras}):
            continue
        key = need.name.lower().replace("_", "-")
        if (key, *sorted(need.extras)) in done:
            continue
        done.add((key, *sorted(need.extras)))
        found[key] = distribution(need.name)
        wanted += [(Requirement(text), set(need.extras)) for text in found[key].requires or []]
    return found


def _top_level(found: dict[str, Distribution]) -> set[Path]:
    names = set()
    for dist in found.values():
        for file in dist.files or ():
            if file.parts[0] not in {"..", "__pycache__"}:
                names.add(Path(str(dist.locate_file(file.parts[0]))))
    return names


def run(command: list[object], cwd: Path, code: int | tuple[int, ...] = 0) -> str:
    """Run in an environment that knows nothing of this one; return both streams."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    env["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # or fonts are listed anew, for seconds
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode in (code if isinstance(code, tuple) else (code,)), done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_wheel_is_small_and_holds_the_packages_the_recipes_and_the_checkpoint_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    ours = {path for package in ("scalerl", "analysis") for path in (ROOT / package).rglob("*.*")}
    ours = {str(path.relative_to(ROOT)) for path in ours if path.is_file() and "__pycache__" not in path.parts}
    checkpoint = {f"scalerl/data/checkpoints/chain/{path.name}" for path in (ROOT / "data/checkpoints/chain").iterdir()}
    assert {name for name in names if ".dist-info/" not in name} == ours | checkpoint
    assert any(name.startswith("scalerl/recipes/") for name in names) and "analysis/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < LIMIT_MB * 1e6


def test_the_base_analyses_without_the_trainer_and_says_what_is_missing(installed, tmp_path):
    scalerl_, python = installed("") / "scalerl", installed("") / "python"
    assert run([scalerl_, "--version"], tmp_path) == f"scalerl {scalerl.__version__}\n"
    run([python, "-c", "import torch"], tmp_path, code=1)
    assert "C_mid" in run([scalerl_, "fit", ROOT / "data/runs"], tmp_path)
    assert "scalerl" in run([scalerl_, "completion", "bash"], tmp_path)
    told = run([scalerl_, "demo"], tmp_path, code=2)
    assert told.count("\n") == 1 and "pip install 'scalerl[train]'" in told
    assert [path for path in tmp_path.iterdir() if path.name[0] != "."] == []
    every = "import analysis\nfor name in analysis.__all__: getattr(analysis, name)\nprint(analysis.__file__)"
    assert str(installed("")).removesuffix("/bin") in run([python, "-c", every], tmp_path)


def test_the_demo_from_end_to_end_in_an_empty_folder(installed, tmp_path):
    """The real thing, six updates a recipe, from the checkpoint that ships."""
    demo = [installed("train") / "scalerl", "demo", "--output", "demo"]
    told = run([*demo, "--seed", "7", "--steps", "6"], tmp_path, code=(0, 1))
    assert "scalerl/seed7" in told and "grpo/seed7" in told and "not tested" in told and "Traceback" not in told
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {
        "prompts",
        "scalerl",
        "grpo",
        "curves.png",
        "report.html",
    }
    report = (tmp_path / "demo/report.html").read_text()
    assert "grpo" in report and "<script" not in report
    shipped = json.loads((ROOT / "data/runs/grpo/run.json").read_text())["checkpoint"]["sha256"]
    assert json.loads((tmp_path / "demo/grpo/run.json").read_text())["checkpoint"]["sha256"] == shipped
    assert "exists already" in run(demo, tmp_path, code=2)


def test_the_trainer_runs_without_what_only_tests_and_other_extras_need(installed, tmp_path):
    python = installed("train") / "python"
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "scalerl").rglob("*.py")]
    names = [name.removesuffix(".__init__") for name in names]
    code = f"import importlib\nfor name in {sorted(names)!r}: importlib.import_module(name)\nprint('done')"
    assert run([python, "-W", "ignore", "-c", code], tmp_path) == "done\n"


def test_the_notebooks_have_what_they_need(installed, tmp_path):
    code = "import analysis, ipykernel.kernelapp, jupyterlab.labapp; analysis.plot_curves"
    run([installed("notebook") / "python", "-W", "ignore", "-c", code], tmp_path)
