"""A model of timm as a teacher of features."""
import os.path as osp
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .. import randomness
from ..checks import is_integer
from ..errors import ConfigError, nearest
from ..hosts import InputFormat
from ..registry import TEACHERS
from .execution import Execution
from .inputs import with_size
from .libraries import blamed_on_library, import_library
from .model_teacher import ModelTeacher

OutIndices = int | Sequence[int]
OF_CREATE_MODEL = ('pretrained', 'pretrained_cfg', 'pretrained_cfg_overlay',
                   'checkpoint_path', 'features_only', 'out_indices')


@TEACHERS.register_module()
class TimmTeacher(ModelTeacher):
    """Any model of timm that gives intermediate maps.

    ``'features'`` are its maps ``out_indices`` (N, C, H, W), those of a plain
    transformer behind its last norm. Any module can be named as
    well, such as ``'backbone.model.layer3'``. Its classes are those of whole
    images, so it has no ``'logits'``.

    It is given RGB images with its own mean and std. A transformer of patches
    takes any multiple of these, to which the input is padded, and its
    position embedding is resampled; another model of one size only gets the
    input resized to that. The start of the log says which.

    Needs ``pip install 'mmselfkd[timm]'``.

    Args:
        model (str): A name such as ``'vit_small_patch14_dinov2.lvd142m'``,
            whose weights come from a hub, or a folder that
            ``timm.models.save_for_hf`` wrote.
        checkpoint (str, optional): A file with the weights of the model;
            ``'random'`` for one that is untrained on purpose. None: those
            that belong to ``model``. All of them must fit. Defaults to None.
        out_indices (int | list[int]): The last so many maps, or which of
            them. A stage gives one, or a block of a plain transformer.
            Defaults to 1.
        model_args (dict, optional): Further arguments of
            ``timm.create_model``.
        channels (list[int], optional): The channels of the student's input
            that the teacher sees. None: all.
        input_size (tuple[int, int], optional): Height and width that inputs
            are resized to, whole patches. None: as the model says.
        precision, channels_last, compile, side_stream: How the forward pass
            runs; see :class:`~mmselfkd.teachers.Execution`.
        key (str): Where this stands in the user's config, for the errors.

    Raises:
        ConfigError: timm is not installed, it has no such model, or the
            weights cannot be had or do not fit.
    """

    def __init__(self,
                 model: str,
                 checkpoint: str | None = None,
                 out_indices: OutIndices = 1,
                 model_args: dict | None = None,
                 channels: Sequence[int] | None = None,
                 input_size: Sequence[int] | None = None,
                 precision: str | None = None,
                 channels_last: bool = False,
                 compile: bool | dict = False,
                 side_stream: bool = False,
                 key: str = 'teacher') -> None:
        timm = import_library('timm', key)
        execution = Execution(
            precision, channels_last, compile, side_stream, key)
        check_out_indices(out_indices, f'{key}.out_indices')
        self._name, self.checkpoint = model, checkpoint
        with randomness.preserved():
            net, is_dynamic = _create(
                timm, model, checkpoint, dict(model_args or {}), key)
        if not hasattr(net, 'forward_intermediates'):
            raise ConfigError(
                f'{key}.model = {model!r}: gives no intermediate maps (it has '
                'no forward_intermediates); use another model')
        if checkpoint == 'random':
            randomness.bound_parameters(net)
        form = _input_format(
            net, is_dynamic, (model_args or {}).get('in_chans', 3))
        if input_size is not None:
            form = with_size(form, input_size, key, form.multiple)
        with blamed_on_library(f'{key}.out_indices = {out_indices!r}'):
            wrapped = TimmModel(net, out_indices)
        super().__init__(wrapped, form, channels, execution, key=key)

    def name(self) -> str:
        return f'timm {self._name}, checkpoint {self.checkpoint}'


