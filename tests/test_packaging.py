import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser

import pytest

PARTS = ('configs', 'mmselfkd', 'requirements', 'tools', 'LICENSE',
         'MANIFEST.in', 'README.md', 'model-index.yml', 'pyproject.toml',
         'setup.py')


@pytest.fixture(scope='module')
def wheel(root, tmp_path_factory):
    """A wheel, built from a copy to leave the repository as it is."""
    source, target = map(tmp_path_factory.mktemp, ('source', 'wheel'))
    for part in PARTS:
        if (root / part).is_dir():
            shutil.copytree(
                root / part,
                source / part,
                ignore=shutil.ignore_patterns('__pycache__', '.mim'))
        else:
            shutil.copy(root / part, source)
    subprocess.run([
        sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps',
        '--no-build-isolation', '--no-index', '--wheel-dir',
        str(target),
        str(source)
    ], check=True)
    path, = target.glob('*.whl')
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_metadata_requires_nothing_that_pins_torch(wheel):
    name, = (n for n in wheel.namelist() if n.endswith('/METADATA'))
    metadata = Parser().parsestr(wheel.read(name).decode())
    required = [
        line for line in metadata.get_all('Requires-Dist')
        if 'extra ==' not in line
    ]
    assert required == ['torch', 'safetensors']
    assert metadata['Requires-Python'] == '>=3.10'
    assert set(metadata.get_all('Provides-Extra')) == {
        'compare', 'onedl', 'timm', 'transformers', 'tune', 'upstream'}


def test_types_are_published(wheel):
    assert 'mmselfkd/py.typed' in wheel.namelist()


def test_the_template_of_the_page_is_in_it(wheel):
    assert 'mmselfkd/comparison/page.html.jinja' in wheel.namelist()


def test_wheel_holds_configs_and_tools(wheel, root):
    inside = {
        name[len('mmselfkd/.mim/'):] for name in wheel.namelist()
        if name.startswith('mmselfkd/.mim/')
    }
    expected = {'model-index.yml'} | {
        str(path.relative_to(root)) for folder in ('configs', 'tools')
        for path in (root / folder).rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    assert inside == expected


def test_configs_resolve_from_the_installed_package(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = (
        'import mmselfkd\n'
        'from mmengine.config import Config\n'
        'name = "mmselfkd::toy/fpn_r18-w8_1xb8-1k_toy-64x64.py"\n'
        'cfg = Config.fromstring(f"_base_ = {name!r}", ".py")\n'
        'print(mmselfkd.__file__)\n'
        'print(cfg.model.decode_head.num_classes)\n')
    run = subprocess.run([sys.executable, '-c', code],
                         cwd=tmp_path,
                         env={**os.environ, 'PYTHONPATH': str(tmp_path)},
                         capture_output=True,
                         text=True,
                         check=True)
    package = tmp_path / 'mmselfkd' / '__init__.py'
    assert run.stdout.split() == [str(package), '7']


def test_tools_run_from_the_installed_package(wheel, tmp_path):
    """``python -m mmselfkd``, in a folder that knows no repository."""
    wheel.extractall(tmp_path)
    for args, expected in ((['methods'], 'NFDHook'),
                           (['train', 'mmselfkd::toy/fpn_r18.py'],
                            f'nearest in {tmp_path / "mmselfkd" / ".mim"}')):
        run = subprocess.run(
            [sys.executable, '-m', 'mmselfkd', *args], cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': str(tmp_path)},
            capture_output=True, text=True)
        assert expected in run.stdout + run.stderr
        assert (run.returncode == 0) == (args[0] == 'methods')


def test_losses_need_torch_alone(run_without):
    run = run_without('import mmselfkd.losses\n'
                      'print(mmselfkd.losses.KDLoss())', 'mmengine', 'mmcv',
                      'mmseg', 'mmdet', 'cv2', 'matplotlib')
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith('KDLoss')


def test_version_is_the_packages(wheel):
    scope = {}
    exec(wheel.read('mmselfkd/version.py'), scope)
    assert f'mmselfkd-{scope["__version__"]}-' in wheel.filename
