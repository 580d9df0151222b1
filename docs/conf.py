"""How Sphinx builds these pages: `make docs`."""

import importlib.metadata
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported, which reads it then.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

project = "kwrap"
author = "The kwrap authors"
project_copyright = "The kwrap authors, Apache-2.0"
release = importlib.metadata.version("kwrap")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "_site"]
exclude_patterns = ["_build", "_generated"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# Docstrings are plain text with `backticks`, and "Args:" and "Raises:".
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints_format = "short"
autodoc_default_options = {"show-inheritance": True}

nitpicky = True
# Types in signatures: only those of kwrap have a place here to link to.
nitpick_ignore_regex = [("py:.*", r"(?!kwrap).*"), ("py:.*", r"kwrap(_\w+)?\._.*")]

html_theme = "furo"
html_title = f"kwrap {release}"
html_static_path = ["_static"]
html_css_files = ["kwrap.css"]
