"""The site: `make docs` renders the Markdown and the notebooks where they lie, and the reference from the docstrings.

The source directory is the repository, not `docs/`, so that every relative link of a page holds on the site, too. No
notebook is run. Warnings are errors, and no page asks the network for anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import scalerl

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# The sidebar, in reading order; a page that stands nowhere here fails the build.
NAV = {
    "Notebooks": ["notebooks/*"],
    "Guides": [
        "docs/deciding",
        "docs/readers",
        "docs/your-own-loop",
        "docs/your-own-task",
        "docs/data",
        "docs/recipes",
        "docs/hardware",
        "docs/troubleshooting",
    ],
    "Background": ["docs/methods", "docs/evidence", "docs/paper"],
    "Reference": [
        "docs/api-analysis",
        "docs/api-log",
        "docs/api-trainer",
        "docs/log-format",
        "docs/json",
    ],
    "Project": ["CHANGELOG", "LOG", "data/README", "data/*/README", "docs/six/README"],
}

project = "scalerl"
version = release = scalerl.__version__
project_copyright = "the authors of scalerl, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["*.md", "docs/**", "notebooks/*.ipynb", "data/README.md", "data/**/README.md"]

nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # they would come from a CDN
myst_heading_anchors = 3

napoleon_google_docstring = False
napoleon_use_param = False  # a type is prose; as a field its words would be looked up as names
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
default_role = "py:obj"  # a name in single backticks is a link where the reference has it

html_theme = "furo"
html_title = f"scalerl {release}"
html_copy_source = False
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    """Give the README the sidebar, which it does not show on its own, and the site an entry."""
    app.connect("source-read", _add_nav)
    app.connect("build-finished", _add_index)


def _add_nav(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname == app.config.root_doc:
        for caption, pages in NAV.items():
            listed = "\n".join(f"/{page}" for page in pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n{listed}\n```\n"


def _add_index(app: Sphinx, error: Exception | None) -> None:
    if error is None:
        entry = f'<!doctype html><meta http-equiv="refresh" content="0; url={app.config.root_doc}.html">\n'
        (Path(app.outdir) / "index.html").write_text(entry, encoding="utf-8")
