"""The house: who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "pandas", "scipy", "lmfit", "matplotlib", "seaborn", "pydantic")


def imports(path: Path) -> set[str]:
    """Modules named anywhere in a file, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert len(found) > 5
    return found


def test_analysis_knows_of_scalerl_only_the_run_log_and_the_version():
    for path in files("analysis"):
        known = {name for name in imports(path) if name.split(".")[0] == "scalerl"}
        assert all(name == "scalerl" or name.startswith("scalerl.runlog") for name in known), (path, known)


FLOORS = [
    "amounts",
    "findings",
    "schema",
    "readers",
    "curves",
    "posteriors",
    "fits",
    "pooled",
    "predict",
    "comparisons",
    "budgets",
    "checks",
    "plots",
    "reports",
    "commands",
    "cli",
]
# A result draws itself and `fit(by=...)` hands over to groups: imported at the call, from a floor above.
UP = {("posteriors", "fits"): {"analysis.fits.tables"}, ("fits", "pooled"): {"pooled.groups", "pooled.grouped"}}


def test_the_floors_of_the_analysis_stand_on_those_below():
    for path in files("analysis"):
        floor = path.stem if path.parent.name == "analysis" else path.parent.name
        if floor == "__init__":
            continue
        assert floor in FLOORS, f"{path}: a new folder; add it to FLOORS in its place"
        for name in imports(path):
            package, *rest = name.split(".")
            if package == "analysis" and rest and rest[0] in FLOORS[FLOORS.index(floor) + 1 :]:
                assert any(known in name for known in UP.get((floor, rest[0]), ())), (path, name)


def test_analysis_needs_no_torch():
    for path in files("analysis"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"torch", "transformers", "pydantic", "yaml"}, path


def test_only_the_command_line_knows_analysis():
    for path in files("scalerl"):
        if path.name != "cli.py" and path.parent.name != "commands":
            assert not any(name.split(".")[0] == "analysis" for name in imports(path)), path


def test_the_run_log_is_standard_library_only():
    for path in (*(ROOT / "scalerl" / "runlog").glob("*.py"), ROOT / "scalerl" / "meter.py"):
        known = imports(path)
        assert {name.split(".")[0] for name in known} - {"scalerl"} <= set(sys.stdlib_module_names), path
        inside = {name for name in known if name.startswith("scalerl")}
        assert all(name.startswith(("scalerl.runlog", "scalerl.meter", "scalerl.mirrors")) for name in inside), path


def test_the_schedule_and_all_that_a_run_keeps_or_watches_besides_tensors_need_no_torch():
    for name in (
        "schedule.py",
        "completions.py",
        "curriculum.py",
        "guards.py",
        "runlog/lost.py",
        "data.py",
        "config.py",
        "controllers.py",
        "modelcard.py",
    ):
        roots = {module.split(".")[0] for module in imports(ROOT / "scalerl" / name)}
        assert not roots & {"torch", "transformers", "safetensors"}, name
    roots = {module.split(".")[0] for module in imports(ROOT / "scalerl" / "schedule.py")}
    assert roots <= set(sys.stdlib_module_names)


def test_help_and_package_imports_load_nothing_heavy():
    for code in (
        "import scalerl.cli, sys; scalerl.cli.make_parser().format_help()",
        "import analysis, scalerl.runlog, sys",
    ):
        probe = f"{code}; print([m for m in {HEAVY!r} if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


def test_a_trainer_on_one_device_loads_nothing_of_what_others_need():
    names = ("ray", "joblib", "scalerl.sharded", "scalerl.shards", "scalerl.raygenerators")
    code = f"import scalerl.start, sys; print([m for m in {names!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_pinned_installs_on_every_python_that_is_promised():
    """One pin that asks for 3.11.5 sends pip on a search without end on 3.11.2."""
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    installed = {
        d.metadata["Name"].lower().replace("_", "-"): d.metadata.get("Requires-Python") for d in distributions()
    }
    assert {"torch", "transformers", "jupyterlab", "nbconvert", "soupsieve"} <= pinned & set(installed)
    for name in pinned & set(installed):
        assert SpecifierSet(installed[name] or "").contains("3.11.0"), name


def cold_cpu_s(*argv: str) -> float:
    """Least CPU time of three cold starts of the command line, children of this process."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    times = []
    for _ in range(3):
        before = spent()
        subprocess.run([sys.executable, "-m", "scalerl.cli", *argv], capture_output=True, check=True)
        times.append(spent() - before)
    return min(times)


def test_help_answers_at_once():
    assert cold_cpu_s("--help") < 0.3


def test_a_shipped_run_is_fitted_within_two_seconds_from_cold():
    assert cold_cpu_s("fit", "data/runs/scalerl") < 2.0
