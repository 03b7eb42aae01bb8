"""Turns a checkpoint of another distillation project into a stock student.

It knows those of mmrazor, MGD, FGD and the mm*-distillers, tells them by the
names of their weights, and refuses what it does not know. The student's
weights keep their values; teacher, connectors and losses go. Of the rest
only `meta` stays, as far as it is plain data (its `cfg` is still that of the
distillation): a run can start from TARGET, but not go on.
Where mmengine's EMAHook ran, `state_dict` holds the averaged weights, and they
are the student; the others (`ema_state_dict`) go.
"""
import argparse
import os
import os.path as osp
import re
from collections import Counter, OrderedDict
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from train import find_config, find_file

from mmselfkd.checkpoint_files import load_checkpoint_file
from mmselfkd.distillation import ENTRY


class Format(NamedTuple):
    """How a project names what it saves.

    A group such as ``teacher.*`` is all that begins alike, see
    :func:`group_of`.
    """

    name: str
    student: str  # what every weight of the student begins with
    rest: frozenset[str]  # the groups beside the student; dropped


def groups(*names):
    return frozenset(f'{name}.*' for name in names)


# Buffers of the whole: the distillers keep activations in some, EMAHook of
# mmcv 1.x its other set of weights
LOOSE = ('student_', 'teacher_', 'ema_')
STUDENTS = groups('architecture', 'student')
STOCK = 'backbone.*'  # almost every model of OpenMMLab has one
RAZOR_1 = Format(
    'mmrazor 1.x', 'architecture.',
    groups('teacher', 'teachers', 'distiller', 'connectors', 'distill_losses',
           'generator', 'generator_distiller', 'data_preprocessor',
           'val_data_preprocessor'))
RAZOR_0 = Format('mmrazor 0.x', 'architecture.model.',
                 groups('distiller') | {'ema_*'})
DISTILLER = Format(
    'mm*-distiller (such as MGD and FGD)', 'student.',
    groups('teacher', 'distill_losses', 'discriminator', 'data_preprocessor')
    | {name + '*' for name in LOOSE})
OURS = Format('mmselfkd', '', frozenset())
FORMATS = RAZOR_1, RAZOR_0, DISTILLER
# An architecture that is searched, pruned or quantised has no one student
MUTABLE = groups('mutator', 'pruner', 'quantizer', 'qmodels')
MUTABLE_PART = re.compile(r'architecture\.(.*\.)?(mutable_|_candidate)')
MUTABLE_CONFIG = re.compile(r'\bmutator(_cfg)?\s*=(?!\s*None)')


def weights_of(loaded, path):
    """All weights of a checkpoint, without the `module.` of a wrapper."""
    state = loaded.get('state_dict', loaded)
    if not isinstance(state, dict) or not any(
            isinstance(value, torch.Tensor) for value in state.values()):
        raise SystemExit(f'{path!r} holds no weights; its entries: ' +
                         (', '.join(map(str, loaded)) or 'none'))
    if not all(isinstance(name, str) for name in state):
        raise SystemExit(f'{path!r} has weights without a name')
    if all(name.startswith('module.') for name in state):
        state = below('module.', state)
    return state


def below(prefix, state):
    """The part of ``state`` whose names begin so, without that beginning.

    Versions of modules come along: without them some heads of mmdet would
    take new weights for old ones and rename them.
    """
    part = OrderedDict((name[len(prefix):], value)
                       for name, value in state.items()
                       if name.startswith(prefix))
    versions = getattr(state, '_metadata', None)
    if isinstance(versions, dict):
        modules = {f'{name}.': version for name, version in versions.items()}
        part._metadata = OrderedDict(
            (name[len(prefix):].removesuffix('.'), plain(version, '', []))
            for name, version in modules.items()
            if name.startswith(prefix) and isinstance(version, dict))
    return part


def group_of(name):
    """`teacher.*` for a weight, `teacher_*` for a buffer of a hook."""
    root, dot, _ = name.partition('.')
    if dot:
        return f'{root}.*'
    loose = [start + '*' for start in LOOSE if root.startswith(start)]
    return loose[0] if loose else root


def told(counts):
    return ', '.join(f'{name} ({counts[name]})' for name in sorted(counts))


