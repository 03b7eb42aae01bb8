"""Writes the pages that follow from other files of the repository.

``conf.py`` calls :func:`write` at the start of a build. The pages go to
``docs/_generated``, which git ignores.

- A method page is made of the docstrings of the hook and of its losses, of the
  hook's preset, of ``configs/<method>/metafile.yml``, and of the runs in
  ``benchmarks/saturation/results.jsonl``.
- An API page is made of one module or package that has ``__all__``.
- A benchmark page is a file of ``benchmarks``.
"""
import importlib
import inspect
import json
import pkgutil
import shutil
import sys

import numpy as np
import yaml

import mmselfkd
from benchmarks.saturation import table as saturation
from mmselfkd import hooks, losses
from mmselfkd.comparison.statistics import paired

TASKS = {  # of the data that the configs have
    'BCCD': 'detection', 'COCO': 'detection', 'CamVid': 'segmentation',
    'Cityscapes': 'segmentation', 'NYU Depth V2': 'depth',
    'Pascal VOC 2007 + 2012': 'segmentation'}


def write(docs):
    """All pages below ``docs / '_generated'``, made anew."""
    folder = docs / '_generated'
    shutil.rmtree(folder, ignore_errors=True)
    for name in ('methods', 'api', 'benchmarks'):
        (folder / name).mkdir(parents=True)
    methods = [(hook, _metafile(docs.parent, hook)) for hook in _hooks()]
    results = docs.parent / 'benchmarks' / 'saturation' / 'results.jsonl'
    measured = saturation.by_method(
        map(json.loads, results.read_text().splitlines()))
    for hook, metafile in methods:
        path = folder / 'methods' / f'{_method(hook)}.md'
        path.write_text(_method_page(
            hook, metafile, measured.get(_method(hook), [])))
    (folder / 'methods' / 'index.md').write_text(
        _methods_index(methods, measured))
    modules = _public_modules()
    for name in modules:
        (folder / 'api' / f'{name}.md').write_text(_api_page(name))
    (folder / 'api' / 'index.md').write_text(_api_index(modules))
    for path in (docs.parent / 'benchmarks').glob('*.md'):
        (folder / 'benchmarks' / path.name).write_text(
            f'```{{include}} ../../../benchmarks/{path.name}\n'
            ':relative-images:\n:relative-docs: ../docs/\n```\n')


def _hooks():
    """The method hooks, by the name of their method."""
    classes = [getattr(hooks, name) for name in hooks.__all__]
    return sorted((cls for cls in classes if issubclass(
        cls, hooks.DistillHook) and cls is not hooks.DistillHook),
        key=_method)


def _method(hook):
    """``nfd`` for ``NFDHook``: its file and its folder of configs."""
    return hook.__module__.rpartition('.')[2].removesuffix('_hook')


def _metafile(root, hook):
    path = root / 'configs' / _method(hook) / 'metafile.yml'
    return yaml.safe_load(path.read_text())


def _methods_index(methods, measured):
    rows = []
    for hook, metafile in methods:
        about = metafile['Collections'][0]['Metadata']
        tasks = dict.fromkeys(TASKS[data] for data in about['Training Data'])
        rows.append((
            f'[{_title(metafile)}]({_method(hook)}.md)',
            f'`{hook.__name__}`', ', '.join(tasks), about['Teacher'],
            about['Use When'], _masks(hook),
            _shortly(measured.get(_method(hook), []))))
    return '\n\n'.join([
        '# Methods',
        'Each method is one hook: `DistillHook` with the sources, losses and '
        'weights of a paper. Every page is made of the docstrings of the hook '
        'and of its losses.',
        'Measured: what a student with ImageNet weights has without the '
        'method and with it, as shipped, at equal iterations; mIoU on CamVid, '
        'box AP on BCCD. These runs are short, and differences below 1 may be '
        'chance: [results](../../results.md).',
        _table(('method', 'hook', 'task', 'teacher', 'when to use it',
                'masks', 'measured'), rows),
        _toctree([_method(hook) for hook, _ in methods])])


def _masks(hook):
    """What any of its losses leaves out or weighs."""
    types = _loss_types(hook)
    has = dict(
        padding=True,
        ignored=any('ignore_index' in inspect.signature(cls).parameters
                    for cls in types),
        foreground=any(cls.takes_weight and not cls.needs_objects
                       for cls in types))
    return ', '.join(name for name in has if has[name])


def _title(metafile):
    return metafile['Collections'][0]['Name']


def _summary(thing):
    """The first paragraph of a docstring, in Markdown."""
    first = (thing.__doc__ or '').strip().split('\n\n')[0]
    return ' '.join(first.split()).replace('``', '`')


def _shortly(runs):
    """Plain and distilled student of the longest run on each data set."""
    longest = {run['data']: run for run in sorted(
        runs, key=lambda run: (run['iterations'], len(run['plain'])))}
    return ', '.join(
        f'{saturation.NAMES[data]} {_mean(run["plain"])} → '
        f'{_mean(run["distilled"])}' for data, run in sorted(longest.items()))


def _mean(by_seed):
    return f'{np.mean([*by_seed.values()]):.1f}'


