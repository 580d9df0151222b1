"""How Sphinx builds these pages: `make docs`."""

import importlib.metadata

project = "kwrap"
author = "The kwrap authors"
project_copyright = "The kwrap authors, Apache-2.0"
release = importlib.metadata.version("kwrap")

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = f"kwrap {release}"