def recognise(state, loaded, path):
    """The format of the weights; exits with the reason if there is none."""
    counts = Counter(map(group_of, state))
    heads = sorted(counts.keys() & (STUDENTS | {STOCK}))
    if len(heads) > 1:
        raise SystemExit(f'{path!r} mixes several formats: {told(counts)}')
    if not heads or heads == [STOCK]:
        if ENTRY in loaded:
            return OURS
        if heads:
            raise SystemExit(f'{path!r} is a stock checkpoint already: '
                             'nothing to convert')
        if counts.keys() <= frozenset().union(*(f.rest for f in FORMATS)):
            raise SystemExit(
                f'{path!r} has no student weights, neither '
                f'{" nor ".join(sorted(STUDENTS))}; it has {told(counts)}')
        raise unknown(counts, counts, path)

    form = DISTILLER
    if heads == ['architecture.*']:
        refuse_mutable(state, counts, loaded, path)
        outer = [name for name in state if name.startswith(RAZOR_1.student)]
        inner = [name for name in outer if name.startswith(RAZOR_0.student)]
        # a student of 1.x may be one `model` too, but has a teacher beside it
        form = RAZOR_1 if inner != outer or counts.keys() & groups(
            'teacher', 'teachers') else RAZOR_0
    strangers = counts.keys() - form.rest - set(heads)
    if strangers:
        raise unknown(strangers, counts, path)
    nested = Counter(map(group_of, below(form.student, state)))
    nested_strangers = nested.keys() & (
        STUDENTS | groups('teacher', 'distiller', 'distill_losses'))
    if nested_strangers:
        raise unknown(
            (form.student + name for name in nested_strangers), counts, path)
    return form


def refuse_mutable(state, counts, loaded, path):
    meta = loaded.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    signs = sorted(counts.keys() & MUTABLE)
    signs += [name for name in state if MUTABLE_PART.match(name)][:1]
    if MUTABLE_CONFIG.search(f'{meta.get("cfg")} {meta.get("config")}'):
        signs.append('`mutator` in its config')
    if signs:
        raise SystemExit(
            f'{path!r} is an mmrazor checkpoint of a network that is '
            f'searched, pruned or quantised ({", ".join(signs)}): it holds '
            'no one student; export the one you want with mmrazor first')


def unknown(strangers, counts, path):
    known = '; '.join(f'{form.name}: {form.student}* beside ' +
                      ', '.join(sorted(form.rest)) for form in FORMATS)
    return SystemExit(f'{path!r}: unknown are {", ".join(sorted(strangers))} '
                      f'among {told(counts)}. Known are {known}')


