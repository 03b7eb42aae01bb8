"""Packages the Python code and, under ``mmselfkd/.mim``, what mim looks for.

Neither a distribution of OpenMMLab nor a version of torch is required: this
project goes into an environment that has them and must change none of them.
"""
import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Puts :data:`MIM` where mmengine and mim resolve ``mmselfkd::...``.

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


def version():
    scope = {}
    exec((ROOT / 'mmselfkd' / 'version.py').read_text(), scope)
    return scope['__version__']


setup(
    name='mmselfkd',
    version=version(),
    description='Distillation for dense prediction on OpenMMLab, '
    'by one hook entry',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmselfkd', 'mmselfkd.*']),
    python_requires='>=3.10',
    install_requires=['torch'],
    extras_require=dict(
        onedl=[
            'onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation',
            'onedl-mmdetection'
        ],
        upstream=['mmengine', 'mmcv', 'mmsegmentation', 'mmdet'],
        tests=(ROOT / 'requirements' / 'tests.txt').read_text().split()),
    cmdclass=dict(build_py=BuildWithMim),
    zip_safe=False)