class TimmModel(nn.Module):
    """Gives the maps of a model under the name that presets look at.

    Args:
        model (nn.Module): timm's.
        out_indices (int | Sequence[int]): See :class:`TimmTeacher`.
    """

    def __init__(self, model: nn.Module, out_indices: OutIndices) -> None:
        super().__init__()
        self.backbone = Intermediates(model, out_indices)
        self.features = nn.Identity()

    def forward(self, images: torch.Tensor) -> None:
        """Run it; taps look at ``features``."""
        self.features(self.backbone(images))


class Intermediates(nn.Module):
    """The intermediate maps of a timm model, and nothing behind them.

    Args:
        model (nn.Module): timm's; what lies behind the last map is cut off.
        out_indices (int | Sequence[int]): See :class:`TimmTeacher`.
    """

    def __init__(self, model: Any, out_indices: OutIndices) -> None:
        super().__init__()
        # of a pyramid the last norm fits the last map alone
        self.norm = len({i['reduction'] for i in model.feature_info}) == 1
        self.indices = model.prune_intermediate_layers(
            out_indices, prune_norm=False, prune_head=True)
        self.model = model

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Maps (N, C, H, W), of a plain transformer behind the last norm."""
        model: Any = self.model
        return model.forward_intermediates(
            images, indices=self.indices, norm=self.norm,
            output_fmt='NCHW', intermediates_only=True)


def check_out_indices(value: Any, where: str) -> None:
    """Raise a ConfigError unless it is a count or a list of numbers."""
    is_list = isinstance(value, (list, tuple)) and value and all(
        map(is_integer, value))
    if not is_list and not (is_integer(value) and value > 0):
        raise ConfigError(f'{where} = {value!r}: how many of the last maps, '
                          'or a list of which, is needed')


def _create(timm: Any, name: Any, checkpoint: str | None,
            args: dict[str, Any], key: str) -> tuple[Any, bool]:
    """The model with its weights, and whether it takes any grid of patches."""
    for arg in args:
        if arg in OF_CREATE_MODEL:
            raise ConfigError(f'{key}.model_args.{arg} = {args[arg]!r}: is '
                              f'set by the other arguments of {key}')
    where = f'{key}.model = {name!r}'
    if not isinstance(name, str):
        raise ConfigError(f'{where}: a name or a folder is needed')
    if osp.isdir(name):
        name = f'local-dir:{name}'
    elif ':' not in name and not timm.is_model(name):
        raise ConfigError(f'{where}: timm {timm.__version__} has no such '
                          'model' + nearest(name, timm.list_models(
                              include_tags=True), examples=['resnet50']))
    overlay = {}
    if 'num_classes' in args:  # else timm would load what fits, and no more
        overlay['num_classes'] = args['num_classes']
    if checkpoint not in (None, 'random'):
        where = f'{key}.checkpoint = {checkpoint!r}'
        if not osp.isfile(checkpoint):
            raise ConfigError(f'{where}: no such file')
        overlay.update(file=checkpoint,
                       custom_load=checkpoint.endswith('.npz'))
    with blamed_on_library(where):
        options = dict(args, pretrained=checkpoint != 'random',
                       pretrained_cfg_overlay=overlay)
        try:
            return timm.create_model(
                name, dynamic_img_size=True, **options), True
        except TypeError as error:  # raised before anything is loaded
            if 'dynamic_img_size' not in str(error):
                raise
            return timm.create_model(name, **options), False


def _input_format(net: Any, is_dynamic: bool, in_chans: int) -> InputFormat:
    """What the model was trained on; pixels of timm are from 0 to 1.

    What was trained on RGB and was given another number of channels has one
    mean and one std for all.
    """
    cfg = net.pretrained_cfg
    mean, std = ([255 * x for x in cfg[name]] for name in ('mean', 'std'))
    if len(mean) != in_chans:
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    multiple, size = 1, None
    if is_dynamic:
        patch = net.patch_embed.patch_size
        multiple = max((patch, ) if isinstance(patch, int) else patch)
    elif cfg.get('fixed_input_size'):
        embed = getattr(net, 'patch_embed', None)
        size = tuple(getattr(embed, 'img_size', None)
                     or cfg['input_size'][1:])
    return InputFormat(mean=mean, std=std, is_swapped=True,
                       multiple=multiple, size=size)
