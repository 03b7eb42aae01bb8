"""What is looked at while a case runs."""
import torch
from helpers import At, distillation

from mmselfkd.losses._maps import resize_label
from mmselfkd.teachers import FrozenTeacher

from .cases import LOSSES, Case


class Watch(At):
    """Keeps what a run sees, and notes what must not be.

    - A loss ignores the label that its head ignores, unless the user says
      another one: noise on these pixels does not change its value.
    - A pretrained teacher sees what its own preprocessor makes of the batch.

    Attributes:
        batches (list[list[Tensor]]): The images of every iteration.
        trained (list[str]): Names of what is trained along.
        problems (list[str]): What was noted.
    """

    def __init__(self, case: Case):
        super().__init__(before_train=self._begin, before_train_iter=self._see)
        self.case = case
        self.batches, self.trained, self.problems = [], [], []

    def _begin(self, runner):
        if not any('losses' in hook or hook['type'] != 'EMAHook'
                   for hook in runner.cfg.custom_hooks):
            return
        run = distillation(runner)
        self.trained += run.trained_modules().state_dict()
        run.observers.append(self._ignore)
        for teacher in run.teachers.values():
            if type(teacher) is FrozenTeacher:
                teacher.model.backbone.register_forward_pre_hook(
                    lambda module, args, teacher=teacher: self._compare(
                        teacher, args[0]))

    def _see(self, runner, batch_idx, data_batch=None):
        self.batches.append([image.clone() for image in data_batch['inputs']])

    def _compare(self, teacher, inputs):
        images = self.batches[-1]
        if teacher.channels is not None:
            images = [image[teacher.channels] for image in images]
        wanted = teacher.model.data_preprocessor(
            dict(inputs=images, data_samples=None))['inputs']
        if not torch.allclose(inputs, wanted, rtol=1e-4, atol=1e-4):
            self._note(f'{teacher.key}: its input is off by '
                       f'{float((inputs - wanted).abs().max()):.3g}')

    def _ignore(self, term, pairs, context):
        loss = term.loss
        if term.name not in self.case.terms or loss.ignore_index is None and (
                'ignore_index' not in vars(loss)):
            return  # of another hook, or it knows no such label
        default = LOSSES[term.config.loss_name]().ignore_index
        said = self.case.terms[term.name][1].get('ignore_index', default)
        path = term.config.student_sources[0].path
        head = self.case.aside if path.startswith(
            ('auxiliary_head', 'decode_head.0')) else self.case.ignored
        wanted = head if said == 'head' else said
        if loss.ignore_index != wanted:
            self._note(f'{term.name} ignores {loss.ignore_index}, not '
                       f'{wanted}')
        if (wanted is None or not loss.needs_label
                or hasattr(loss, 'projector')  # with a norm over all pixels
                or any('MixTeacher' in str(taught.cfg)  # labels of its own
                       for taught in self.case.teachers.values())):
            return
        label = context.layout.label()
        values = []
        with torch.no_grad(), torch.random.fork_rng():
            for noise in (0, 9):
                torch.manual_seed(0)
                moved = [tuple(
                    x + noise * torch.randn_like(x) * (
                        resize_label(label, x) == wanted)[:, None]
                    for x in pair) for pair in pairs]
                term.level_losses.eval()  # what remembers leaves this out
                values.append(float(term.value(
                    moved, label, context.inputs, context.layout)))
                term.level_losses.train()
        if abs(values[0] - values[1]) > 1e-3 * (1e-3 + abs(values[0])):
            self._note(f'{term.name}: {values} without and with noise on '
                       f'pixels of the label {wanted}')

    def _note(self, problem):
        if problem not in self.problems:
            self.problems.append(problem)