def _measured(runs):
    """All runs of a method beside the plain student of the same seeds."""
    if not runs:
        return 'Not measured yet.'
    rows = [(saturation.NAMES[run['data']], f'`{run["run"]}`',
             run['iterations'], ', '.join(map(str, run['plain'])),
             _mean(run['plain']), _mean(run['distilled']),
             paired(run['distilled'], run['plain']).write()) for run in runs]
    return ('MobileNetV1 x0.25 as student and EfficientNet-Lite2 as teacher, '
            'with ImageNet weights; mIoU or box AP in percent, gain with its '
            '95 % interval where there are several seeds: '
            '[results](../../results.md).\n\n' + _table(
                ('data', 'run', 'iterations', 'seeds', 'plain', 'distilled',
                 'gain'), rows))


def _method_page(hook, metafile, measured):
    collection, = metafile['Collections']
    paper = collection['Paper']
    types = _loss_types(hook)
    parts = [
        f'# {collection["Name"]}',
        f'[{paper["Title"]}]({paper["URL"]}). Configs and commands: '
        f'`{collection["README"]}`.',
        _directive(f'autoclass:: mmselfkd.{hook.__name__}', 'no-index',
                   'no-members'),
        '## What the hook fills in',
        _preset(hook),
        '## Losses',
        *(_loss(cls) for cls in types),
        '## Configs',
        _configs(metafile.get('Models') or []),
        '## Measured',
        _measured(measured)]
    return '\n\n'.join(parts) + '\n'


def _preset(hook):
    """The preset as a table; what is at its default is left out."""
    rows = []
    for key, cfg in hook.preset.items():
        cfg = dict(cfg)
        rows.append((f'`{key}`', f'`{cfg.pop("type")}`',
                     _source(cfg.pop('source')), cfg.pop('loss_weight', 1.0),
                     _code(cfg.pop('schedule', None)),
                     ', '.join(f'`{name}={value!r}`'
                               for name, value in cfg.items())))
    text = _table(('key', 'loss', 'source', '`loss_weight`', 'schedule',
                   'options'), rows)
    for name, value in (('teacher', hook.preset_teacher),
                        ('task_schedule', hook.preset_task_schedule)):
        if value is not None:
            text += f'\n\n`{name}` is {_code(value)} unless you name another.'
    return text


def _source(source):
    if not isinstance(source, dict):
        return _code(source)
    return (f'student: {_code(source["student"])}; teacher: '
            f'{_code(source["teacher"])}')


def _code(value):
    """A value as it stands in a config."""
    if value is None:
        return ''
    return f'`{_plain(value)}`'


def _plain(value):
    if isinstance(value, dict):
        return 'dict(' + ', '.join(
            f'{key}={_plain(item)}' for key, item in value.items()) + ')'
    return f'{value:.4g}' if isinstance(value, float) else repr(value)


def _loss_types(hook):
    """The loss classes of a preset, each once, in its order."""
    names = dict.fromkeys(cfg['type'] for cfg in hook.preset.values())
    return [getattr(losses, name) for name in names]


def _loss(cls):
    """A loss: its equation stands with the function where there is one."""
    module = sys.modules[cls.__module__]
    functions = [
        name for name in losses.__all__
        if getattr(losses, name).__module__ == module.__name__
        and not isinstance(getattr(losses, name), type)
        and f'`{name}`' in (cls.__doc__ or '')]
    return '\n\n'.join([
        _directive(f'autoclass:: mmselfkd.losses.{cls.__name__}',
                   'no-index', 'no-members'),
        *(_directive(f'autofunction:: mmselfkd.losses.{name}', 'no-index')
          for name in functions)])


def _configs(models):
    """The configs of a metafile, with the results that were measured."""
    rows = []
    for model in models:
        data = model.get('Metadata', {})
        results = [
            (result['Task'], f'{name} {value}')
            for result in model.get('Results') or []
            for name, value in result['Metrics'].items()]
        rows.append((f'`{model["Name"]}`', data.get('Training Data', ''),
                     data.get('Teacher', ''),
                     ', '.join(text for _, text in results)))
    return _table(('config', 'data', 'teacher', 'measured'), rows)


def _public_modules():
    """What says by ``__all__`` what is public."""
    names = ['mmselfkd.' + name for name in ('hooks', 'teachers', 'losses')]
    names += sorted(info.name for info in pkgutil.walk_packages(
        mmselfkd.__path__, 'mmselfkd.') if not _is_private(info.name))
    modules = map(importlib.import_module, dict.fromkeys(names))
    return [module.__name__ for module in modules
            if hasattr(module, '__all__')]


def _is_private(name):
    return any(part.startswith('_') for part in name.split('.'))


def _api_index(modules):
    rows = [(f'[{name}]({name}.md)', _summary(sys.modules[name]))
            for name in modules]
    return '\n\n'.join([
        '# API reference',
        'The hooks and the teachers can be imported from `mmselfkd` too.',
        _table(('module', 'what is in it'), rows),
        _toctree(modules)])


def _api_page(name):
    return f'# {name}\n\n' + _directive(f'automodule:: {name}')


def _directive(text, *options):
    lines = [f'.. {text}', *(f'   :{option}:' for option in options)]
    return '\n'.join(['```{eval-rst}', *lines, '```'])


def _toctree(names):
    return '\n'.join(['```{toctree}', ':hidden:', '', *names, '```', ''])


def _table(header, rows):
    lines = [header, ['-'] * len(header), *rows]
    return '\n'.join(
        '| ' + ' | '.join(str(cell) for cell in line) + ' |'
        for line in lines)
