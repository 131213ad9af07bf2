"""The site: `make docs` renders the Markdown and the notebooks where they lie, and the reference from the docstrings.

The source directory is the repository, not `docs/`, so that every relative link of a page holds on the site, too. No
notebook is run. Warnings are errors, and no page asks the network for anything.
"""

from __future__ import annotations

import re
from inspect import formatannotation
from pathlib import Path
from typing import TYPE_CHECKING

from docutils.nodes import SkipNode, math, math_block
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError

import scalerl
from scalerl.config import ScaleRLConfig

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

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
        "docs/cluster",
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
    "Project": ["CHANGELOG", "LOG", "data/README"],
}
FETCHED = re.compile(r'<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)="(?:[a-z]+:)?//[^>]*>')
BELOW = {"data/README": ["data/*/README", "docs/six/README"]}  # pages that the sidebar folds away

project = "scalerl"
version = release = scalerl.__version__
project_copyright = "the authors of scalerl, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["*.md", "docs/**", "notebooks/*.ipynb", "data/README.md", "data/**/README.md"]
exclude_patterns = [".*", "build", "runs"]

nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # they would come from a CDN
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "mathml"

napoleon_google_docstring = False
napoleon_use_param = False  # a type is prose; as a field its words would be looked up as names
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
default_role = "py:obj"  # a name in single backticks is a link where the reference has it

html_theme = "furo"
html_title = f"scalerl {release}"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
pygments_dark_style = "github-dark"
toc_object_entries_show_parents = "hide"
html_copy_source = False
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    """Give pages the sidebar, formulas a shape, and the site an entry."""
    app.add_html_math_renderer("mathml", (_mathml, None), (_mathml, None))
    app.connect("source-read", _add_nav)
    app.connect("autodoc-process-docstring", _add_field, priority=400)
    app.connect("build-finished", _add_index)


def _add_nav(app: Sphinx, docname: str, source: list[str]) -> None:
    parts = NAV if docname == app.config.root_doc else {"Below": BELOW.get(docname, [])}
    for caption, pages in parts.items():
        listed = "\n".join(f"/{page}" for page in pages)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n{listed}\n```\n" if pages else ""


def _add_field(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """What a field of a configuration may be, and is if nobody sets it; its docstring says neither.

    It comes before napoleon, which takes what stands before a colon in the first line of an attribute for its type.
    """
    home, _, last = name.rpartition(".")
    field = ScaleRLConfig.model_fields.get(last) if home == "scalerl.config.ScaleRLConfig" else None
    if field is not None:
        kind, default = formatannotation(field.annotation), field.get_default(call_default_factory=True)
        lines[:0] = [f"``{kind.replace('typing.', '')} = {default!r}``", ""]
    elif what in {"attribute", "property"}:
        lines[:0] = ["..", ""]  # a comment


def _mathml(self: HTML5Translator, node: math | math_block) -> None:
    """Browsers draw MathML themselves, where the usual renderer asks a CDN for a script."""
    self.body.append(tex2mathml(node.astext(), as_block=isinstance(node, math_block)))
    raise SkipNode


def _add_index(app: Sphinx, error: Exception | None) -> None:
    if error is None:
        for page in Path(app.outdir).rglob("*.html"):
            if fetched := FETCHED.search(page.read_text(encoding="utf-8")):
                raise ExtensionError(f"{page}: asks the network: {fetched[0]}")
        entry = f'<!doctype html><meta http-equiv="refresh" content="0; url={app.config.root_doc}.html">\n'
        (Path(app.outdir) / "index.html").write_text(entry, encoding="utf-8")
