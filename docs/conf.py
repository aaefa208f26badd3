"""Sphinx's settings for the site: ``sphinx-build -W -b html docs site``."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import xpmlp  # noqa: E402

project, author, release = "xpmlp", "the xpmlp developers", xpmlp.__version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.mermaid",
]
exclude_patterns = [
    "examples",
    "auto_examples/*.md5",
    "auto_examples/*.py",
    "auto_examples/*.ipynb",
    "auto_examples/*.zip",
]
html_theme, html_title = "pydata_sphinx_theme", "xpmlp"
html_theme_options = {"show_prev_next": False, "secondary_sidebar_items": ["page-toc"]}
suppress_warnings = ["ref.term"]  # of scikit-learn's glossary, in the docstrings of its methods

myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_validation_checks = {"GL08"}  # no public name without a docstring
numpydoc_validation_exclude = {r"\.__init__$"}  # the class's says it

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "download_all_examples": False,
    "show_memory": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
}

ROOT_PAGES = {"benchmarks": "BENCHMARKS.md", "changelog": "CHANGELOG.md", "derivation": "xpmlp/math/derivation.md",
              "contributing": "CONTRIBUTING.md"}  # fmt: skip
"""Pages of the site that are files of the repository, by their names here."""


def place(docname: str, text: str) -> str:
    """Return a page's text with links to the site's own pages, or to nothing outside of it."""
    folder = (ROOT / ROOT_PAGES[docname]).parent if docname in ROOT_PAGES else ROOT / "docs"
    pages = {ROOT / file: f"{name}.md" for name, file in ROOT_PAGES.items()}

    def link(found: re.Match[str]) -> str:
        text, (target, _, anchor) = found[1], found[2].partition("#")
        if "://" in target or not target:
            return found[0]
        path = (folder / target).resolve()
        if path in pages:
            where = pages[path]
        elif path.parent == ROOT / "docs":
            where = path.name
        elif path.is_file() and path.suffix != ".md":
            where = str(Path("..", path.relative_to(ROOT)))
        else:
            return text.lstrip("!")[1:-1]
        return f"{text}({where}{'#' + anchor if anchor else ''})"

    return re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", link, text)


def setup(app):
    """Let pages be read so."""

    def read(_, docname, source):
        if docname in ROOT_PAGES:
            source[0] = (ROOT / ROOT_PAGES[docname]).read_text(encoding="utf-8")
        if "/" not in docname:
            source[0] = place(docname, source[0])

    app.connect("source-read", read)
