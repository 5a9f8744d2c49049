"""The manual as a site: `make docs` writes it into site/. It needs no network, neither to build nor to read."""

import re
from typing import Any

project = "boardfit"
author = "the boardfit developers"
extensions = ["myst_parser"]
exclude_patterns = ["pictures"]
myst_heading_anchors = 3  # headings are anchors, named as GitHub names them
suppress_warnings = ["myst.header"]  # a page may begin with its shortest heading

html_theme = "furo"
html_title = "boardfit"
html_baseurl = ""
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
pygments_style = "tango"
pygments_dark_style = "monokai"
highlight_language = "text"  # indented blocks are commands and drawings


def contents(text: str) -> dict[str, list[str]]:
    """Part of the manual -> its pages, from the table "All pages" of index.md."""
    rows = re.findall(r"^\| (.+?) \| (\[.*) \|$", text.partition("\n## All pages\n")[2], flags=re.M)
    return {part: re.findall(r"\]\(([\w-]+)\.md\)", links) for part, links in rows}


def add_contents(app: object, page: str, source: list[str]) -> None:
    """Give the index its toctrees: as text of the page they would stand on GitHub, as code."""
    if page == "index":
        for part, pages in contents(source[0]).items():
            source[0] += "\n".join(
                ["", "```{toctree}", ":hidden:", f":caption: {part}", "", *pages, "```", ""]
            )


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
