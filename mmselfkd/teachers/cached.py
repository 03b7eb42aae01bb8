"""A pretrained teacher whose answers are read where they were given once."""
import dataclasses
import inspect
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from torch import nn

from ..errors import ConfigError
from ..hosts import Place, Reading, host_of
from ..registry import TEACHERS, build_part, find_part
from .cache_fingerprint import (
    file_hash,
    fingerprint,
    plain,
    state_hash,
    teacher_config,
    weight_files,
)
from .cache_options import CacheOptions, readable
from .cache_packing import Packing, Parts, unpacked
from .cache_store import META, CacheStore, Companion, Record, Size
from .model_teacher import ModelTeacher
from .teacher import BatchContext, RecordedViews, Teacher, TeacherOutput

VERSION = 1  # of what is stored
PADDING = ('BatchFixedSizePad', )  # batch augmentations that only pad
LOADER = ("dataset=dict(type='mmselfkd.FixedViews', views=4, dataset=...), "
          "sampler=dict(type='mmselfkd.ViewSampler', sampler=...)")


class CachedTeacher(ModelTeacher):
    """Another teacher, asked once for each sample in each view.

    What its tapped places give is stored image by image and read back, in
    later epochs and runs, in the place of a forward pass. It was given for
    the very pixels that the student sees, since the samples are those of a
    :class:`~mmselfkd.datasets.FixedViews`. The name of the folder in ``dir``
    stands for all that an answer depends on; with other weights, data or
    settings there is another folder.

    Where the teacher is asked, the student gets what will be read back. So a
    run that fills a folder and one that reads it are the same, and with
    ``precision='fp32'`` as a run without a cache.

    Where every answer is there, the model is not built.

    Args:
        cfg (dict): Config of the teacher, a pretrained model.
        cache (dict): See :class:`CacheOptions`.
        key (str): Where ``cfg`` stands in the config, for the errors.

    Attributes:
        store (CacheStore): Of this run's folder.
        stopped (str): Why no further answer can be stored; '' if it can.
        is_complete (bool): Whether all were there when the run began.
        asks_whole_batches (bool): Whether the teacher is asked for a whole
            batch where a part of the answers is there. In a batch of fewer
            images the last bits may differ, so in ``'fp32'`` it is.

    Raises:
        ConfigError: A value that cannot work, or a teacher that changes.
    """

    def __init__(self, cfg: dict[str, Any], cache: Any, key: str) -> None:
        Teacher.__init__(self, key)
        self._cfg, self._where = cfg, f'{key}.cache'
        self.options = CacheOptions.of(cache, self._where)
        self.asks_whole_batches = self.options.precision == 'fp32'
        kind = cfg['type']
        cls = find_part(kind, TEACHERS) if isinstance(kind, str) else kind
        if inspect.isclass(cls) and not getattr(cls, 'is_pretrained', False):
            raise self._changing(cls)
        self._parts: dict[str, Any] = {}
        self._requests: dict[str, str] = {}
        self._teacher: Any = None
        self._is_connected = False
        self._places: dict[str, Place] = {}
        self._packings: dict[str, list[Packing]] = {}
        self.stopped = ''  # why nothing more is stored
        self._count: Counter = Counter()

    # -- the model, where it is needed ----------------------------------------

    @property
    def model(self) -> nn.Module:  # type: ignore[override]
        """The teacher's own, which is built for whoever asks for it."""
        return self._built().model

    @property
    def is_built(self) -> bool:
        """Whether the model has been needed."""
        return self._teacher is not None

    def _built(self) -> Any:
        if self._teacher is None:
            teacher = build_part(self._cfg, TEACHERS, self.key, ('cache', ),
                                 dict(key=self.key))
            teacher.key = self.key
            if not teacher.is_pretrained or teacher.module is not None:
                raise self._changing(type(teacher))
            if isinstance(teacher, ModelTeacher):  # as its `fit` would do
                teacher.model.to(self._device).requires_grad_(False).eval()
            self._check_weights()
            self._teacher = teacher
        return self._teacher

    def _changing(self, cls: type) -> ConfigError:
        return ConfigError(
            f'{self._where}: what a {cls.__name__} teaches changes in the run '
            'and cannot be kept; leave out `cache`, or take a pretrained '
            'model (config=..., checkpoint=...)')

    def _check_weights(self) -> None:
        """The files are those that the folder was named after.

        Raises:
            ConfigError: One of them was replaced in between.
        """
        known = self._parts.get('weights', ())
        for file, found in zip(weight_files(self._cfg), known):
            if file_hash(file) != found:
                raise ConfigError(
                    f'{self.key}: {file!r} was replaced since the run began '
                    'to look for its answers; start the run again')

    def _connected(self, context: BatchContext) -> Teacher:
        """The teacher, which has seen a batch and knows its taps."""
        teacher = self._built()
        if not self._is_connected:
            for source, key in self._requests.items():
                teacher.request(source, key, context.student)
            teacher.fit(context, self._resources)
            teacher.rehearse(context).join()
            self._is_connected = True
        return teacher

    # -- before training ------------------------------------------------------

    def request(self, source: str, key: str, student: nn.Module) -> None:
        if host_of(student).regions_for(student, source):
            raise ConfigError(
                f'{self._where}: {key} = {source!r} is asked for the RoIs '
                'that the student chooses in each step, which never come '
                'again; leave out `cache`, or look at maps, such as '
                "source='neck'")
        self._requests.setdefault(source, key)

    def fit(self, context: BatchContext, resources: ExitStack) -> None:
        """Find the folder, and build the model unless all is there.

        Raises:
            ConfigError: Samples that do not come again, or weights of which
                nothing is known.
        """
        self._resources, self._device = resources, context.inputs.device
        self._recorded = _recorded(context, self._where)
        self._parts = self._all_parts(context)
        self.name_of_folder = fingerprint(self._parts)
        self.store = CacheStore(Path(self.options.dir) / self.name_of_folder)
        self._companion = Companion(
            self.store, f'answers_{self.name_of_folder}', _size(context))
        self._meta = self.store.meta()
        self._contents = self.store.contents()
        limit = self.options.limit
        self._left = float('inf') if limit is None else (
            limit - self._contents.bytes) / get_world_size()
        self.total = self._recorded.dataset.size * self._recorded.dataset.views
        self.is_complete = (
            self._meta is not None and len(self._contents.views) == self.total
            and set(self._contents.sizes) == {_size(context)})
        if not self.is_complete:
            self._built()

    def rehearse(self, context: BatchContext) -> TeacherOutput:
        """A first output, by which the levels are known.

        Raises:
            ConfigError: A level that cannot be kept image by image or packed
                so, or a folder that cannot be written.
        """
        if self.is_complete:
            assert self._meta is not None
            self._learn(self._meta)
            output = self.teach(context, None)
        else:
            output = self._first_output(context)
            self._make_folder()
        self._count.clear()
        companions = self._recorded.dataset.companions
        companions[self._companion.name] = self._companion
        self._resources.callback(companions.pop, self._companion.name)
        self._resources.callback(self._report)
        return output

    def place(self, source: str) -> Place | None:
        return self._places[source]

    def has(self, view: tuple[int, int]) -> bool:
        """Whether an answer for a sample in a view was stored."""
        return view in self._contents.views

    def told(self) -> str:
        """What is stored now, by all ranks."""
        contents = self.store.contents()
        sizes = ' and '.join(f'{h}x{w}' for h, w in sorted(contents.sizes))
        text = (f'{len(contents.views):,} of {self.total:,} answers in '
                f'{str(self.store.folder)!r}, {readable(contents.bytes)}')
        if len(contents.sizes) > 1:
            return (f'{text}, for batches padded to {sizes}: in a batch that '
                    'is padded to another size the teacher is asked anew; let '
                    'all be padded to one')
        if len(contents.views) < self.total:
            return f'{text}; {self.stopped}'
        return f'{text}; the teacher need not run again'

    def describe(self) -> str:
        assert self._meta is not None
        contents = self._contents
        each = contents.bytes / max(sum(contents.sizes.values()), 1) or (
            self._bytes_each)
        limit = self.options.limit
        return (f'{self._meta["describe"]}; answers in '
                f'{str(self.store.folder)!r}: {len(contents.views):,} of '
                f'{self.total:,}, {readable(each)} each, all would take '
                f'{readable(each * self.total)}' + (
                    '' if limit is None else f' (limit {readable(limit)})') + (
                    '' if self.is_built else '; the model is not built') +
                self._others())

    def _all_parts(self, context: BatchContext) -> dict[str, Any]:
        """What an answer depends on."""
        recorded, options = self._recorded, self.options
        with recorded.autocast():
            autocast = str(torch.get_autocast_dtype(
                self._device.type)) if torch.is_autocast_enabled(
                    self._device.type) else None
        parts = dict(
            version=VERSION,
            teacher=teacher_config(self._cfg, self.key),
            sources=sorted(self._requests),
            student_input=_input_of(context, self._where),
            data=dict(
                config=plain(recorded.config, 'train_dataloader.dataset'),
                length=len(recorded.dataset)),
            classes=plain(context.classes, 'train_dataloader.dataset'),
            precision=options.precision, top_k=options.top_k,
            autocast=autocast)
        files = list(weight_files(self._cfg))
        hashes = [file_hash(file) for file in files]
        if not files or 'random' in self._cfg.values():
            hashes.append(state_hash(self.model))
        if None in hashes:
            hashes = self._recorded_hashes(
                parts, files[hashes.index(None)])
        return dict(parts, weights=hashes)

    def _recorded_hashes(self, parts: dict[str, Any], file: str) -> Any:
        """Of the weights of the only folder that is otherwise alike.

        Raises:
            ConfigError: There is none, or several.
        """
        alike = {name: other['weights'] for name, other in
                 self._folders().items() if dict(parts, weights=other[
                     'weights']) == other}
        if len(alike) != 1:
            raise ConfigError(
                f'{self.key}: {file!r} is not there, and of the folders in '
                f'{self.options.dir!r} ' + (
                    f'{sorted(alike)} could all be its answers; remove those '
                    'of other weights' if alike else
                    'none has its answers for this config and this data'))
        (name, hashes), = alike.items()
        print_log(f'{self.key}: {file!r} is not there; the answers of '
                  f'{name!r} are taken, whose weights were {hashes}',
                  'current', logging.WARNING)
        return hashes

    def _folders(self) -> dict[str, dict[str, Any]]:
        """The parts of every cache in ``dir``."""
        metas = {file.parent.name: CacheStore(file.parent).meta() for file in
                 sorted(Path(self.options.dir).glob(f'*/{META}'))}
        return {name: meta['parts'] for name, meta in metas.items()
                if meta is not None}

    def _others(self) -> str:
        """What the nearest other cache in ``dir`` was made with."""
        differing = {
            name: sorted(part for part in self._parts
                         if parts.get(part) != self._parts[part])
            for name, parts in self._folders().items()
            if name != self.name_of_folder}
        if not differing:
            return ''
        name = min(differing, key=lambda name: len(differing[name]))
        return (f'; other caches in {self.options.dir!r}: {len(differing)}, '
                f'the nearest, {name!r}, with other '
                f'{", ".join(differing[name])}')

    def _first_output(self, context: BatchContext) -> TeacherOutput:
        teacher = self._connected(context)
        with self._recorded.autocast():
            levels = _levels(teacher, context)
            others = _levels(teacher, _part(context, [0] * len(
                context.inputs)))
        count = len(context.inputs)
        for source, found in levels.items():
            where = f'{self._requests[source]} = {source!r}'
            place = teacher.place(source)
            if place is None or place.queries or place.is_raw or any(
                    len(level) != count for level in found):
                raise ConfigError(
                    f'{self._where}: {where} gives no map of each image '
                    '(object queries, or something of the whole batch), and '
                    'the student has a part in what it is compared with; '
                    "leave out `cache`, or look at maps, such as "
                    "source='neck'")
            for level, other in zip(found, others[source]):
                if not torch.allclose(level[0].float(), other[0].float(),
                                      rtol=1e-2, atol=1e-3 * float(
                                          level.abs().max())):
                    raise ConfigError(
                        f'{self._where}: {where} gives something else for an '
                        'image where other images are in the batch, so it '
                        'cannot be kept image by image; leave out `cache`')
            self._places[source] = place
            self._packings[source] = [
                Packing.of(level, f'{source}/{i}', self.options.precision,
                           *self._top(source, place, level))
                for i, level in enumerate(found)]
        if teacher.student_sources:
            raise ConfigError(
                f'{self._where}: a {type(teacher).__name__} looks at the '
                'student and cannot be kept; leave out `cache`')
        self.classes = teacher.classes
        self._describe(teacher)
        packed = self._packed(levels)
        self._bytes_each = _bytes_of(_slice(packed, 0))
        return TeacherOutput({
            source: [packing.unpack(packed) for packing in packings]
            for source, packings in self._packings.items()})

    def _top(self, source: str, place: Place,
             level: torch.Tensor) -> tuple[int | None, int | None]:
        """How many scores of a position are kept, and of how many.

        Raises:
            ConfigError: ``top_k`` of something else, or of no more.
        """
        reading, top_k = place.reading, self.options.top_k
        if top_k is None:
            return None, None
        where = f'{self._where}.top_k = {top_k}: {source!r}'
        if reading is None or (reading.kind, reading.activation) != (
                'classes', 'softmax'):
            raise ConfigError(
                f'{where} has no class scores under a softmax, of which alone '
                'the largest can stand for all; leave out top_k')
        classes = reading.size or level.shape[1]
        if top_k >= classes:
            raise ConfigError(f'{where} has {classes} classes; fewer can be '
                              'kept, or all (top_k=None)')
        return top_k, classes

    def _describe(self, teacher: Teacher) -> None:
        """What a run is told that finds all answers in the folder."""
        if self._meta is None:
            self._meta = dict(
                parts=self._parts, describe=teacher.describe(),
                classes=self.classes, made_with=dict(
                    torch=torch.__version__, device=self._device.type),
                sources={
                    source: dict(
                        is_map=place.is_map,
                        reading=place.reading and dataclasses.asdict(
                            place.reading),
                        levels=[dataclasses.asdict(packing) for packing in
                                self._packings[source]])
                    for source, place in self._places.items()})

    def _learn(self, meta: dict[str, Any]) -> None:
        """The inverse of :meth:`_describe`."""
        self.classes = meta['classes'] and tuple(meta['classes'])
        for source, found in meta['sources'].items():
            reading = found['reading']
            self._places[source] = Place(
                [], is_map=found['is_map'],
                reading=reading and Reading(**dict(
                    reading, partners=reading['partners'] and tuple(
                        reading['partners']))))
            self._packings[source] = [
                Packing(**dict(level, order=tuple(level['order'])))
                for level in found['levels']]

    def _make_folder(self) -> None:
        """Make the folder, unless it is there.

        Raises:
            ConfigError: It cannot be made.
        """
        store = self.store
        assert self._meta is not None
        try:
            if store.meta() is None:
                store.write_meta(self._meta)
        except OSError as error:
            raise ConfigError(
                f'{self._where}.dir = {self.options.dir!r}: cannot be '
                f'written: {error}') from error
        if not os.access(store.folder, os.W_OK):
            self._stop(f'{str(store.folder)!r} is read only')

    # -- in each iteration ----------------------------------------------------

    @torch.no_grad()
    def teach(self, context: BatchContext,
              sources: Iterable[str] | None) -> TeacherOutput:
        """What is stored; of what is not, the teacher is asked.

        Images without labels are no samples of the training loader, and of
        them nothing is stored.

        Raises:
            RuntimeError: A sample has other pixels than when it was stored.
        """
        if not context.is_labelled:
            return self._connected(context).teach(context, sources)
        size, samples = _size(context), context.layout.samples
        found = [self._find(sample, size) for sample in samples]
        missing = [i for i, parts in enumerate(found) if parts is None]
        if missing:
            if self.asks_whole_batches:
                missing = list(range(len(found)))
            for i, parts in zip(missing, self._ask(context, missing)):
                if found[i] is None:
                    self._keep(samples[i], size, parts)
                    found[i] = parts
        device = context.inputs.device
        return TeacherOutput(unpacked(self._packings, [
            {name: part.to(device) for name, part in (parts or {}).items()}
            for parts in found], list(sources or self._packings)))

    def follow(self, student: nn.Module, iterations: int,
               epoch_length: int) -> None:
        if iterations % epoch_length == 0:
            self._report()

    def _find(self, sample: Any, size: Size) -> Parts | None:
        """What is stored of a sample, if anything."""
        view, digest = _identity(sample)
        record = self._companion.take(sample, size) or self.store.read(
            view, size)
        if record is None:
            self._count['another size' if view in self._contents.views else
                        'not stored' if self.stopped else 'new'] += 1
            return None
        if record.digest != digest:
            raise RuntimeError(
                f'{self._where}: sample {view[0]} in view {view[1]} '
                f'({sample.metainfo.get("img_path")}) has other pixels than '
                f'when its answer was stored in {str(self.store.folder)!r}; '
                'the image has changed, or what makes the view of it. Remove '
                'that folder')
        self._count['read'] += 1
        return record.tensors

    def _ask(self, context: BatchContext, which: list[int]) -> list[Parts]:
        """The teacher's answers for some images of the batch."""
        if len(which) < len(context.inputs):
            context = _part(context, which)
        packed = self._packed(_levels(self._connected(context), context))
        return [_slice(packed, i) for i in range(len(which))]

    def _packed(self, levels: dict[str, list[torch.Tensor]]) -> Parts:
        packed: Parts = {}
        for source, packings in self._packings.items():
            for packing, level in zip(packings, levels[source]):
                try:
                    packed |= packing.pack(level)
                except ValueError as error:
                    raise ConfigError(
                        f'{self._where}.precision = '
                        f'{self.options.precision!r}: at {source!r} {error}'
                    ) from error
        return packed

    def _keep(self, sample: Any, size: Size, parts: Parts) -> None:
        """Store an answer, if there is still room."""
        if self.stopped:
            return
        view, digest = _identity(sample)
        try:
            written = self.store.write(view, size, Record(digest, {
                name: part.cpu() for name, part in parts.items()}), self._left)
        except OSError as error:
            self._stop(f'{str(self.store.folder)!r} cannot be written: '
                       f'{error}')
            return
        if not written:
            limit = readable(self.options.limit)
            self._stop(f'the limit of {limit} is reached')
            return
        self._left -= written
        self._contents.views.add(view)

    def _stop(self, reason: str) -> None:
        self.stopped = reason
        print_log(f'{self._where}: {reason}; nothing more is stored, and what '
                  'is not there is asked live', 'current', logging.WARNING)

    def _report(self) -> None:
        """Say how often the teacher was asked, and why."""
        reasons = {
            'new': 'not there yet', 'not stored': 'could not be stored',
            'another size': 'stored for a batch of another padded size'}
        asked = ', '.join(f'{self._count[name]:,} {why}' for name, why in
                          reasons.items() if self._count[name])
        if self._count:
            print_log(f'{self._where}: {self._count["read"]:,} answers were '
                      f'read; the teacher was asked for {asked or "none"}',
                      'current')
        self._count.clear()


