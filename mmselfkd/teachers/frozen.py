"""A pretrained model of any OpenMMLab project that only teaches."""
import os.path as osp
import re
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.utils import import_modules_from_strings, scandir
from torch import nn

from .. import randomness
from ..checkpoint_files import load_checkpoint_file
from ..errors import ConfigError, nearest
from ..hosts import host_of
from ..registry import TEACHERS
from .execution import Execution
from .inputs import with_size
from .model_teacher import ModelTeacher
from .teacher import BatchContext, TeacherOutput

# What files hold beside weights, or lack: statistics of the preprocessor,
# averages of mmdet 2, counters of averages and profilers, constants that a
# model makes by itself.
HARMLESS = re.compile(
    r'^data_preprocessor\.|^ema_|^(steps|n_averaged)$|(^|\.)loss_\w+\.'
    r'|(^|\.)total_(ops|params)$|(^|\.)_extra_state$'
    r'|\.(integral\.project|relative_position_index|attn_mask)$')
WRAPPED = re.compile(r'^(module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.')
DISTILLERS = ('teacher.', 'student.', 'architecture.', 'distiller.')


@TEACHERS.register_module()
class FrozenTeacher(ModelTeacher):
    """A pretrained model of a config and a checkpoint.

    What only its own training needs, such as an auxiliary head, is left out.
    It is given the batch that the student's preprocessor made, brought to
    its own normalisation, order of channels, padding and size.

    Args:
        config (str | dict | Config): A path, a name such as
            ``mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py``,
            or a config (or only its ``model``) as dict or Config.
        checkpoint (str): A path or URL; ``'random'`` for a teacher that is
            untrained on purpose.
        trust_checkpoint (bool): Whether the file may hold pickled objects,
            which can run any code when they are read. Defaults to False:
            weights and what mmengine itself saves.
        channels (list[int], optional): The channels of the student's input
            that the teacher sees. None: all.
        input_size (tuple[int, int], optional): Height and width that inputs
            are resized to. None: as the model says.
        classes (dict, optional): Which of its classes teach which of the
            student's, where they differ: ``dict(by='name')`` or
            ``dict(map={'car': 'vehicle', 'bus': 'vehicle'})``; see
            :class:`~mmselfkd.teachers.ClassMap`.
        precision, channels_last, compile, side_stream: How the forward pass
            runs; see :class:`~mmselfkd.teachers.Execution`.
        key (str): Where this stands in the user's config, for the errors.

    Raises:
        ConfigError: The config or the checkpoint cannot be read, weights are
            missing, unexpected or of another shape, or an option is unknown
            or cannot be had.
    """

    def __init__(self,
                 config: str | dict | Config,
                 checkpoint: str | None = None,
                 trust_checkpoint: bool = False,
                 channels: Sequence[int] | None = None,
                 input_size: Sequence[int] | None = None,
                 classes: dict | None = None,
                 precision: str | None = None,
                 channels_last: bool = False,
                 compile: bool | dict = False,
                 side_stream: bool = False,
                 key: str = 'teacher') -> None:
        execution = Execution(
            precision, channels_last, compile, side_stream, key)
        cfg = load_config(config, key)
        with randomness.preserved():
            model = _build_model(cfg, key)
        super().__init__(model, channels=channels, execution=execution,
                         classes=classes, key=key)
        self._config = cfg
        if input_size is not None:
            self.input_format = with_size(
                host_of(model).input_format(model), input_size, key)
        self.checkpoint, self.trust = checkpoint, trust_checkpoint
        self._name = config if isinstance(config, str) else type(
            model).__name__
        self._unused = host_of(model).remove_unused(model)
        if checkpoint == 'random':
            randomness.bound_parameters(model)
        else:
            self._load_weights()

    def name(self) -> str:
        return f'{self._name}, checkpoint {self.checkpoint}'

    def class_names(self) -> Sequence[str] | None:
        """As the checkpoint says, or the data set of the config."""
        return self.classes or classes_of_data(self._config)

    def rehearse(self, context: BatchContext) -> TeacherOutput:
        self._score = self._own_score(context)  # before parts are compiled
        return super().rehearse(context)

    def describe(self) -> str:
        return super().describe() + self._score

    @torch.no_grad()
    def _own_score(self, context: BatchContext) -> str:
        """What the model's own losses are on the rehearsed labels.

        A model of other data or another normalisation is seen by it. Only
        where it has the student's number of classes: others may be beyond
        its own.
        """
        count = self._host.num_classes(self.model)
        if count is None or count != context.host.num_classes(
                context.student):
            return ''
        try:
            losses = self.model(
                self._inputs(context.inputs, context.layout),
                context.host.snapshot(context.samples), mode='loss')
        except Exception:  # some models lack what only training needs
            return ''
        values = {
            name: sum(float(x.mean()) for x in (
                value if isinstance(value, (list, tuple)) else [value]))
            for name, value in losses.items()}
        return '; on the labels of two training samples: ' + ', '.join(
            f'{name} {value:.3g}' for name, value in values.items())

    def _load_weights(self) -> None:
        where = f'{self.key}.checkpoint = {self.checkpoint!r}'
        if not isinstance(self.checkpoint, str):
            raise ConfigError(f"{where}: a path or URL is needed; 'random' "
                              'for a teacher untrained on purpose')
        if '://' not in self.checkpoint and not osp.isfile(self.checkpoint):
            raise ConfigError(f'{where}: no such file' +
                              _neighbours(self.checkpoint, '.pth'))
        try:
            loaded = load_checkpoint_file(self.checkpoint, self.trust)
        except ValueError as error:
            raise ConfigError(f'{where}: {error}') from error
        state = loaded.get('state_dict', loaded)
        state = {WRAPPED.sub('', name): value for name, value in (
            state.items() if isinstance(state, dict) else ())
            if isinstance(name, str)}
        if not any(isinstance(value, torch.Tensor)
                   for value in state.values()) or not all(
                isinstance(value, torch.Tensor) or HARMLESS.search(name)
                for name, value in state.items()):
            raise ConfigError(f'{where}: holds no weights, but '
                              f'{", ".join(map(str, loaded)) or "nothing"}')
        own = self.model.state_dict()
        extra = [name for name in state if name not in own
                 and (name.startswith(self._unused) or HARMLESS.search(name))]
        if any(not name.startswith(self._unused) for name in extra):
            print_log(f'{where}: {len(extra)} entries that the model does not '
                      f'use are left out ({", ".join(extra[:3])}, ...)',
                      'current')
        state = {name: value for name, value in state.items()
                 if name not in extra}
        fitting = {n: weight for n, weight in state.items()
                   if n not in own or own[n].shape == weight.shape}
        try:  # not before the host has renamed what older weights hold
            missing, unexpected = self.model.load_state_dict(
                fitting, strict=False)
        except RuntimeError as error:  # other shapes under older names
            raise ConfigError(
                f'{where} does not fit {self.key}.config: {error}') from error
        problems = {
            'missing': [n for n in missing if n not in state
                        and not HARMLESS.search(n)],
            'unexpected': unexpected,
            'of another shape': [
                f'{n} {tuple(state[n].shape)} instead of '
                f'{tuple(own[n].shape)}' for n in own
                if n in state and state[n].shape != own[n].shape
            ]
        }
        if any(name.startswith(DISTILLERS) for name in unexpected):
            raise ConfigError(
                f'{where}: holds the weights of a distiller, with names such '
                f'as {unexpected[0]!r}; tools/convert_checkpoint.py makes a '
                'stock checkpoint of it')
        if any(problems.values()):
            raise ConfigError(
                f'{where} does not fit {self.key}.config: ' + '; '.join(
                    f'{len(names)} weights {what} ({", ".join(names[:3])}'
                    f'{", ..." if len(names) > 3 else ""})'
                    for what, names in problems.items() if names))
        self.classes = _classes_of_file(loaded.get('meta'))


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


