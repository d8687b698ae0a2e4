"""The documentation site: `make docs`."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "aerogel"
version = release = installed("aerogel")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "commands",
    "public_names",
    "results",
    "shell",
    "study_fields",
    "offline",
]
html_theme = "pydata_sphinx_theme"
html_title = "aerogel"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {
    "logo": {"text": "aerogel"},
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
    "show_prev_next": False,
    "navigation_with_keys": False,
}
html_sidebars = {"index": [], "choose": [], "start": []}
exclude_patterns = ["_ext"]
include_patterns = ["**"]
myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "html_image"]
myst_heading_anchors = 4
suppress_warnings = ["config.cache"]

default_role = "code"  # docstrings quote code with single backticks
smartquotes_action = "qe"  # not dashes: `--` starts an option
add_module_names = False
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints_format = "short"
nitpicky = True
nitpick_ignore_regex = [  # in signatures: other packages, whose documentation is not read, and what is not public
    ("py:.*", r"(?!aerogel\.).*"),
    ("py:.*", r"aerogel\.[a-z_]+\.[a-z_]+\..*"),
]
