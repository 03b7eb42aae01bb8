"""The site that ``make docs`` builds."""
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generate  # noqa: E402

import mmselfkd  # noqa: E402

project = 'mmselfkd'
release = version = mmselfkd.__version__
copyright = 'the mmselfkd authors, Apache-2.0'

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.mathjax',
    'sphinx.ext.napoleon',
    'sphinxcontrib.mermaid',
]
exclude_patterns = ['_build']
root_doc = 'index'

myst_enable_extensions = ['dollarmath']
myst_fence_as_directive = ['mermaid']
myst_heading_anchors = 3

autodoc_default_options = {'members': True}
autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # the docstrings name the types
napoleon_custom_sections = ['Reference', 'Shape']
napoleon_use_ivar = True
napoleon_use_rtype = False

# a name of this project that leads nowhere is an error; names of others are
# not linked, since the build needs no network
nitpicky = True
nitpick_ignore_regex = [(r'py:.*', r'(?!mmselfkd).*')]

html_theme = 'furo'
html_title = f'mmselfkd {release}'
html_static_path = ['images']


def setup(app):
    app.connect('builder-inited', lambda app: generate.write(HERE))
    app.connect('source-read', link_generated_pages)


def link_generated_pages(app, name, text):
    """Links to folders of the repository lead to the pages made of them."""
    for folder, pages in (('benchmarks/', 'benchmarks/'),
                          (r'configs/(\w+)', r'methods/\1.md')):
        text[0] = re.sub(rf'\]\((\.\./)+{folder}',
                         f'](/_generated/{pages}', text[0])
