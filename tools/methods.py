"""The method hooks: for the command lines, and for ``custom_hooks``."""
import argparse
import importlib
import inspect
import os
import re
import sys
from difflib import SequenceMatcher
from pathlib import Path

import yaml
from mmengine.config import Config, DictAction
from mmengine.registry import HOOKS as MMENGINE_HOOKS

from mmselfkd import DistillHook
from mmselfkd.registry import HOOKS, SCOPE


def methods():
    """The method hooks of this project by name, DistillHook itself last."""
    found = {
        name: hook for name, hook in sorted(HOOKS.module_dict.items())
        if issubclass(hook, DistillHook)
    }
    found[DistillHook.__name__] = found.pop(DistillHook.__name__)
    return found


def find_method(name, scope):
    """The type of a method hook in a config, and its class.

    Args:
        name (str): Of a method of this project, or of a registered hook of
            the user's own that derives from DistillHook.
        scope (str | None): The default scope of the student's config.
    """
    own = methods()
    if name in own:
        return f'{SCOPE}.{name}', own[name]
    hook = _registered(name, scope)
    if _is_method(hook):
        return name, hook
    near = sorted(own, key=lambda one: _distance(one, name))
    sys.exit(f'--method {name!r}: no such method hook; there are, the nearest '
             f'first, {", ".join(near)}')


def _distance(one, other):
    one, other = (name.lower().removesuffix('hook') for name in (one, other))
    return 1 - SequenceMatcher(None, one, other).ratio()


def is_distillation(entry, scope):
    """Whether an entry of ``custom_hooks`` is a hook of this project."""
    if not isinstance(entry, dict):
        return isinstance(entry, DistillHook)
    kind = entry['type']
    if isinstance(kind, str):
        kind = _registered(kind, entry.get('_scope_', scope))
    return _is_method(kind)


def _registered(name, scope):
    """What mmengine finds under this name; None if nothing."""
    with MMENGINE_HOOKS.switch_scope_and_registry(scope) as registry:
        try:
            return registry.get(name)
        except RuntimeError:  # mmengine's word for a name it cannot import
            return None


def _is_method(hook):
    return inspect.isclass(hook) and issubclass(hook, DistillHook)


def make_entry(name, scope, teacher, checkpoint, options, trust):
    """The entry of ``custom_hooks`` that the command line describes.

    Args:
        name (str): Of the method hook.
        scope (str | None): The default scope of the student's config.
        teacher (str | None): Config of the teacher.
        checkpoint (str | None): Its weights.
        options (dict | None): Further arguments of the hook, by dotted keys.
        trust (bool): Whether the teacher's weights are read even if that runs
            code.
    """
    kind, hook = find_method(name, scope)
    given = dict(config=teacher, checkpoint=checkpoint,
                 trust_checkpoint=trust and checkpoint is not None)
    given = {key: value for key, value in given.items() if value}
    entry = Config(dict(type=kind, **dict(teacher=given) if given else {}))
    entry.merge_from_dict(options or {})
    entry = entry.to_dict()
    if 'teacher' not in entry and hook.preset_teacher is None:
        sys.exit(f'--method {name} needs a teacher: --teacher CONFIG '
                 '--teacher-checkpoint FILE, or without a trained one '
                 '--method-options teacher.type=EMATeacher')
    teacher = entry.get('teacher', {})
    for key, other, flag in (
            ('config', 'checkpoint', '--teacher-checkpoint FILE'),
            ('checkpoint', 'config', '--teacher CONFIG')):
        if key in teacher and other not in teacher:
            sys.exit(f'--method {name}: teacher.{key} is given, '
                     f'{flag} is missing')
    return entry


class Method:
    """One method of the command line.

    Args:
        text (str): Such as ``NFDHook`` or ``my_hook.py:inherit=neck``.
        scope (str | None): The default scope of the student's config.
    """

    def __init__(self, text, scope):
        self.text, self.scope = text, scope
        name, options = split(text)
        if name.endswith('.py'):
            name = hook_of_file(name)
        parser = argparse.ArgumentParser()
        parser.add_argument('--options', nargs='*', action=DictAction)
        self.name = name
        self.options = parser.parse_args(['--options', *options]).options
        _, self.hook = find_method(name, scope)
        short = name.rpartition('.')[2].removesuffix('Hook').lower()
        changes = [option.rpartition('.')[2] for option in options]
        self.slug = re.sub(r'[^\w.=-]+', '_', '-'.join([short, *changes]))

    @property
    def needs_teacher(self):
        own = {'teacher.type', 'teacher.config'} & set(self.options)
        return self.hook.preset_teacher is None and not own

    def entry(self, teacher, checkpoint, trust, options=None):
        """Its entry of ``custom_hooks``, with further options."""
        if not self.needs_teacher:
            teacher = checkpoint = None
        return make_entry(self.name, self.scope, teacher, checkpoint,
                          {**self.options, **(options or {})}, trust)


def split(text):
    """The name of a method, and its options.

    A colon that begins no option belongs to the value before it.
    """
    name, *parts = text.split(':')
    options = []
    for part in parts:
        if re.match(r'[\w.]+=', part):
            options.append(part)
        elif options:
            options[-1] += f':{part}'
        else:
            sys.exit(f'--methods {text!r}: {part!r} is no key.path=value')
    return name, options


def hook_of_file(path):
    """``module.Class`` of the one method hook that a file defines."""
    file = Path(path).resolve()
    if not file.is_file():
        sys.exit(f'--methods {path!r}: there is no such file')
    # the runs find it there too
    sys.path.insert(0, str(file.parent))
    os.environ['PYTHONPATH'] = os.pathsep.join(
        filter(None, [str(file.parent), os.environ.get('PYTHONPATH')]))
    module = importlib.import_module(file.stem)
    found = [
        name for name, hook in vars(module).items()
        if inspect.isclass(hook) and issubclass(hook, DistillHook)
        and hook.__module__ == module.__name__]
    if len(found) != 1:
        sys.exit(f'--methods {path!r}: one class is needed that derives from '
                 f'DistillHook; there are {found or "none"}')
    return f'{file.stem}.{found[0]}'


def catalogue():
    """The Markdown table of the README, from the metafile of each method.

    In the order of model-index.yml.
    """
    root = Path(__file__).resolve().parent.parent
    hooks = {
        hook.__module__.rpartition('.')[2].removesuffix('_hook'): name
        for name, hook in methods().items()}
    lines = ['| hook | teacher | use it when |', '|---|---|---|']
    for path in yaml.safe_load((root / 'model-index.yml').read_text())[
            'Import']:
        name = Path(path).parent.name
        if name in hooks:
            collection, = yaml.safe_load((root / path).read_text())[
                'Collections']
            about = collection['Metadata']
            lines.append(f'| [`{hooks[name]}`](configs/{name}) | '
                         f'{about["Teacher"]} | {about["Use When"]} |')
    lines.append('| `DistillHook` | any | you compose losses yourself |')
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--markdown', action='store_true', help='the table of the README')
    if parser.parse_args().markdown:
        print(catalogue())
        return
    width = max(map(len, methods()))
    print('A teacher in brackets is the one that the method has by itself.\n')
    for name, hook in methods().items():
        own = hook.preset_teacher
        teacher = f'[{own["type"]}]' if own else '--teacher'
        summary = inspect.getdoc(hook).splitlines()[0]
        print(f'{name:<{width}}  {teacher:<18}  {summary}')


if __name__ == '__main__':
    main()
