"""A pretrained model of any OpenMMLab project that only teaches."""
import contextlib
import dataclasses
import inspect
import os.path as osp
from collections.abc import Iterable
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import import_modules_from_strings, scandir
from torch import nn

from .. import randomness
from ..errors import ConfigError, nearest
from ..registry import TEACHERS
from ..taps import Tap
from .execution import SideStream, compile_part, untapped_parts
from .model_teacher import ModelTeacher
from .teacher import Lesson, Step

UNUSED = 'auxiliary_head'  # exists for the teacher's own training only
PRECISIONS = dict(fp16=torch.float16, bf16=torch.bfloat16)


@TEACHERS.register_module()
class FrozenTeacher(ModelTeacher):
    """A pretrained model, without its auxiliary head.

    It is given the batch that the student's preprocessor made. Where mean,
    std or channel order differ from the teacher's own, one affine map turns
    the one into the other.

    Args:
        config (str | dict | Config): A path, a name such as
            ``mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py``,
            or a config (or only its ``model``) as dict or Config.
        checkpoint (str): A path or URL; ``'random'`` for a teacher that is
            untrained on purpose.
        precision (str, optional): ``'fp16'`` or ``'bf16'``: the forward pass
            runs under autocast in that type. None: as the run does, float32
            unless the student's is under autocast. Defaults to None.
        channels_last (bool): Whether the forward pass keeps the channels of
            a position side by side in memory. Defaults to False.
        compile (bool | dict): Whether the parts of the model without a tap
            inside are compiled, in the rehearsal on a batch of full size;
            a dict has the arguments of ``torch.compile``. Defaults to False.
        side_stream (bool): Whether the forward pass runs in a queue of its
            own, beside the student's. Needs a GPU, and memory for the
            activations of both at a time. Defaults to False.
        key (str): Where this stands in the user's config, for the errors.

    Raises:
        ConfigError: The config or the checkpoint cannot be read, weights are
            missing, unexpected or of another shape, or an option is unknown
            or cannot be had: nothing to compile, no compiler, no GPU, or
            RoIs of the student, for which a side stream would wait.
    """

    def __init__(self,
                 config: str | dict | Config,
                 checkpoint: str | None = None,
                 precision: str | None = None,
                 channels_last: bool = False,
                 compile: bool | dict = False,
                 side_stream: bool = False,
                 key: str = 'teacher') -> None:
        super().__init__(key)
        if precision is not None and precision not in tuple(PRECISIONS):
            raise ConfigError(f'{key}.precision = {precision!r}: None or the '
                              'name of a type is needed' +
                              nearest(precision, PRECISIONS))
        for name, value in (('channels_last', channels_last),
                            ('side_stream', side_stream)):
            if not isinstance(value, bool):
                raise ConfigError(
                    f'{key}.{name} = {value!r}: True or False is needed')
        self.checkpoint = checkpoint
        self.precision = precision
        self.channels_last = channels_last
        self.compile = _compile_options(compile, f'{key}.compile')
        self.side_stream = side_stream
        self._stream: SideStream | None = None
        self._affine = None
        cfg = load_config(config, key)
        with randomness.preserved():
            self.model = _build_model(cfg, key)
        self.name = config if isinstance(config, str) else type(
            self.model).__name__
        self.model._modules.pop(UNUSED, None)
        if checkpoint == 'random':
            randomness.tame(self.model)
        else:
            self._load_weights()
        self.model.requires_grad_(False).eval()
        if channels_last:
            self.model.to(memory_format=torch.channels_last)

    def fit(self, step: Step) -> None:
        self._affine = _normalisation_change(
            getattr(step.student, 'data_preprocessor', None),
            getattr(self.model, 'data_preprocessor', None),
            step.inputs.device)
        super().fit(step)
        if self.side_stream:
            self._stream = self._side_stream(step.inputs.device)

    def rehearse(self, step: Step) -> Lesson:
        lesson = super().rehearse(step)
        if self.compile is not None:
            self._compile(step)
        return lesson

    def teach(self, step: Step, sources: Iterable[str] | None) -> Lesson:
        if self._stream is None:
            return super().teach(step, sources)
        with self._stream.beside():
            lesson = super().teach(step, sources)
        return dataclasses.replace(lesson, join=self._stream.join)

    def inputs_of(self, step: Step) -> torch.Tensor:
        """The student's batch in normalisation and layout of this model."""
        inputs = step.inputs
        if self._affine is not None:
            swap, scale, shift = self._affine
            inputs = inputs[:, [2, 1, 0]] if swap else inputs
            inputs = inputs * scale + shift
            image = step.areas.image()
            if image is not None:
                inputs = inputs.where(image, getattr(
                    self.model.data_preprocessor, 'pad_value', 0))
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def describe(self) -> str:
        options = f', {self.precision}' if self.precision else ''
        options += ', channels last' if self.channels_last else ''
        options += ', compiled' if self.compile is not None else ''
        options += ', on a side stream' if self.side_stream else ''
        return (f'{self.name}, checkpoint {self.checkpoint}, '
                f'{self.num_parameters:,} parameters, not trained{options}')

    def _forward(self, step: Step, taps: dict[str, Tap]) -> None:
        with contextlib.nullcontext() if self.precision is None else (
                torch.autocast(step.inputs.device.type,
                               PRECISIONS[self.precision])):
            super()._forward(step, taps)

    def _side_stream(self, device: torch.device) -> SideStream:
        where = f'{self.key}.side_stream = True'
        if device.type == 'cpu':
            raise ConfigError(f'{where}: needs a GPU, the student is on a CPU')
        if self.student_sources:
            raise ConfigError(
                f'{where}: this teacher needs {self.student_sources[0]!r} of '
                "the student's forward pass and cannot run beside it")
        return SideStream(device)

    def _compile(self, step: Step) -> None:
        """Compile, and run once on a batch of the size of the run's."""
        where = f'{self.key}.compile = {self.compile!r}'
        parts = untapped_parts(
            self.model,
            [m for tap in self.taps.values() for m in tap.place.modules])
        if not parts:
            raise ConfigError(f'{where}: no part of the teacher is without a '
                              'tap inside')
        print_log(f'{self.key}: compiling what runs of {", ".join(parts)}; '
                  'this may take minutes', 'current')
        order = [i % len(step.inputs)
                 for i in range(step.batch_size or len(step.inputs))]
        batch = dataclasses.replace(
            step, inputs=step.inputs[order],
            samples=step.samples and [step.samples[i] for i in order])
        try:
            for name, part in parts.items():
                compile_part(part, f'{self.key}.{name}', self.compile)
            self.teach(batch, None).join()
        except Exception as error:  # of a compiler: whatever it may raise
            raise ConfigError(
                f'{where}: {type(error).__name__}: {error}') from error

    def _load_weights(self) -> None:
        where = f'{self.key}.checkpoint = {self.checkpoint!r}'
        if not isinstance(self.checkpoint, str):
            raise ConfigError(f"{where}: a path or URL is needed; 'random' "
                              'for a teacher untrained on purpose')
        if '://' not in self.checkpoint and not osp.isfile(self.checkpoint):
            raise ConfigError(f'{where}: no such file' +
                              _neighbours(self.checkpoint, '.pth'))
        try:
            loaded = CheckpointLoader.load_checkpoint(
                self.checkpoint, map_location='cpu')
        except Exception as error:  # whatever a broken file makes torch raise
            raise ConfigError(f'{where}: cannot be read: {error}') from error
        if not isinstance(loaded, dict):
            raise ConfigError(f'{where}: holds a {type(loaded).__name__}, '
                              'not a checkpoint')
        state = loaded.get('state_dict', loaded)
        if not isinstance(state, dict) or not all(
                isinstance(name, str) and isinstance(value, torch.Tensor)
                for name, value in state.items()):
            raise ConfigError(f'{where}: holds no weights')
        state = {
            name.removeprefix('module.'): value
            for name, value in state.items()
            if not name.removeprefix('module.').startswith(UNUSED)
        }
        own = self.model.state_dict()
        fitting = {n: weight for n, weight in state.items()
                   if n not in own or own[n].shape == weight.shape}
        try:  # not before the host has renamed what older weights hold
            missing, unexpected = self.model.load_state_dict(
                fitting, strict=False)
        except RuntimeError as error:  # other shapes under older names
            raise ConfigError(
                f'{where} does not fit {self.key}.config: {error}') from error
        problems = {
            'missing': [n for n in missing if n not in state],
            'unexpected': unexpected,
            'of another shape': [
                f'{n} {tuple(state[n].shape)} instead of '
                f'{tuple(own[n].shape)}' for n in own
                if n in state and state[n].shape != own[n].shape
            ]
        }
        if any(problems.values()):
            raise ConfigError(
                f'{where} does not fit {self.key}.config: ' + '; '.join(
                    f'{len(names)} weights {what} ({", ".join(names[:3])}'
                    f'{", ..." if len(names) > 3 else ""})'
                    for what, names in problems.items() if names))
        try:
            self.classes = tuple(loaded['meta']['dataset_meta']['classes'])
        except (KeyError, TypeError):  # not said, or not as mmengine does
            self.classes = None


