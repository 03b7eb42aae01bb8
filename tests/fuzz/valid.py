"""Making a valid case."""
import copy
import pprint
import random
from typing import Any

import tiny_runs
import torch

from mmselfkd import losses, schedules, teachers
from mmselfkd.distillation.level_matching import resize_like
from mmselfkd.distillation.loss_config import OPTIONS

from .cases import (
    LOSSES,
    METHODS,
    STEPS,
    Case,
    Taught,
    hook_class,
    of_boxes,
)
from .models import (
    CLASSES,
    HEADS,
    Places,
    Shape,
    heads_of,
    make_model,
    places_of,
    see,
)
from .values import some

OURS = ('key', 'source', 'neck', 'head')  # arguments of teachers made here
# what each case in turn has for sure, and the others now and then
THEMES = ('', 'losses', 'ignored', 'bands', 'memory', 'tokens', 'twice')
CE = dict(type='CrossEntropyLoss', loss_name='loss_ce')
BCE = dict(CE, use_sigmoid=True)
DICE = dict(type='DiceLoss', loss_name='loss_dice', loss_weight=0.5)
TVERSKY = dict(type='TverskyLoss', loss_name='loss_tversky')
LOVASZ = dict(type='LovaszLoss', reduction='none', loss_name='loss_lovasz')
# of a softmax, and of a sigmoid; the last of each is NaN without a label
LISTS = ([CE, DICE], [DICE, CE], [CE, TVERSKY], [CE, LOVASZ])
SIGMOID_LISTS = ([BCE, DICE], [DICE, BCE], [BCE, LOVASZ])
WORTH = 1e3  # a loss of more on maps of noise ends in NaN, in the best of runs


def make_valid(seed: Any, number: int, folder: str) -> Case:
    rng = random.Random(f'{seed} valid {number}')
    case = make_base(rng, f'valid-{number}', folder,
                     theme=THEMES[number % len(THEMES)])
    if rng.random() < 0.1:
        rng.choice(list(case.terms.values()))[0]['loss_weight'] = 0
    return case


