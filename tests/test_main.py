"""``python -m mmselfkd``: the scripts of tools/, from wherever they lie."""
import runpy
import subprocess
import sys

import pytest

from mmselfkd import __main__ as commands


@pytest.fixture
def run(monkeypatch):
    """Runs a command line in this process."""

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['mmselfkd', *args])
        monkeypatch.setattr(sys, 'path', list(sys.path))
        commands.main()

    return run


def test_every_command_is_a_tool(root):
    scripts = {script for script, _ in commands.COMMANDS.values()}
    assert all((root / 'tools' / script).is_file() for script in scripts)


@pytest.mark.parametrize('args', [(), ('--help', ), ('-h', )])
def test_help(run, capsys, args):
    run(*args)
    out = capsys.readouterr().out
    assert all(f'\n  {name} ' in out for name in commands.COMMANDS)


@pytest.mark.parametrize('name', list(commands.COMMANDS))
def test_a_command_gets_its_arguments(run, monkeypatch, name, root):
    seen = []
    monkeypatch.setattr(
        runpy, 'run_path', lambda path, run_name: seen.append(
            (path, run_name, list(sys.argv), sys.path[0])))
    run(name, 'a', '--b')
    (path, run_name, argv, first), = seen
    assert open(path).read() == (
        root / 'tools' / commands.COMMANDS[name][0]).read_text()
    assert run_name == '__main__' and path.startswith(first)
    assert argv == [f'mmselfkd {name}', 'a', '--b']


def test_a_wrong_command(run):
    with pytest.raises(SystemExit, match="'trian' is no command.*'train'"):
        run('trian', 'a.py')


def test_without_an_installation(run, monkeypatch, tmp_path):
    """The scripts of the repository; without them an error."""
    package = tmp_path / 'mmselfkd'
    monkeypatch.setattr(commands, 'PACKAGE', package)
    with pytest.raises(SystemExit, match='the tools are not in .*mmselfkd'):
        run('methods')
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools' / 'methods.py').write_text('raise KeyError(__name__)')
    with pytest.raises(KeyError, match='__main__'):
        run('methods')


def test_the_list_of_methods(root):
    done = subprocess.run([sys.executable, '-m', 'mmselfkd', 'methods'],
                          capture_output=True, text=True, check=True, cwd=root)
    assert '\nNFDHook      --teacher ' in done.stdout
    assert '\nFRSKDHook    [SelfTeacher] ' in done.stdout


def test_without_mmengine(run_without):
    done = run_without(
        'import runpy, sys\nsys.argv = ["mmselfkd", "train", "a.py"]\n'
        'runpy.run_module("mmselfkd", run_name="__main__")',
        'mmengine', 'mmcv', 'mmseg', 'mmdet')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'mmselfkd train: mmengine is not installed' in done.stderr
