"""How far the student agrees with the teacher, for the log."""
import torch

from ..layout import BatchLayout
from ..losses._maps import resize_label
from ..teachers import TeacherOutput
from .level_matching import resize_like
from .loss_term import LossTerm

# the share of pixels with the same top class; the similarity of features;
# the share of the labelled pixels at which the teacher is right
AGREEMENTS = ('distill.agreement', 'distill.cka',
              'distill.teacher_accuracy')
AGREEMENT_INTERVAL = 10  # iterations between two measurements

# the first pair of levels of each loss
Compared = dict[LossTerm, tuple[torch.Tensor, torch.Tensor]]


def class_agreement(student: torch.Tensor,
                    teacher: torch.Tensor) -> torch.Tensor:
    """Share of the pixels at which both score the same class highest.

    Args:
        student (Tensor): Logits (N, K, H, W).
        teacher (Tensor): Logits (N, K, H, W).

    Returns:
        Tensor: A scalar in [0, 1].
    """
    return (student.argmax(1) == teacher.argmax(1)).float().mean()


def accuracy(teacher: torch.Tensor, label: torch.Tensor,
             ignore_index: int) -> torch.Tensor:
    """Share of the labelled pixels whose top class is the label.

    A teacher of another normalisation, data set or order of classes is seen
    by it.

    Args:
        teacher (Tensor): Logits (N, K, H, W).
        label (Tensor): Classes (N, H0, W0).
        ignore_index (int): The label that does not count.

    Returns:
        Tensor: A scalar in [0, 1]; 0 without a labelled pixel.
    """
    label = resize_label(label, teacher)
    counts = (label != ignore_index) & (label >= 0)
    right = (teacher.argmax(1) == label) & counts
    return right.sum() / counts.sum().clamp(min=1)


def linear_cka(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    r"""Linear centred kernel alignment of two feature maps.

    :math:`\|S T^\top\|_F^2 / (\|S S^\top\|_F \|T T^\top\|_F)` with the
    positions of the whole batch as samples and each channel centred.

    Args:
        student (Tensor): Features (N, C_s, H, W).
        teacher (Tensor): Features (N, C_t, H, W).

    Returns:
        Tensor: A scalar in [0, 1]; 0 for a constant map.

    Reference: Similarity of Neural Network Representations Revisited, ICML
    2019, arXiv 1905.00414.
    """
    with torch.autocast(student.device.type, enabled=False):
        s, t = (x.float().transpose(0, 1).flatten(1)
                for x in (student, teacher))
        s, t = s - s.mean(1, keepdim=True), t - t.mean(1, keepdim=True)
        scale = (s @ s.T).norm() * (t @ t.T).norm()
        return (s @ t.T).square().sum() / scale.clamp(min=1e-12)


def scores_and_label(
        compared: Compared, outputs: dict[str, TeacherOutput],
        layout: BatchLayout
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, int] | None:
    """The first class scores of both sides, if there are any.

    With their label maps (N, H, W), None for the scores of anchors and mixed
    images and where labels are boxes, and the label that is ignored.
    """
    for term, (student, teacher) in compared.items():
        if term.loss.channels != 'classes' or student.shape[1] < 2:
            continue
        place = term.matcher.place
        is_of_image = (
            len(teacher) == len(layout.samples)
            and (place.class_map is not None or not layout.has_boxes)
            and all(outputs[name].label is None
                    for name in term.config.teachers))
        return (student, teacher,
                term.matcher.label(layout.label(place.class_map)
                                   if is_of_image else None),
                layout.padding_label if place.ignore_index is None
                else place.ignore_index)
    return None


@torch.no_grad()
def measure_agreement(
        compared: Compared, outputs: dict[str, TeacherOutput],
        layout: BatchLayout) -> dict[str, torch.Tensor]:
    """Of class scores where there are any, else of the first features."""
    scores = scores_and_label(compared, outputs, layout)
    if scores is None:
        student, teacher = next(iter(compared.values()))
        return {'distill.cka': linear_cka(
            student, resize_like(teacher, student))}
    student, teacher, label, ignored = scores
    found = {'distill.agreement': class_agreement(student, teacher)}
    if label is not None:
        found['distill.teacher_accuracy'] = accuracy(teacher, label, ignored)
    return found
