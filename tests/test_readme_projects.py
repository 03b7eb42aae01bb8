"""Projects that existed before follow README.md word by word.

Each has its own data set, transform, hook and EMA, imported by its own
``custom_imports``, and is trained by the host's own tools.
"""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS

HOSTS = dict(segmentation=mmseg, detection=mmdet)
# found first by every Python of a project
SITE = """
import os, sys


class Without:
    def find_spec(self, name, *args):
        if name == os.environ.get('WITHOUT'):
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Without())
"""


def block(path, language, start):
    """The block of code in ``path`` that begins with ``start``."""
    found = re.findall(rf'```{language}\n(.*?)```', path.read_text(), re.S)
    code, = (text for text in found if text.startswith(start))
    return code


class Project:
    """A copy of one folder of ``tests/projects``, ready to be trained."""

    def __init__(self, folder, root, name, *overlays):
        self.folder, self.host = folder, HOSTS[name]
        for part in (name, *overlays):
            shutil.copytree(
                root / 'tests' / 'projects' / part, folder,
                dirs_exist_ok=True)
        tools = Path(self.host.__file__).parent / '.mim' / 'tools'
        (folder / 'tools').mkdir()
        for tool in ('train.py', 'test.py'):
            shutil.copy(tools / tool, folder / 'tools')
        (folder / 'sitecustomize.py').write_text(SITE)
        torch.save(self.model('teacher.py').state_dict(),
                   folder / 'teacher.pth')
        self.root = root

    def model(self, config):
        """A new model of a config of the project."""
        cfg = self.config(config)
        return MODELS.build(dict(cfg.model, _scope_=cfg.default_scope))

    def config(self, name):
        """A config, without what it imports."""
        return Config.fromfile(
            self.folder / name, import_custom_modules=False)

    def write(self, code):
        """Write code to the file that its first line names."""
        name = code.splitlines()[0].removeprefix('# ')
        (self.folder / name).write_text(code)

    def run(self, command, **env):
        """Run a command of the README in the project; what it printed."""
        done = subprocess.run(
            command.replace('python ', f'{sys.executable} ', 1), shell=True,
            cwd=self.folder, capture_output=True, text=True, timeout=300,
            env=dict(os.environ, CUDA_VISIBLE_DEVICES='', PYTHONPATH=(
                f'{self.folder}{os.pathsep}{self.root}'), **env))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def checkpoint(self):
        """The last checkpoint of the distilled run."""
        path = self.folder / 'work_dirs/student_distilled/last_checkpoint'
        return Path(path.read_text())


def scores(log):
    """The last values of the metric in a log."""
    return re.findall(r'(?:mIoU|score): +([\d.]+)', log)[-1]


@pytest.mark.parametrize('name', HOSTS)
def test_word_by_word(name, root, tmp_path):
    project = Project(tmp_path, root, name)
    readme = root / 'README.md'
    project.write(block(readme, 'python', '# student_distilled.py'))
    train, test = block(
        readme, 'shell', 'python tools/train.py').splitlines()
    trained = project.run(train)
    tested = project.run(
        test.replace('CHECKPOINT', str(project.checkpoint)),
        WITHOUT='mmselfkd')
    assert 'distill.loss_nfd' in trained
    assert scores(trained) == scores(tested)
    check_run(project)


def test_one_command(root, tmp_path):
    project = Project(tmp_path, root, 'segmentation')
    command = block(
        root / 'README.md', 'shell', 'python -m mmselfkd train')
    assert 'distill.loss_nfd' in project.run(command.replace('\\\n', ''))
    # under the name of the method, with the project's own hook
    count = project.folder / 'work_dirs' / 'nfd_student' / 'count.txt'
    assert count.read_text() == '2'


def check_run(project):
    """Its own hook and EMA ran too; the student is a stock one."""
    assert (project.checkpoint.parent / 'count.txt').read_text() == '2'
    saved = torch.load(project.checkpoint, weights_only=False)
    project.model('student.py').load_state_dict(
        saved['state_dict'], strict=True)
    assert {key.removeprefix('module.') for key in saved['ema_state_dict']
            } == {*saved['state_dict'], 'steps'}


def test_new_style(root, tmp_path):
    project = Project(tmp_path, root, 'segmentation', 'new_style')
    project.write('# student_distilled.py\n' + block(
        root / 'docs' / 'get_started.md', 'python',
        'from mmengine.config import read_base'))
    trained = project.run('python tools/train.py student_distilled.py')
    assert 'distill.loss_nfd' in trained
    assert (project.checkpoint.parent / 'count.txt').read_text() == '2'


@pytest.mark.parametrize(
    'base, kept', [('student.py', ['EMAHook', 'CountHook']),
                   ('teacher.py', [])])
def test_hooks_of_the_base_are_kept(base, kept, root, tmp_path):
    """Of a base with hooks, and of one without."""
    project = Project(tmp_path, root, 'segmentation')
    code = block(root / 'README.md', 'python', '# student_distilled.py')
    project.write(code.replace("'student.py'", f"'{base}'"))
    hooks = project.config('student_distilled.py').custom_hooks
    assert [hook.type for hook in hooks] == [*kept, 'mmselfkd.NFDHook']


def test_unlabelled_images_reach_the_plan(root):
    code = block(root / 'README.md', 'python', 'unlabelled=dict(')
    plan = HOOKS.build(dict(
        type='mmselfkd.SKDHook', teacher=dict(config='t.py', checkpoint='t'),
        **eval(f'dict({code})'))).plan
    dataset = plan.unlabelled[1]['dataset']
    assert dataset['data_prefix'] == dict(img_path='more_images')


def test_losses_are_changed_by_name(root):
    """What the README does to a method is what the hook makes of it."""
    code = block(root / 'README.md', 'python', 'dict(\n    type=')
    plan = HOOKS.build(eval(code)).plan
    assert {loss.name: loss.loss_weight for loss in plan.losses} == dict(
        loss_pi=5.0, loss_pa=10.0, loss_back=1.0)
