"""``python -m mmselfkd COMMAND ...``: the tools, wherever they are installed.

The same scripts as in the repository's folder ``tools``; an installed package
has them in ``mmselfkd/.mim/tools``.
"""
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

from .errors import nearest

COMMANDS = {
    'train': ('train.py', 'train; with --method, distil any config'),
    'test': ('test.py', 'evaluate a checkpoint'),
    'cache-teacher': ('cache_teacher.py',
                      'ask a cached teacher everything beforehand'),
    'compare': ('compare.py',
                'train the plain student and several methods, and compare'),
    'tune': ('tune.py',
             'search loss weights, temperatures and schedules of methods'),
    'report': ('report.py', 'one page of comparisons'),
    'methods': ('methods.py', 'list the method hooks'),
    'convert': ('convert_checkpoint.py',
                'turn a checkpoint of mmrazor, MGD or FGD into a student'),
    'summarize': ('summarize.py', 'one table of finished runs'),
    'check-stack': ('check_stack.py',
                    'whether the installed versions distil together'),
}
PACKAGE = Path(__file__).resolve().parent


def main() -> None:
    """Run the tool that the first argument names, with the others."""
    name, *rest = sys.argv[1:] or ['--help']
    if name in ('-h', '--help'):
        print('usage: python -m mmselfkd COMMAND ...\n')
        for command, (_, summary) in COMMANDS.items():
            print(f'  {command:<14} {summary}')
        print('\npython -m mmselfkd COMMAND --help says more. On several '
              'GPUs:\n  torchrun --nproc_per_node=8 -m mmselfkd train CONFIG '
              '--launcher pytorch')
        return
    if name not in COMMANDS:
        sys.exit(f'mmselfkd: {name!r} is no command' + nearest(name, COMMANDS))
    if find_spec('mmengine') is None:
        sys.exit(f'mmselfkd {name}: mmengine is not installed. What is needed '
                 'is onedl-mmengine and onedl-mmcv, and onedl-mmsegmentation '
                 "or onedl-mmdetection; or upstream's mmengine, mmcv and "
                 'mmsegmentation or mmdet')
    script = _tools() / COMMANDS[name][0]
    sys.path.insert(0, str(script.parent))  # the scripts import each other
    sys.argv = [f'mmselfkd {name}', *rest]
    runpy.run_path(str(script), run_name='__main__')


def _tools() -> Path:
    """The folder of the scripts, installed or in the repository."""
    for folder in (PACKAGE / '.mim' / 'tools', PACKAGE.parent / 'tools'):
        if folder.is_dir():
            return folder
    sys.exit(f'mmselfkd: the tools are not in {PACKAGE / ".mim"}; install the '
             'package anew')


if __name__ == '__main__':
    main()
