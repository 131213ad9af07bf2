"""Where figures are drawn, and how they become files that are not there yet.

Promises: what is drawn for a file needs no window and no pyplot; an existing file is written over only when forced, and
a refusal comes before the work. A file is there whole or not at all: when writing fails, what was there before is still
there.
"""

from __future__ import annotations

import io
import os
import secrets
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.readers.cleaning import printable
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LEGEND_LEFT = 0.9  # inches left of it: label and numbers of the axis
LEGEND_DROP = 0.55  # inches from the axis to a legend below it: ticks and label lie between


def new_figure(width: float = 7.0, height: float = 4.6) -> Figure:
    """Return a figure on a canvas without a window, outside pyplot's list of open figures; in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_axes(width: float = 7.0, height: float = 4.6) -> Axes:
    """Return the axes of a `new_figure`."""
    return new_figure(width, height).add_subplot()


def shown_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """Return the axes that were given, or else those of a new figure of pyplot, which a notebook shows by itself."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    made: Axes = plt.subplots(figsize=(width, height), layout="constrained")[1]
    return made


def legend_below(
    ax: Axes, handles: Sequence[Any], labels: Sequence[str], *, ncols: int = 1, title: str | None = None
) -> None:
    """Put the legend under the axis label: inside, no corner is free of points for every set of runs.

    It hangs at a distance in points, not in parts of the axes, so that it meets the label at no height of theirs.
    """
    from matplotlib.transforms import ScaledTranslation

    figure: Any = ax.get_figure(root=True)
    down = ax.transAxes + ScaledTranslation(0.0, -LEGEND_DROP, figure.dpi_scale_trans)
    legend = ax.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0.0, 0.0),
        bbox_transform=down,
        borderaxespad=0.0,
        frameon=False,
        fontsize="small",
        ncols=ncols,
        title=title,
        title_fontsize="small",
        alignment="left" if title else "center",
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name with $ in it is a name, not a formula
    # Wider than the figure, it would push the axes out.
    if ncols > 1 and legend.get_window_extent().width > (figure.get_figwidth() - LEGEND_LEFT) * figure.dpi:
        legend_below(ax, handles, labels, ncols=ncols - 1, title=title)


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
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)  # a box is drawn
        figure.savefig(picture, dpi=160, format=path.suffix.lower().removeprefix("."))
    write(path, picture.getvalue(), force=force)


def write(path: Path, content: bytes, *, force: bool = False) -> None:
    """Write `content` beside `path` and put it into place in one step.

    Raises
    ------
    UserError
        If it cannot be written, or without `force` a file came there meanwhile; what is there is left as it was.
    """
    try:
        target = path.resolve()  # a link stays a link
        beside = target.with_name(f".{secrets.token_hex(8)}.part")  # short: `path` may be as long as a name can be
        try:
            with beside.open("xb") as file:
                file.write(content)
            if force:
                beside.replace(target)
            else:
                _put_where_nothing_is(beside, target)
        finally:
            beside.unlink(missing_ok=True)
    except FileExistsError as error:
        raise UserError(f"{printable(str(path))}: exists already; choose another name or say --force") from error
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


def _put_where_nothing_is(beside: Path, target: Path) -> None:
    """Give a finished file its name; of two writers at once one fails instead of being overwritten."""
    try:
        target.hardlink_to(beside)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if target.exists():
            raise FileExistsError from None
        beside.replace(target)


def _unwritable(path: Path, error: OSError | ValueError) -> UserError:
    return UserError(f"{printable(str(path))}: cannot be written: {getattr(error, 'strerror', None) or error}")


def refuse_unless_new(path: Path, force: bool, *, endings: Sequence[str]) -> None:
    """Check an output path before the work is done, so that a refusal costs nothing.

    Raises
    ------
    UserError
        If it exists (without `force`) or is no regular file, its folder does not or may not be written to, or its
        ending is not one of `endings`.
    """
    try:
        _refuse_unless_new(path, force, endings)
    except (OSError, ValueError) as error:  # a name that is too long, a folder that may not be looked into
        if isinstance(error, UserError):
            raise
        raise _unwritable(path, error) from error


def _refuse_unless_new(path: Path, force: bool, endings: Sequence[str]) -> None:
    if path.suffix.lower() not in endings:
        raise UserError(f"{path}: ends in none of {', '.join(endings)}; choose one of them")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path}: is a link to nothing; remove it or choose another name")
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no regular file; choose another name")
    if path.exists() and not force:
        raise UserError(f"{path}: exists already; choose another name or say --force")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: there is no such folder to write to")
    if not os.access(path.resolve().parent, os.W_OK):
        raise UserError(f"{path.parent}: this folder may not be written to")
