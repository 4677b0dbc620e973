"""How Sphinx builds the site: `make docs`. Decision 13 says why so."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).parent)]
os.environ["COLUMNS"] = "80"  # help pages are as wide as in a terminal

project = "sparring"
author = "the authors of sparring"
project_copyright = author
html_title = "sparring documentation"

# The sources are the repository's own files where they are, so that their links to one another
# hold in the repository and on the site alike.
extensions = ["myst_parser", "sphinx.ext.autodoc", "site_extension"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "results/**README.md",
    "results/*.md",
]  # fmt: skip
exclude_patterns = [".*", "build", "src", "tests", "runs", "studies"]
suppress_warnings = ["myst.header"]  # a changelog repeats its headings' levels

myst_enable_extensions = ["colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 4

default_role = "code"  # single backticks in docstrings
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "imported-members": True}
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True

html_theme = "furo"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_additional_pages = {"index": "forward.html"}
templates_path = [str(ROOT / "docs" / "site")]
html_static_path = [str(ROOT / "docs" / "site" / "static")]
html_css_files = ["sparring.css"]
html_js_files = ["copy.js"]