def _classes_of_file(meta: Any) -> tuple | None:
    """The class names in the ``meta`` of a checkpoint, if they are there.

    OpenMMLab 1 wrote them in capitals, in ``meta`` itself.
    """
    for found in (meta, isinstance(meta, dict) and meta.get('dataset_meta')):
        for name in 'classes', 'CLASSES':
            if isinstance(found, dict) and isinstance(
                    found.get(name), (list, tuple)):
                return tuple(found[name])
    return None


def classes_of_data(config: Any) -> Sequence[str] | None:
    """The class names of the data sets in a config, if it has one."""
    for name in 'test_dataloader', 'val_dataloader', 'train_dataloader':
        data = (config.get(name) or {}).get('dataset')
        while isinstance(data, dict):  # one may wrap another
            classes = (data.get('metainfo') or {}).get('classes')
            kind = data.get('type')
            if not classes and isinstance(kind, str):
                with DATASETS.switch_scope_and_registry(
                        config.get('default_scope')) as registry:
                    kind = registry.get(kind)
            classes = classes or getattr(kind, 'METAINFO', {}).get('classes')
            if classes:
                return classes
            data = data.get('dataset')
    return None


def _neighbours(path: str, suffix: str) -> str:
    """Where a file was looked for, and the nearest ones there."""
    folder = osp.dirname(osp.abspath(path))
    if not osp.isdir(folder):
        return f', nor its folder {folder!r}'
    where = '' if osp.isabs(path) else f' in {folder!r}'
    return where + nearest(
        osp.basename(path), scandir(folder, suffix=suffix))