def _recorded(context: BatchContext, where: str) -> RecordedViews:
    """Where the samples of the run come from, if they come again.

    Raises:
        ConfigError: They do not.
    """
    recorded = context.recorded
    if recorded is None:
        raise ConfigError(
            f'{where}: train_dataloader gives other samples in each epoch, '
            'whose answers never come again; write train_dataloader = dict('
            f'{LOADER})')
    if recorded.config is None:
        raise ConfigError(
            f'{where}: train_dataloader.dataset was built by hand, and it '
            'cannot be told from another one; give its config')
    return recorded


def _input_of(context: BatchContext, where: str) -> dict[str, Any]:
    """What the student's preprocessor makes of the pixels.

    Raises:
        ConfigError: It changes them in other ways in each step.
    """
    form = context.host.input_format(context.student)
    preprocessor: Any = getattr(context.student, 'data_preprocessor', None)
    augments = list(getattr(preprocessor, 'batch_augments', None) or [])
    for augment in augments:
        if type(augment).__name__ not in PADDING:
            raise ConfigError(
                f'{where}: model.data_preprocessor.batch_augments: a '
                f'{type(augment).__name__} makes other images in each step, '
                'of which no answer is kept; leave it out')
    mean, std = form.statistics()
    return plain(dict(
        preprocessor=type(preprocessor), mean=mean.flatten(),
        std=std.flatten(), is_swapped=form.is_swapped,
        pad_value=form.pad_value, batch_augments=[
            getattr(augment, 'img_pad_value', None) for augment in augments]),
        where)


def _part(context: BatchContext, which: Sequence[int]) -> BatchContext:
    """Some images of a batch."""
    return dataclasses.replace(
        context, inputs=context.inputs[list(which)],
        samples=[context.samples[i] for i in which])


def _levels(teacher: Teacher,
            context: BatchContext) -> dict[str, list[torch.Tensor]]:
    output = teacher.teach(context, None)
    output.join()
    return output.levels


def _identity(sample: Any) -> tuple[tuple[int, int], str]:
    """Which sample it is, and what it looks like."""
    meta = sample.metainfo
    return tuple(meta['view']), meta['view_digest']


def _size(context: BatchContext) -> Size:
    height, width = context.inputs.shape[2:]
    return height, width


def _slice(packed: Parts, index: int) -> Parts:
    return {name: part[index].contiguous() for name, part in packed.items()}


def _bytes_of(parts: Parts) -> int:
    return sum(part.numel() * part.element_size() for part in parts.values())
