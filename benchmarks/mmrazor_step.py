"""One distilled step as the usual toolkit makes it, to compare with.

Written from the documented order of mmrazor's ``SingleTeacherDistill`` (1.0.0,
which does not import on torch 2): both models are parts of one; in every step
the teacher runs whole, with its heads, its auxiliary head and its losses,
without gradient; then the student does; what hooks recorded at the logits of
both goes into the divergence. Of the teacher the batch norms alone are in eval
mode, and no module of it works in place.
"""
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from mmselfkd.teachers import frozen


@MODELS.register_module()
class MMRazorStep(BaseModel):
    """Student and teacher in one model, soft labels on the logits.

    Args:
        architecture (dict): Config of the student.
        teacher (dict): Config of the teacher's model.
        temperature (float): Divides both logits.
        loss_weight (float): Of the divergence.
        data_preprocessor (dict): The student's.
    """

    def __init__(self, architecture, teacher, temperature, loss_weight,
                 data_preprocessor):
        super().__init__(data_preprocessor)
        self.architecture = MODELS.build(architecture)
        self.teacher = MODELS.build(teacher).requires_grad_(False)
        self.temperature, self.loss_weight = temperature, loss_weight
        for module in self.teacher.modules():
            if getattr(module, 'inplace', False):
                module.inplace = False
        self.recorded = {}
        for name in ('architecture', 'teacher'):
            head = self.get_submodule(f'{name}.decode_head.conv_seg')
            head.register_forward_hook(
                lambda module, args, out, name=name: self.recorded.update(
                    {name: out}))

    def train(self, mode=True):
        super().train(mode)
        for module in self.teacher.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode != 'loss':
            return self.architecture(inputs, data_samples, mode=mode)
        with torch.no_grad():
            self.teacher(inputs, data_samples, mode='loss')
        losses = {
            f'student.{name}': value for name, value in self.architecture(
                inputs, data_samples, mode='loss').items()
        }
        student, teacher = (self.recorded.pop(name) / self.temperature
                            for name in ('architecture', 'teacher'))
        divergence = F.kl_div(
            F.log_softmax(student, dim=1), F.softmax(teacher, dim=1),
            reduction='batchmean')
        losses['distill.loss_kl'] = (
            self.loss_weight * self.temperature**2 * divergence)
        return losses


def as_mmrazor(entry, plain):
    """The config of the same distillation, made as mmrazor makes it.

    Args:
        entry (dict): The distillation hook.
        plain (Config): The config without it.

    Raises:
        ValueError: It is more than soft labels of one pretrained teacher.
    """
    losses = list((entry.get('losses') or {}).values())
    teacher = entry.get('teacher') or {}
    if (len(losses) != 1 or losses[0].get('type') != 'KDLoss'
            or losses[0].get('source') != 'logits'
            or 'config' not in teacher):
        raise ValueError(
            'mmrazor is compared on one KDLoss on the logits by a pretrained '
            f'teacher, but got losses {entry.get("losses")!r} and teacher '
            f'{teacher!r}')
    cfg, model = plain.copy(), frozen.load_config(
        teacher['config'], 'teacher').model
    cfg.model = dict(
        type='mmengine.MMRazorStep',
        architecture=plain.model,
        teacher=dict(model, pretrained=None),
        temperature=losses[0].get('temperature', 1.0),
        loss_weight=losses[0].get('loss_weight', 1.0),
        data_preprocessor=plain.model.data_preprocessor)
    return cfg