def make_base(rng, label: str, folder: str, only: str = '',
              theme: str | None = None) -> Case:
    """A valid case.

    Args:
        rng (random.Random): Draws.
        label (str): Of the case.
        folder (str): For its files.
        only (str): The hook.
        theme (str, optional): One of :data:`THEMES` that it has. None: it has
            none of them.
    """

    def drawn(what: str, share: float) -> bool:
        return theme is not None and (theme == what or rng.random() < share)

    head = rng.choice(['SegFormer', 'Segmenter', 'Segmenter'] if (
        theme == 'tokens') else HEADS)
    size = rng.choice([(32, 32), (32, 32), (33, 33), (37, 37), (48, 32),
                       (33, 47)])
    case = Case(label, head, places_of(head, 4, size), size,
                batch=rng.choice([2, 2, 2, 3]))
    model = make_model(head, case.width)
    by_epoch = rng.random() < 0.3
    if by_epoch:
        epochs = rng.choice([1, 2])
        length = case.batch * STEPS // epochs
        if epochs == 1 and head in ('Auxiliary', 'FCN', 'Binary'):
            length -= rng.choice([0, case.batch - 1])  # a last batch of one
        case.lengths = STEPS, epochs
    else:
        length = rng.choice([2, 3, 4, 8])
        case.lengths = STEPS, -(-STEPS // -(-length // case.batch))
    _vary(rng, head, model)
    if drawn('bands', 0.1):
        case.bands = rng.choice([1, 4])
        see(model, case.bands)
        model['data_preprocessor']['bgr_to_rgb'] = rng.random() < 0.4
    if head != 'Binary' and drawn('ignored', 0.15):
        _ignore(rng, case, model)
    if drawn('losses', 0.15):
        _list_losses(rng, case, model)
    name = only or rng.choice(['DistillHook'] * 8 + [*METHODS])
    if drawn('twice', 0.1):
        name, case.twin = 'DistillHook', 'last'
    case.hook = make_hook(rng, case, name, folder)
    case.cfg = make_config(rng, case, model, by_epoch, length)
    if drawn('memory', 0.1):
        case.twin = 'plain'
        case.cfg['train_dataloader']['dataset']['pipeline'].insert(
            2, dict(type='Brighter'))
    case.bf16 = rng.random() < 0.15
    if case.bf16:
        case.cfg['optim_wrapper']['type'] = 'BFloat16OptimWrapper'
    return case


def _vary(rng, head: str, model: dict) -> None:
    """Options of the student that no loss needs to know."""
    last = heads_of(model)[-1]
    if head not in ('SegFormer', 'Segmenter'):
        model['backbone'].update(rng.choice([
            {}, {}, dict(with_cp=True), dict(frozen_stages=1),
            dict(norm_eval=True)]))
    if head in ('FCN', 'Auxiliary', 'PSPNet') and rng.random() < 0.2:
        last['norm_cfg'] = None
    if head != 'Binary' and rng.random() < 0.15:
        last['sampler'] = dict(
            type='OHEMPixelSampler', thresh=0.7, min_kept=50)
    last['dropout_ratio'] = rng.choice([0., 0.1, 0.5])


def _ignore(rng, case: Case, model: dict) -> None:
    """Another label that does not count, and pixels of it."""
    case.ignored = rng.choice([0, 0, -100, 255])
    case.void = rng.choice(['some', 'some', 'all'])
    *others, last = heads_of(model)
    # another one learns the class 0, and knows no label below it
    case.aside = rng.choice([0, 255]) if case.ignored == 0 else case.ignored
    last['ignore_index'] = case.ignored
    for head in others:
        head['ignore_index'] = case.aside
    model['data_preprocessor']['seg_pad_val'] = case.ignored


def _list_losses(rng, case: Case, model: dict) -> None:
    """Several task losses on the scores of each head."""
    lists = LISTS
    if case.head == 'Binary':
        lists = SIGMOID_LISTS[:2]
    elif rng.random() < 0.5:
        case.is_sigmoid, lists = True, SIGMOID_LISTS
    listed = rng.choice(lists[:-1] if case.void == 'all' else lists)
    for head in heads_of(model):
        head['loss_decode'] = copy.deepcopy(listed)
        head.pop('sampler', None)  # its weights are of pixels
    case.twin = 'single'


# -- schedules ----------------------------------------------------------------


def make_schedule(rng, lengths: tuple[int, int]) -> dict:
    """A schedule that lies within the run."""
    by_epoch = rng.random() < 0.4
    length = lengths[by_epoch]
    kinds = [name for name in schedules.__all__
             if name != 'Step' or length > 1]
    kind = rng.choice(kinds)
    cls = getattr(schedules, kind)
    cfg = dict(type=kind, **some(
        rng, cls, 'begin', 'end', 'milestones', 'by_epoch'))
    if by_epoch or rng.random() < 0.2:
        cfg['by_epoch'] = by_epoch
    if kind == 'Stop':
        return dict(cfg, end=rng.randint(1, length))
    if kind == 'Step':
        return dict(cfg, milestones=[rng.randint(1, length - 1)])
    begin, end = rng.randint(0, length - 1), None
    if rng.random() < 0.4:  # shares: both, or the other one open
        begin, end = rng.choice(
            [(0.3, None), (0.25, 0.75), (2 / 3, None), (0, 1 / 12)])
    elif rng.random() < 0.5:
        end = rng.randint(begin + 1, length)
    for name, value, default in (('begin', begin, 0), ('end', end, None)):
        if value != default or rng.random() < 0.3:
            cfg[name] = value
    return cfg


# -- teachers -----------------------------------------------------------------


def make_teacher(rng, case: Case, kind: str, folder: str) -> Taught:
    """One of this class."""
    if kind == 'FrozenTeacher':
        return _make_frozen(rng, case, folder)
    if kind == 'SelfTeacher':
        return _make_self(rng, case)
    cls = getattr(teachers, kind)
    while True:  # some of them would begin after the end
        cfg = dict(type=kind, **some(rng, cls, *OURS))
        if kind == 'SnapshotTeacher':
            cfg.setdefault('interval', 1)
        try:
            cls(**{k: v for k, v in cfg.items() if k != 'type'}
                ).check_length(*case.lengths)
            break
        except ValueError:
            continue
    if kind == 'MixTeacher':
        return _made_of_mixes(rng, case, cfg)
    return Taught(cfg, copy.deepcopy(case.places))


def _made_of_mixes(rng, case: Case, cfg: dict) -> Taught:
    if case.head == 'FPN' and rng.random() < 0.3:
        cfg['source'] = 'neck'
    features, = case.places.shapes['features']
    logits, = case.places.shapes['logits']
    classes = logits[0], *features[1:]
    shapes = {}
    for view in ('interpolated', 'mixed'):
        shapes.update({
            f'{view}.features': [features] * 4,
            f'{view}.branches': [classes] * 3,
            f'{view}.logits': [logits], f'{view}.aggregated': [classes]})
    scores = [name for name in shapes
              if name.endswith(('.logits', '.aggregated'))]
    return Taught(cfg, Places(
        scores, ['interpolated.features', 'mixed.features'], scores, shapes))


def _make_frozen(rng, case: Case, folder: str) -> Taught:
    head = rng.choice(
        [case.head, 'Auxiliary', *HEADS]) if case.head != 'Binary' else (
            rng.choice(['Binary', 'FCN']))
    classes = CLASSES if rng.random() < 0.85 else 5
    width = rng.choice([4, 8, 12, 16])
    model = make_model(head, width, classes)
    theirs = case.bands
    if case.bands > 3 and rng.random() < 0.3:  # some of the channels
        theirs, channels = 3, rng.sample(range(case.bands), 3)
    see(model, theirs)
    if rng.random() < 0.3:
        model['data_preprocessor'].update(rng.choice([
            dict(mean=[127.5], std=[127.5]), dict(bgr_to_rgb=True),
            dict(bgr_to_rgb=False), dict(mean=None, std=None)]))
    if case.is_sigmoid and head != 'Binary':
        for one in heads_of(model):
            one['loss_decode'] = copy.deepcopy(BCE)
    full: Any = dict(model=model, default_scope='mmseg')
    form = rng.random()
    if form < 0.2:
        full = model
    elif form < 0.4:
        path = f'{folder}/teacher{len(case.files)}.py'
        case.files[path] = pprint.pformat(model, sort_dicts=False).join(
            ["default_scope = 'mmseg'\nmodel = ", '\n'])
        full = path
    cfg = dict(config=full, checkpoint='random')
    if theirs != case.bands:
        cfg['channels'] = channels
    if rng.random() < 0.5:
        cfg['checkpoint'] = f'{folder}/teacher{len(case.files)}.pth'
        case.files[cfg['checkpoint']] = ('weights', model)
    if rng.random() < 0.2:
        cfg['type'] = 'FrozenTeacher'
    if rng.random() < 0.2:
        cfg.update(some(rng, teachers.Execution, 'key'))
    places = places_of(head, width, case.size, classes)
    if classes != CLASSES and head != 'Binary' or (
            case.head == 'Binary') != (head == 'Binary'):
        places.scores = []
    return Taught(cfg, places, head=head if places.scores else '')


def _make_self(rng, case: Case) -> Taught:
    cfg: dict[str, Any] = dict(type='SelfTeacher')
    source = rng.choice([
        None, None, 'backbone', ['backbone[1]', 'backbone[3]'],
        'neck' if case.head == 'FPN' else None])
    if source is not None:
        cfg['source'] = source
    ours = [shape for one in (source if isinstance(source, list) else [
        source or 'backbone']) for shape in case.places.shapes[one]]
    levels = len(ours)
    neck: dict[str, Any] = {}
    for name, values in (('weighted', [True, False]),
                         ('num_layers', [1, 2])):
        if rng.random() < 0.5:
            neck[name] = rng.choice(values)
    if rng.random() < 0.3:
        neck['num_convs'] = 2
    if rng.random() < 0.3:
        neck.update(rng.choice([
            dict(width=0.5), dict(out_channels=6), dict(norm_cfg=None),
            dict(out_channels=list(range(5, 5 + levels))),
            dict(norm_cfg=dict(type='GN', num_groups=1))]))
    if rng.random() < 0.3:
        neck['last'] = 'top_down'
    if neck or rng.random() < 0.3:
        cfg['neck'] = dict(neck, type='BiFPN')
    if neck.get('last') == 'top_down' and rng.random() < 0.5:
        cfg['head'] = dict(type='FCNHead', in_index=0, num_convs=1)
    elif rng.random() < 0.5:
        cfg['head'] = dict(type='SegformerHead', **rng.choice([
            {}, dict(dropout_ratio=0.), dict(channels=6),
            dict(loss_decode=dict(type='CrossEntropyLoss',
                                  use_sigmoid=case.is_sigmoid))]))
    return Taught(cfg, _refined(case, ours))


def _refined(case: Case, ours: list[Shape]) -> Places:
    """What a neck and a head give on these levels.

    Their channels are unlike all others.
    """
    levels = [(1000 + i, *shape[1:]) for i, shape in enumerate(ours)]
    scores = case.places.shapes['logits'][0][0], *ours[0][1:]
    shapes = {'neck': levels, 'neck.layers.0': levels,
              'features': [(2000, *ours[0][1:])],
              'decode_head.convs.0': [(2000, *ours[0][1:])],
              'logits': [scores], 'decode_head.conv_seg': [scores]}
    single = [f'neck[{i}]' for i in range(-len(levels), len(levels))]
    for i, name in enumerate(single):
        shapes[name] = [levels[i % len(levels)]]
    return Places(['features', 'decode_head.convs.0', *single],
                  ['neck', 'neck.layers.0'],
                  ['logits', 'decode_head.conv_seg'], shapes)


# -- losses -------------------------------------------------------------------


def can_teach(entry: dict, student: list[Shape], teacher: list[Shape],
              is_sigmoid: bool) -> bool:
    """Whether a loss, called by itself, takes levels of such shapes.

    Args:
        entry (dict): As in ``losses``.
        student, teacher (list[Shape]): The levels of both sides.
        is_sigmoid (bool): How class scores are read.
    """
    options = {k: v for k, v in entry.items()
               if k != 'type' and k not in OPTIONS}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours, theirs = (
            [3 * torch.randn(2, min(channels, 64), *size)
             for channels, *size in shapes] for shapes in (student, teacher))
        channels = {id(level): shape[0] for level, shape in zip(
            ours + theirs, student + teacher)}
        try:
            loss = LOSSES[entry['type']](**copy.deepcopy(options))
            if loss.activation is None:
                loss.activation = 'sigmoid' if is_sigmoid else 'softmax'
            loss.num_classes = loss.num_classes or CLASSES
            pairs = loss.pair_levels(ours, theirs)
            if loss.channels == 'equal' and any(
                    channels[id(s)] != channels[id(t)] for s, t in pairs):
                return False
            return any([_teaches(loss, s, t) for s, t in pairs])
        except (ValueError, RuntimeError):
            return False


def _teaches(loss: losses.DistillationLoss, s: torch.Tensor,
             t: torch.Tensor) -> bool:
    """Whether a level teaches; where it does, it must be bearable.

    Raises:
        ValueError: It does not take the level, or gives too much of it.
    """
    if loss.channels == 'adapt':
        s = 3 * torch.randn(2, t.shape[1], *s.shape[2:])
    if loss.sizes == 'equal':
        t = resize_like(t, s)
    s = s.requires_grad_()
    try:
        loss.check(s, t)
    except ValueError:
        return False
    image = torch.rand(2, 3, 8, 8)
    asked = dict(image=image) if loss.needs_image else {}
    if loss.needs_label:
        asked['label'] = torch.randint(0, 2, (2, 8, 8))
    if loss.needs_classifier:
        asked['classifier'] = torch.nn.Conv2d(
            t.shape[1], CLASSES, 1).requires_grad_(False)
    loss.build(s, t, image)
    value = loss(s, t, **asked)
    slope, = torch.autograd.grad(value, s)
    if not (value.abs() < WORTH and slope.isfinite().all()):
        raise ValueError
    return True


def make_term(rng, case: Case, like: dict | None = None) -> dict:
    """A loss between the student and one of the teachers.

    Args:
        rng (random.Random): Draws.
        case (Case): With its teachers.
        like (dict, optional): Another loss, whose source it has.
    """
    is_sigmoid = case.is_sigmoid
    while True:
        name = rng.choice(list(case.teachers))
        taught = case.teachers[name]
        kind = rng.choice(list(LOSSES))
        if of_boxes(kind):
            continue
        if LOSSES[kind].channels == 'classes' and not taught.places.scores:
            continue
        is_mix = (taught.cfg or {}).get('type') == 'MixTeacher'
        student, teacher = (_mixed_sources if is_mix else _sources)(
            rng, case, taught, kind) if like is None else _paths_of(like)
        if like is not None and LOSSES[kind].channels == 'classes' and (
                LOSSES[like['type']].channels != 'classes'):
            continue
        if LOSSES[kind].needs_classifier:
            if like is not None and teacher != ['features']:
                continue
            teacher = ['features']
            if not _has_classifier(taught):
                continue
        cfg = dict(type=kind, **some(rng, LOSSES[kind]))
        ours = taught.places if is_mix else case.places
        if can_teach(cfg, _shapes(ours, student),
                     _shapes(taught.places, teacher), is_sigmoid):
            break
    if is_mix:
        student = [f'{name}:{source}' for source in student]
    if len(case.teachers) > 1 or rng.random() < 0.15:
        teacher = [f'{name}:{source}' for source in teacher]
    student, teacher = (x[0] if len(x) == 1 and rng.random() < 0.8 else x
                        for x in (student, teacher))
    cfg['source'] = student if student == teacher and rng.random(
    ) < 0.7 else dict(student=student, teacher=teacher)
    if rng.random() < 0.6:
        cfg['loss_weight'] = rng.choice([0.1, 1, 2.5, 1e-6])
    if rng.random() < 0.4:
        cfg['schedule'] = make_schedule(rng, case.lengths)
    return cfg


def _paths_of(term: dict) -> tuple[list[str], list[str]]:
    """What both sides of a loss look at, without whose it is."""
    both = term['source']
    if not isinstance(both, dict):
        both = dict(student=both, teacher=both)
    student, teacher = (
        [one.rpartition(':')[2] for one in (
            both[side] if isinstance(both[side], list) else [both[side]])]
        for side in ('student', 'teacher'))
    return student, teacher


def _has_classifier(taught: Taught) -> bool:
    """Whether a teacher is a whole model, whose head has a classifier."""
    kind = (taught.cfg or {}).get('type', 'FrozenTeacher')
    return taught.places.has_classifier and kind.removeprefix(
        'mmselfkd.') in ('FrozenTeacher', 'EMATeacher', 'SnapshotTeacher')


def _shapes(places: Places, sources: list[str]) -> list[Shape]:
    """The levels of all of the sources."""
    others = {'auxiliary_head.conv_seg': 'logits',
              'decode_head.0.conv_seg': 'logits'}
    return [shape for source in sources
            for shape in places.shapes[others.get(source, source)]]


def _sources(rng, case: Case, taught: Taught, kind: str
             ) -> tuple[list[str], list[str]]:
    """What student and teacher look at."""
    ours, theirs = case.places, taught.places
    cls = LOSSES[kind]
    if cls.channels == 'classes':
        count = rng.choice([1, 1, 1, 2])
        student = rng.choices(ours.scores, k=count)
        if rng.random() < 0.2 and case.head in ('Auxiliary', 'OCR'):
            student[0] = dict(
                Auxiliary='auxiliary_head.conv_seg',
                OCR='decode_head.0.conv_seg')[case.head]
        elif rng.random() < 0.3 and 'logits' in theirs.scores:
            return ['logits'] * count, ['logits'] * count
        return student, rng.choices(theirs.scores, k=count)
    if cls.channels == 'equal' and rng.random() < 0.8:
        both = [rng.choice([*ours.maps, *ours.many])]
        if both[0] in theirs.shapes:
            return both, list(both)
    count = rng.choice([1, 1, 1, 2, 4])
    if cls.sizes == 'any' or count == 4:
        student = [rng.choice(ours.many)]
        if rng.random() < 0.3:
            student = rng.choices(ours.maps, k=4)
        return student, [rng.choice(theirs.many)]
    student = rng.choices(ours.maps, k=count)
    if set(student) <= set(theirs.maps) and rng.random() < 0.5:
        return student, list(student)
    return student, rng.choices(theirs.maps, k=count)


def _mixed_sources(rng, case: Case, taught: Taught, kind: str
                   ) -> tuple[list[str], list[str]]:
    """The same of the interpolated and of the mixed view."""
    pairs = ['features', 'branches', 'logits', 'aggregated']
    if LOSSES[kind].channels == 'classes':
        pairs = pairs[1:]
    one = rng.choice(pairs)
    return [f'interpolated.{one}'], [f'mixed.{one}']


# -- hooks --------------------------------------------------------------------


def make_hook(rng, case: Case, name: str, folder: str) -> dict:
    hook: dict[str, Any] = dict(type=f'mmselfkd.{name}')
    if name == 'DistillHook':
        kinds = ['FrozenTeacher'] * 3 + [
            'EMATeacher', 'SnapshotTeacher', 'SelfTeacher', 'MixTeacher',
            'StudentAsTeacher']
        named = case.twin != 'last' and rng.random() < 0.35
        names = rng.sample(['a', 'big', 'teacher', 'me_2', 'T'],
                           rng.choice([1, 2, 2, 3])) if named else ['teacher']
        for one in names:
            case.teachers[one] = make_teacher(
                rng, case, rng.choice(kinds), folder)
        keys = rng.sample(['loss_a', 'my_loss', 'loss', 'lossB2'],
                          rng.choice([1, 1, 2, 3]))
        hook['losses'] = {key: make_term(rng, case) for key in keys}
        if case.twin == 'last':
            hook['losses']['loss_z'] = make_term(
                rng, case, hook['losses'][keys[0]])
        if len(names) > 1:  # one that no loss looks at is a mistake
            sources = repr(hook['losses'])
            case.teachers = {one: taught for one, taught in
                             case.teachers.items() if f"'{one}:" in sources}
        hook['teacher'] = {
            one: taught.cfg for one, taught in case.teachers.items()
        } if named else case.teachers['teacher'].cfg
    else:
        _fill_method(rng, case, hook, folder)
    if rng.random() < 0.2:
        hook['task_schedule'] = make_schedule(rng, case.lengths)
    givers = [one for one, taught in case.teachers.items()
              if taught.head == case.head]
    if givers and rng.random() < 0.5:  # its last biases fit at least
        one = rng.choice(givers)
        inherit = one + ':decode_head' if len(case.teachers) > 1 else (
            'decode_head')
        hook['inherit'] = inherit if rng.random() < 0.5 else [inherit]
    return hook


def _fill_method(rng, case: Case, hook: dict, folder: str) -> None:
    """Teacher and overrides of a method hook."""
    cls = hook_class(hook)
    own = (cls.preset_teacher or {}).get('type')
    kinds = [own] if own else []
    if own in (None, 'EMATeacher'):
        kinds += ['FrozenTeacher', 'EMATeacher', 'SnapshotTeacher',
                  'SelfTeacher']
    while True:
        taught = make_teacher(rng, case, rng.choice(kinds), folder)
        if own and rng.random() < 0.4:  # the hook's own, without options
            taught = Taught(None, _refined(
                case, case.places.shapes['backbone'])) if (
                    own == 'SelfTeacher') else make_teacher(
                        rng, case, own, folder)
            taught.cfg = None
        case.teachers['teacher'] = taught
        hook.pop('teacher', None)
        if taught.cfg is not None:
            hook['teacher'] = taught.cfg
        # of the object: it may depend on the teacher
        preset = cls(**{k: v for k, v in hook.items() if k != 'type'}).preset
        off = [key for key, cfg in preset.items()
               if not _fits(case, taught, cfg)]
        if len(off) < len(preset) or rng.random() < 0.2:
            break
    entries: dict[str, dict | None] = dict.fromkeys(off)
    for key, cfg in preset.items():
        if key in off:
            continue
        if rng.random() < 0.5:
            entry = some(rng, LOSSES[cfg['type']])
            if not _fits(case, taught, {**cfg, **entry}):
                entry = {}
            if rng.random() < 0.4:
                entry['loss_weight'] = rng.choice([0.5, 1, 2.0])
            if rng.random() < 0.4:
                entry['schedule'] = rng.choice(
                    [None, make_schedule(rng, case.lengths)])
            entries[key] = entry
        elif rng.random() < 0.2 and sum(
                entries.get(k, {}) is not None for k in preset) > 1:
            entries[key] = None
    if rng.random() < 0.3 or all(
            entries.get(k, {}) is None for k in preset):
        entries['loss_more'] = make_term(rng, case)
    if entries or rng.random() < 0.3:
        hook['losses'] = entries


def _fits(case: Case, taught: Taught, cfg: dict) -> bool:
    """Whether a loss of a preset can look at this teacher."""
    if LOSSES[cfg['type']].needs_classifier and not _has_classifier(taught):
        return False
    both = cfg['source']
    if not isinstance(both, dict):
        both = dict(student=both, teacher=both)
    shapes: dict[str, list[Shape]] = {}
    for side in ('student', 'teacher'):
        listed = both[side] if isinstance(both[side], list) else [both[side]]
        shapes[side] = []
        for source in listed:
            owner, _, path = source.rpartition(':')
            places = taught.places if owner or side == 'teacher' else (
                case.places)
            path = 'backbone' if path == 'pyramid' else path
            known = path in places.shapes and not (
                LOSSES[cfg['type']].channels != 'any'
                and path == 'logits' and not places.scores)
            if not known:
                return False
            shapes[side] += places.shapes[path]
    return can_teach(cfg, shapes['student'], shapes['teacher'],
                     case.is_sigmoid)


# -- the rest of the config ---------------------------------------------------


def make_config(rng, case: Case, model: dict, by_epoch: bool,
                length: int) -> dict:
    """The whole config around the hook."""
    hooks = [case.hook]
    if rng.random() < 0.1:
        hooks.append(dict(
            type='DistillHook', teacher=dict(type='EMATeacher'), losses=dict(
                loss_second=dict(type='ATLoss', source='backbone[0]'))))
    if rng.random() < 0.3:
        hooks.append(dict(type='EMAHook', momentum=0.1))
        if rng.random() < 0.3:
            hooks.reverse()  # the priority decides
    cfg = tiny_runs.config(
        'work_dir', iters=case.lengths[by_epoch], by_epoch=by_epoch).to_dict()
    cfg.update(custom_hooks=hooks, model=model, log_level='ERROR')
    if by_epoch:
        cfg['train_cfg']['val_interval'] = rng.choice([1, 1000, 1000])
    height, width = case.size
    model['data_preprocessor']['size'] = (height, width)
    loader = cfg['train_dataloader']
    loader['batch_size'] = case.batch
    loader['dataset'].update(
        size=height, length=length, serialize_data=False)
    pipeline = loader['dataset']['pipeline']
    if height != width:
        pipeline.insert(2, dict(
            type='Resize', scale=(width, height), keep_ratio=False))
    if case.head == 'Binary':
        pipeline.insert(2, dict(type='BinaryLabels'))
    pipeline[2:2] = dict(
        all=[dict(type='IgnoreAllLabels', label=case.ignored)],
        some=[rng.choice([
            dict(type='SomeIgnored', label=case.ignored),
            dict(type='mmselfkd.KeepLabels', one_in=2,
                 ignore_index=case.ignored)])]).get(case.void, [])
    cfg['val_dataloader']['dataset'].update(
        size=height, length=2, serialize_data=False)
    for one in (loader, cfg['val_dataloader']):
        if case.bands != 3:
            one['dataset']['pipeline'].insert(
                -1, dict(type='Bands', count=case.bands))
    wrapper = cfg['optim_wrapper']
    wrapper['optimizer']['weight_decay'] = 5e-4
    if rng.random() < 0.4:
        wrapper['optimizer'] = rng.choice([
            dict(type='AdamW', lr=1e-3, weight_decay=0.01),
            dict(type='Adam', lr=1e-3, weight_decay=0.),
            dict(type='SGD', lr=0.1, weight_decay=0.)])
    if rng.random() < 0.3:
        wrapper['paramwise_cfg'] = rng.choice([
            dict(norm_decay_mult=0., bias_decay_mult=0.),
            dict(custom_keys={'head': dict(lr_mult=10.)}),
            dict(bias_lr_mult=2., bypass_duplicate=True)])
    if rng.random() < 0.3:
        wrapper['clip_grad'] = dict(max_norm=1.)
    if rng.random() < 0.3:
        wrapper['accumulative_counts'] = 2
    if rng.random() < 0.3:
        cfg['param_scheduler'] = rng.choice([None, [
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=2)]])
    return cfg
