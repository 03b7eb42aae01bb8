"""Builds what pyproject.toml describes, and ``mmselfkd/.mim`` for OpenMMLab.

mmengine and mim look there for ``mmselfkd::...``: for the configs, the tools
and the model index.
"""
import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Puts :data:`MIM` into ``mmselfkd/.mim``.

    An editable install links them, so that an edited config counts at once;
    a wheel holds copies.
    """

    def run(self):
        super().run()
        folder = ROOT if self.editable_mode else Path(self.build_lib)
        place = _link if self.editable_mode else _copy
        mim = folder / 'mmselfkd' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in MIM:
            place(ROOT / name, mim / name)


def _link(source, target):
    target.symlink_to(os.path.relpath(source, target.parent))


def _copy(source, target):
    if source.is_dir():
        shutil.copytree(
            source, target, ignore=shutil.ignore_patterns('__pycache__'))
    else:
        shutil.copy(source, target)


setup(cmdclass=dict(build_py=BuildWithMim))
