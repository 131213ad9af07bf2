"""Write pictures to files that are not there yet.

Promises: no window, no pyplot; an existing file is written over only when forced, and a refusal comes before the work.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scalerl.runlog import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_axes(width: float = 7.0, height: float = 4.6) -> Axes:
    """Return axes on a canvas without a window, outside pyplot's list of open figures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def save(ax: Axes, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write the figure of `ax` as png, svg or pdf.

    Raises
    ------
    UserError
        If the ending is another one, or the file exists and `force` is not set, or it cannot be written.
    """
    path = Path(path)
    refuse_unless_new(path, force, endings=(".png", ".svg", ".pdf"))
    figure: Figure = ax.get_figure(root=True)  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)  # a box is drawn
            figure.savefig(path, dpi=160)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def refuse_unless_new(path: Path, force: bool, *, endings: Sequence[str]) -> None:
    """Check an output path before the work is done, so that a refusal costs nothing.

    Raises
    ------
    UserError
        If it exists (without `force`), its folder does not, or its ending is not one of `endings`.
    """
    if path.suffix.lower() not in endings:
        raise UserError(f"{path}: ends in none of {', '.join(endings)}; choose one of them")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    if path.exists() and not force:
        raise UserError(f"{path}: exists already; choose another name or say --force")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: there is no such folder to write to")
