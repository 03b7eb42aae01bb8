"""Metadata only: the name under which mmengine looks for mmseg.

mmengine resolves ``mmseg::...`` through an installed distribution called
``mmsegmentation``; the maintained one is called ``onedl-mmsegmentation``, and
so a stock ``train.py`` says that mmseg is not installed. This distribution
holds no code. Install it beside ``onedl-mmsegmentation`` and never beside the
upstream ``mmsegmentation``.
"""
from setuptools import setup
from setuptools.command.egg_info import egg_info


class PointToMmseg(egg_info):
    """``top_level.txt`` is what mmengine reads to find the package."""

    def run(self):
        super().run()
        path = f'{self.egg_info}/top_level.txt'
        self.write_file('top-level names', path, 'mmseg\n')


setup(
    name='mmsegmentation',
    version='1.4.2',
    description='Metadata only: onedl-mmsegmentation under its other name',
    packages=[],
    py_modules=[],
    cmdclass=dict(egg_info=PointToMmseg))
