"""What is compared between student and teacher: one paper per file.

A loss knows no model. The contract between a loss and the hook that calls it
is this and no more:

- ``loss(student, teacher, label=None, weight=None)`` returns a scalar
  tensor. ``student`` and ``teacher`` are maps of equal N, H and W; the teacher
  is detached inside (MixSKD's losses are mutual: both sides are the
  student's), and the arithmetic is in float32 or better under autocast too.
  The value does not depend on the batch size or the size of the map; where a
  published form does, the docstring says how.
- ``weight`` (optional), (N, 1, H, W), says how much a position counts; what
  weighs 0, such as padding, takes no part. A loss without that argument gets
  maps that are 0 in the padding.
- ``channels`` (class attribute) says what the channels of the two maps must
  be: ``'classes'``: logits of the same classes; ``'adapt'``: features with
  equal channels, which a 1x1 convolution on the student's side provides where
  they differ; ``'any'``: features whose channels may differ.
- ``sizes`` (optional, default ``'equal'``): with ``'any'`` the hook does not
  resize the teacher's map to the student's.
- ``pairs(student, teacher)`` (optional): which of the student's levels is
  compared with which of the teacher's; by default each with its like.
- ``activation`` (optional): None until the hook puts ``'softmax'`` or
  ``'sigmoid'`` there, as the student's head has it.
- ``needs_positions`` (optional, default False): the loss compares positions
  of a map with each other, and has nothing to say of RoI vectors.
- ``needs_label`` (optional, default False): the loss makes use of ``label``,
  the integer class map of the batch in its own size.
- ``needs_image`` (optional, default False): the loss is to be called with
  ``image=``, the input of the student, as well.
- ``discriminator_loss(student, teacher, image=None)`` (optional): a second
  loss, for the parameters of ``loss.discriminator`` alone; they have their
  own optimizer, described by ``loss.optimizer_cfg``, and are made by
  ``loss.build(channels, image_channels)`` or in the first call. Every level
  gets a loss, and so a discriminator, of its own.
"""
from .at_loss import ATLoss, at_loss
from .holistic_loss import (
                            HolisticLoss,
                            holistic_discriminator_loss,
                            holistic_loss,
)
from .icsd_loss import ICSDLoss, icsd_loss
from .kd_loss import KDLoss, kd_loss
from .mixskd_loss import (
                            MixSKDAdversarialLoss,
                            MixSKDFeatureLoss,
                            MixSKDLogitLoss,
                            mixskd_feature_loss,
                            mixskd_logit_loss,
)
from .nfd_loss import NFDLoss, nfd_loss
from .pairwise_loss import PairwiseLoss, pairwise_loss
from .tfd_loss import (
                            TFDInterLoss,
                            TFDIntraLoss,
                            tfd_inter_loss,
                            tfd_intra_loss,
)

__all__ = [
    'ATLoss', 'HolisticLoss', 'ICSDLoss', 'KDLoss', 'MixSKDAdversarialLoss',
    'MixSKDFeatureLoss', 'MixSKDLogitLoss', 'NFDLoss', 'PairwiseLoss',
    'TFDInterLoss', 'TFDIntraLoss', 'at_loss', 'holistic_discriminator_loss',
    'holistic_loss', 'icsd_loss', 'kd_loss', 'mixskd_feature_loss',
    'mixskd_logit_loss', 'nfd_loss', 'pairwise_loss', 'tfd_inter_loss',
    'tfd_intra_loss'
]