def _compile_options(value: Any, where: str) -> dict[str, Any] | None:
    """The arguments of ``torch.compile``; None for no compiling."""
    if isinstance(value, bool):
        return {} if value else None
    if not isinstance(value, dict):
        raise ConfigError(f'{where} = {value!r}: True, False or a dict of the '
                          'arguments of torch.compile is needed')
    allowed = set(inspect.signature(torch.compile).parameters) - {'model'}
    for name in value:
        if name not in allowed:
            raise ConfigError(f'{where}.{name} = {value[name]!r}: no argument '
                              'of torch.compile' + nearest(name, allowed))
    return dict(value)


def load_config(config: str | dict | Config, key: str) -> ConfigDict:
    """The full config of the teacher; its ``model`` is what gets built."""
    where = f'{key}.config = {config!r}'
    if isinstance(config, str):
        if '::' not in config and not osp.isfile(config):
            raise ConfigError(f'{where}: no such file' +
                              _neighbours(config, '.py'))
        try:
            # found first: as a base it would get the package as its scope
            config = Config.fromfile(Config._get_cfg_path(config, '')[0]
                                     if '::' in config else config)
        except Exception as error:  # the file's own code may raise anything
            raise ConfigError(f'{where}: cannot be read: {error}') from error
    elif isinstance(config, dict):
        try:
            config = Config(dict(config))
        except KeyError as error:  # a key that mmengine reserves
            raise ConfigError(f'{where}: {error}') from error
    elif not isinstance(config, Config):
        raise ConfigError(f'{where}: a path, a name such as `mmseg::...`, a '
                          'dict or a Config is needed')
    if 'model' not in config and 'type' in config:
        config = Config(dict(model=config.to_dict()))
    if 'model' not in config:
        raise ConfigError(f'{where}: has no key `model`')
    return config


