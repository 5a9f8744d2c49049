"""The manual as a site: `make docs` writes it into site/. It needs no network, neither to build nor to read."""

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