def plain(value, where='', lost=None):
    """``value`` without what is no plain data; its names go to ``lost``."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if value is None:
        return None
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, (list, tuple)):
        kind = tuple if isinstance(value, tuple) else list
        return kind(plain(item) for item in value)
    if not isinstance(value, dict):
        raise TypeError(f'{type(value).__name__} is no plain data')
    kept = {}
    for key, item in value.items():
        name = f'{where}.{key}'
        try:
            kept[plain(key)] = plain(item, name, lost)
        except TypeError:
            if lost is None:
                raise
            lost.append(name)
    return kept


def stock_meta(loaded):
    """``meta`` as mmengine has it, and the names of what was lost."""
    meta, lost = loaded.get('meta'), []
    meta = plain(meta, 'meta', lost) if isinstance(meta, dict) else {}
    data = {  # of mmdet 2.x, mmseg 0.x and mmcls
        name: meta.pop(name.upper(), None) for name in ('classes', 'palette')}
    data = {name: value for name, value in data.items() if value is not None}
    if data:
        meta.setdefault('dataset_meta', data)
    return meta, lost


def convert(loaded, path):
    """The stock checkpoint; says what it holds and what not."""
    state = weights_of(loaded, path)
    form = recognise(state, loaded, path)
    weights = below(form.student, state)
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor):
            raise SystemExit(f'{path!r}: {form.student}{name} is a '
                             f'{type(value).__name__}, not a weight')
    whole = loaded if 'state_dict' in loaded else {}
    meta, lost = stock_meta(whole)
    print(f'{path}: {form.name}')
    print(f'  kept: {len(weights)} weights' +
          (f' of {form.student}*' if form.student else ''))
    dropped = Counter(
        group_of(name) for name in state if not name.startswith(form.student))
    if dropped:
        print(f'  dropped: weights of {told(dropped)}')
    lost += [str(name) for name in whole if name not in ('state_dict', 'meta')]
    if lost:
        print(f'  dropped: {", ".join(sorted(lost))}')
    if form is OURS:
        print('  the weights were a stock student already; nothing else '
              'needed doing')
    if 'ema_state_dict' in loaded:
        print('  EMAHook ran: the weights that are kept are the averaged ones')
    if 'ema_*' in dropped:
        print("  mmcv's EMAHook ran: of a run by epochs, the weights that are "
              'kept are the averaged ones; of one by iterations, those as '
              'trained')
    teacher = below('teacher.', state)
    if teacher and form is DISTILLER and shapes(teacher) == shapes(weights):
        print('  the teacher has the same weights: if this is a mean teacher '
              '(semi-supervised mmdet), the better model may be teacher.*')
    return dict(meta=meta, state_dict=weights)


def shapes(state):
    return {name: tuple(value.shape) for name, value in state.items()
            if isinstance(value, torch.Tensor)}


def build(name):
    """The model that a config describes."""
    path = find_config(name)
    try:
        cfg = Config.fromfile(path)
        model = dict(cfg.model)
        if cfg.get('default_scope'):
            model.setdefault('_scope_', cfg.default_scope)
        return MODELS.build(model)
    except Exception as error:  # configs are code, models refuse anyhow
        raise SystemExit(f'--config {name!r}: no model can be built: '
                         f'{type(error).__name__}: {error}') from error


def check(weights, name):
    """Load into the student of a config; exits unless all fits."""
    model = build(name)
    own, given = shapes(model.state_dict()), shapes(weights)
    other = [n for n in own if n in given and own[n] != given[n]]
    fitting = below('', weights)
    for weight in other:
        del fitting[weight]
    # by the model's own rules, as far as it knows how to read older weights
    result = model.load_state_dict(fitting, strict=False)
    problems = {
        'missing': [n for n in result.missing_keys if n not in other],
        'unexpected': list(result.unexpected_keys),
        'of another shape': [
            f'{n} {given[n]} instead of {own[n]}' for n in other]}
    if any(problems.values()):
        raise SystemExit(f'the student does not fit --config {name!r}, '
                         'nothing was written:\n' + '\n'.join(
                             f'  {len(names)} {what}: ' +
                             ', '.join(names[:10] + ['...'][:len(names) - 10])
                             for what, names in problems.items() if names))


def check_target(target, source, force):
    folder = osp.dirname(target) or '.'
    if not osp.isdir(folder):
        raise SystemExit(f'TARGET {target!r}: there is no folder {folder!r}')
    if osp.isdir(target):
        raise SystemExit(f'TARGET {target!r} is a folder')
    if osp.exists(target) and osp.samefile(target, source):
        raise SystemExit(f'TARGET {target!r} is SOURCE')
    if osp.lexists(target) and not force:
        raise SystemExit(f'TARGET {target!r} exists; --force replaces it')


def write(checkpoint, target):
    """All or nothing: a file of that name is always complete."""
    partial = f'{target}.{os.getpid()}.tmp'
    try:
        torch.save(checkpoint, partial)
        os.replace(partial, target)
    except (OSError, RuntimeError) as error:  # torch's for a full disk
        raise SystemExit(
            f'TARGET {target!r} cannot be written: {error}') from error
    finally:
        if osp.exists(partial):
            os.remove(partial)


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', help='path of the checkpoint')
    parser.add_argument('target', help='path of the student to write')
    parser.add_argument(
        '--config',
        help='config of the student, which must then fit: a path, or '
        'mmseg::..., mmdet::...')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='run the code that SOURCE may hold, if it cannot be read '
        'otherwise: only for files whose origin you trust')
    parser.add_argument(
        '--force', action='store_true', help='replace TARGET if it exists')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    find_file(args.source, '.pth', 'checkpoint')
    check_target(args.target, args.source, args.force)
    try:
        loaded = load_checkpoint_file(
            args.source, args.trust_checkpoint, '--trust-checkpoint')
    except ValueError as error:
        raise SystemExit(str(error)) from error
    student = convert(loaded, args.source)
    if args.config:
        check(student['state_dict'], args.config)
        print(f'  checked: it loads strictly into {args.config}')
    else:
        print('  not checked: --config, the config of the student, would '
              'load the weights strictly')
    write(student, args.target)
    print(f'written: {args.target}')


if __name__ == '__main__':
    main()