def _build_model(cfg: Config, key: str) -> nn.Module:
    try:
        if cfg.get('custom_imports'):
            import_modules_from_strings(**cfg.custom_imports)
        model = dict(cfg.model)
        if cfg.get('default_scope'):
            model.setdefault('_scope_', cfg.default_scope)
        return MMENGINE_MODELS.build(model)
    except Exception as error:  # any model may refuse its arguments anyhow
        raise ConfigError(f'{key}.config: the model cannot be built: '
                          f'{error}') from error


def _neighbours(path: str, suffix: str) -> str:
    folder = osp.dirname(path) or '.'
    if not osp.isdir(folder):
        return f'; the folder {folder!r} does not exist either'
    return nearest(
        osp.basename(path), scandir(folder, suffix=suffix))


def _normalisation_change(theirs: Any, ours: Any, device: torch.device):
    """``(swap, scale, shift)`` from the student's input to the teacher's."""

    def read(preprocessor):
        swap = any(  # the second name is upstream mmseg's
            getattr(preprocessor, name, False)
            for name in ('_channel_conversion', 'channel_conversion'))
        if not getattr(preprocessor, '_enable_normalize', False):
            return swap, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
        return (swap, preprocessor.mean.cpu().float(),
                preprocessor.std.cpu().float())

    if ours is None or theirs is None:
        return None
    swap_s, mean_s, std_s = read(theirs)
    swap_t, mean_t, std_t = read(ours)
    swap = swap_s != swap_t
    if swap:  # the student's statistics in the teacher's channel order
        mean_s, std_s = mean_s.flip(0), std_s.flip(0)
    if not swap and torch.equal(mean_s, mean_t) and torch.equal(std_s, std_t):
        return None
    # there once and for all: a copy in each step would wait for the GPU
    return swap, *(x.to(device) for x in (
        std_s / std_t, (mean_s - mean_t) / std_t))
