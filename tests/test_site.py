"""The site: every page has its place, every link leads somewhere, every public name stands in the reference.

What it looks like, and that Sphinx has no warning, `make docs` says; it takes too long for here.
"""

from __future__ import annotations

import inspect
import re
import runpy
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from sphinx.util.matching import get_matching_files

import analysis
import scalerl.runlog

CONF = runpy.run_path("docs/conf.py")
FILES = get_matching_files(".", CONF["include_patterns"], CONF["exclude_patterns"])
PAGES = sorted(path for path in FILES if path.endswith((".md", ".ipynb")))
REFERENCE = {page: Path(f"docs/api-{page}.md").read_text(encoding="utf-8") for page in ("analysis", "log", "trainer")}


def documented(page: str) -> dict[str, str]:
    """Module that each name of a page is taken from."""
    found, module = {}, ""
    for line in REFERENCE[page].splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.split()[-1]
        elif matched := re.match(r"\.\. auto(?:class|function|exception):: (\w+)", line):
            assert matched[1] not in found, f"{matched[1]} stands there twice"
            found[matched[1]] = module
    return found


def test_every_page_has_one_place_in_the_sidebar():
    listed = [path for pages in [*CONF["NAV"].values(), *CONF["BELOW"].values()] for path in pages]
    found = [str(path) for page in listed for path in Path().glob(f"{page}.*") if path.suffix in {".md", ".ipynb"}]
    assert sorted([*found, "README.md"]) == PAGES


def text_of(page: str) -> str:
    """What a page says outside code."""
    if page.endswith(".md"):
        text = Path(page).read_text(encoding="utf-8")
    else:
        text = "\n\n".join(c.source for c in nbformat.read(page, as_version=4).cells if c.cell_type == "markdown")
    return re.sub(r"^```.*?^```$|^(?: {4}|\t).*?$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_one_title_and_its_links_lead_somewhere(page):
    text = text_of(page)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, heading = link.partition("#")
        if "://" in link:
            continue
        there = Path(page).parent / target if target else Path(page)
        assert there.is_file(), link  # a folder shows nothing on the site
        titles = re.findall(r"^#+ (.+)$", text_of(str(there)), re.MULTILINE) if heading else []
        assert not heading or heading in {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}, link


def test_the_reference_holds_every_public_name():
    assert documented("analysis") == dict.fromkeys(analysis.__all__, "analysis")
    log = {name for name, module in documented("log").items() if module == "scalerl.runlog"}
    log |= set(re.findall(r"`([A-Z_]+)`", REFERENCE["log"]))
    assert log - {"UserError"} == set(scalerl.runlog.__all__) - {"UserError"}  # analysis has that one


@pytest.mark.parametrize("page", REFERENCE)
def test_a_name_of_the_reference_is_there_and_has_a_docstring_of_its_own(page):
    for name, module in documented(page).items():
        assert inspect.getdoc(getattr(import_module(module), name)), name
        if inspect.isclass(found := getattr(import_module(module), name)):
            assert found.__doc__ and not found.__doc__.startswith(f"{name}("), f"{name}: has none but its fields"
