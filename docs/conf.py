"""How Sphinx builds these pages: ``make docs``."""

from __future__ import annotations

import umbel

project = "Umbel"
release = version = umbel.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"Umbel {release}"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# Attributes have names of the standard library's types too; types imported for checkers alone are not evaluated.
suppress_warnings = ["ref.python", "autodoc"]
