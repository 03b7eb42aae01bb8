import os
import subprocess
import sys

import check_stack
import pytest
import torch


def test_a_row_of_the_table(root):
    done = subprocess.run(
        [sys.executable, str(root / 'tools' / 'check_stack.py')],
        capture_output=True, text=True,
        env={k: v for k, v in os.environ.items() if k != check_stack.UNSAFE})
    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[-1]
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    assert len(cells) == 7 and cells[-1] == 'mmseg: passed; mmdet: passed'
    assert cells[1] == f'torch {torch.__version__}'
    assert cells[2].split()[0] in ('mmengine', 'onedl-mmengine')
    table = (root / 'docs' / 'reliability.md').read_text()
    header = '| Python | torch | mmengine | mmcv | mmseg | mmdet | result |'
    assert header in table


def test_what_fails_is_in_the_row(monkeypatch, capsys):
    def bang(folder):
        raise KeyError('x')

    monkeypatch.setattr(check_stack, 'CHECKS', dict(mmseg=bang))
    monkeypatch.setenv(check_stack.UNSAFE, '1')
    with pytest.raises(SystemExit) as end:
        check_stack.main()
    assert end.value.code
    assert capsys.readouterr().out.endswith(
        f'| mmseg: KeyError; with {check_stack.UNSAFE}=1 |\n')


def test_a_package_that_is_not_there():
    assert check_stack.distribution('no_such_package') == '-'
