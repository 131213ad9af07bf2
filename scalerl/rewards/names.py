"""Find the judge that a name stands for. Called in worker processes; nothing of the user's runs elsewhere."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from scalerl.runlog import UserError

BUILT_IN = ("math", "exact", "code", "reasoning-gym")
GROUP = "scalerl.tasks"
GYM = "reasoning-gym"


class Judge(NamedTuple):
    """A function of (item, text), and the end of thinking of a task; None where the text is what follows it."""

    score: Callable[[Mapping[str, Any], str], Any]
    end_of_thinking: str | None = None


def refuse_unknown(reward: str) -> None:
    """Raise `UserError` if a name can stand for no reward; nothing is imported.

    Examples
    --------
    >>> refuse_unknown("maths")
    Traceback (most recent call last):
    scalerl.runlog.UserError: reward: there is no reward 'maths'; there are math, exact, code, reasoning-gym:NAME, ...
    """
    module, mark, name = reward.partition(":")
    own = mark and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])
    if reward in BUILT_IN or (mark and name and module == GYM) or own or reward in plugins():
        return
    known = ", ".join([*BUILT_IN[:-1], f"{GYM}:NAME", "your own as my_module:score", *sorted(plugins())])
    raise UserError(f"reward: there is no reward {reward!r}; there are {known}")


def plugins() -> dict[str, Any]:
    """Return the entry points of installed packages that offer tasks, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load_plugin(name: str) -> Any:
    """Return an instance of the task of an entry point.

    Raises
    ------
    UserError
        If it cannot be loaded.
    """
    try:
        found = plugins()[name].load()
        return found() if inspect.isclass(found) else found
    except Exception as error:
        raise UserError(f"task: {name} cannot be loaded: {type(error).__name__}: {error}") from error


def find_judge(reward: str, path: str, *, allow_network: bool = False, time_limit_s: float = 10.0) -> Judge:
    """Return the judge of a name; imports what it needs.

    Parameters
    ----------
    reward : str
        A built-in, an entry point, or ``module:name``.
    path : str
        Folder in which `module` is looked for first; then come the working directory and the path.

    Raises
    ------
    UserError
        If it cannot be loaded.
    """
    if reward == "math":
        from scalerl.rewards import mathematics

        return Judge(mathematics.score)
    if reward == "exact":
        from scalerl.rewards import exact

        return Judge(exact.score)
    if reward == "code":
        from scalerl.rewards import code

        code.prepare(allow_network=allow_network, time_limit_s=time_limit_s)
        return Judge(code.score)
    if reward.partition(":")[0] == GYM:
        from scalerl.rewards import gym

        return Judge(gym.judge(reward.partition(":")[2] or None))
    if reward in plugins():
        return as_judge(load_plugin(reward), reward)
    return as_judge(_own(reward, path), reward)


def file_of(reward: str | None, path: str) -> Path | None:
    """Return the file of a reward of one's own, as `find_judge` finds it in its folder; nothing is imported.

    None for every other reward, and for a module that is installed.
    """
    module, mark, _ = (reward or "").partition(":")
    if not mark or module == GYM or reward in plugins():
        return None
    return _file_in((Path(path).resolve(), Path.cwd()), module)


def as_judge(found: Any, name: str) -> Judge:
    """Return the judge that a function, a Task or a Task class is.

    Raises
    ------
    UserError
        If it is none of them.
    """
    if inspect.isclass(found):
        try:
            found = found()
        except Exception as error:
            raise UserError(
                f"reward: {name}: cannot be made without arguments: {type(error).__name__}: {error}"
            ) from error
    if callable(getattr(found, "score", None)):
        mark = getattr(found, "end_of_thinking", None)
        return Judge(found.score, mark if isinstance(mark, str) else None)
    if callable(found):
        return Judge(found)
    raise UserError(f"reward: {name}: is {type(found).__name__}, no function of (item, completion) and no Task")


def _own(reward: str, path: str) -> Any:
    module_name, _, attribute = reward.partition(":")
    folders = (Path(path).resolve(), Path.cwd())
    for folder in map(str, reversed(folders)):  # the first ends up first
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
    file = _file_in(folders, module_name)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            if file is not None:
                raise _taken(file, module_name) from error
            raise UserError(
                f"reward: there is no module {module_name}: not in {Path(path).resolve()}, not in the working "
                "directory, and not installed"
            ) from error
        raise UserError(f"reward: {module_name} needs {error.name}, which is not installed") from error
    except BaseException as error:  # whatever a module does when it is imported, SystemExit included
        where = _line_in(error, getattr(error, "filename", None))
        raise UserError(f"reward: {module_name} cannot be imported: {where}{type(error).__name__}: {error}") from error
    if file is not None and Path(getattr(found, "__file__", None) or "").resolve() != file.resolve():
        raise _taken(file, module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            own = [n for n, v in vars(found).items() if inspect.isfunction(v) and v.__module__ == module_name]
            hint = f"; it has {', '.join(own[:8])}" if own and found is sys.modules[module_name] else ""
            raise UserError(f"reward: {module_name} has no {attribute}{hint}")
        found = getattr(found, part)
    return found


def _file_in(folders: Sequence[Path], module_name: str) -> Path | None:
    """Return the file that a module has in the first of these folders that has one, as an import takes it."""
    place = Path(*module_name.split("."))
    files = (folder / name for folder in folders for name in (place / "__init__.py", place.with_suffix(".py")))
    return next((file for file in files if file.is_file()), None)


def _taken(file: Path, module_name: str) -> UserError:
    """Return what to say of a file whose name stands for a module that was imported before."""
    name = module_name.partition(".")[0]
    where = getattr(sys.modules.get(name), "__file__", None)
    return UserError(
        f"reward: {file} cannot be imported: the name {name} is taken by module {name} "
        f"{f'at {where}' if where else 'of Python itself'}; rename yours"
    )


def _line_in(error: BaseException, filename: str | None) -> str:
    """Return where an import failed, as path:line and a blank."""
    if isinstance(error, SyntaxError):
        return f"{filename}:{error.lineno}: "
    trace = error.__traceback__
    where = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if "importlib" not in code.co_filename and code.co_filename != __file__:
            where = f"{code.co_filename}:{trace.tb_lineno}: "
        trace = trace.tb_next
    return where
