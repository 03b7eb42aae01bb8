"""Whether distillation helps: runs side by side, a table and a page of them.

``tools/compare.py`` and ``tools/report.py`` are what a user calls.
"""
