"""What is compared between student and teacher: one paper per file.

A loss knows no model. It derives from
:class:`~mmselfkd.losses.DistillationLoss`, which is the contract between a
loss and the run that calls it. This package needs torch alone.
"""
from .at_loss import ATLoss, at_loss
from .attnfd_loss import AttnFDLoss, attnfd_loss
from .base import AdversarialLoss, DistillationLoss
from .cirkd_loss import (
    CIRKDMemoryLoss,
    CIRKDMiniBatchLoss,
    cirkd_memory_loss,
    cirkd_minibatch_loss,
)
from .crosskd_loss import CrossKDLoss, crosskd_loss
from .cwd_loss import CWDLoss, cwd_loss
from .dist_loss import DISTLoss, dist_loss
from .fgd_loss import FGDLoss, fgd_loss
from .fitnets_loss import FitNetsLoss, fitnets_loss
from .holistic_loss import (
    HolisticLoss,
    holistic_discriminator_loss,
    holistic_loss,
)
from .icsd_loss import ICSDLoss, icsd_loss
from .ifvd_loss import IFVDLoss, ifvd_loss
from .kd_loss import KDLoss, kd_loss
from .ld_loss import LDLoss, ld_loss
from .mgd_loss import MGDLoss, mgd_loss
from .mixskd_loss import (
    MixSKDAdversarialLoss,
    MixSKDFeatureLoss,
    MixSKDLogitLoss,
    mixskd_feature_loss,
    mixskd_logit_loss,
)
from .nfd_loss import NFDLoss, nfd_loss
from .pairwise_loss import PairwiseLoss, pairwise_loss
from .pkd_loss import PKDLoss, pkd_loss
from .srd_loss import SRDLoss, srd_loss
from .tfd_loss import (
    TFDInterLoss,
    TFDIntraLoss,
    tfd_inter_loss,
    tfd_intra_loss,
)
from .value_loss import ValueLoss, value_loss

__all__ = [
    'ATLoss', 'AdversarialLoss', 'AttnFDLoss', 'CIRKDMemoryLoss',
    'CIRKDMiniBatchLoss', 'CWDLoss', 'CrossKDLoss', 'DISTLoss',
    'DistillationLoss', 'FGDLoss', 'FitNetsLoss', 'HolisticLoss', 'ICSDLoss',
    'IFVDLoss', 'KDLoss', 'LDLoss', 'MGDLoss', 'MixSKDAdversarialLoss',
    'MixSKDFeatureLoss', 'MixSKDLogitLoss', 'NFDLoss', 'PKDLoss',
    'PairwiseLoss', 'SRDLoss', 'TFDInterLoss', 'TFDIntraLoss', 'ValueLoss',
    'at_loss', 'attnfd_loss', 'cirkd_memory_loss', 'cirkd_minibatch_loss',
    'crosskd_loss', 'cwd_loss', 'dist_loss', 'fgd_loss', 'fitnets_loss',
    'holistic_discriminator_loss', 'holistic_loss', 'icsd_loss', 'ifvd_loss',
    'kd_loss', 'ld_loss', 'mgd_loss', 'mixskd_feature_loss',
    'mixskd_logit_loss', 'nfd_loss', 'pairwise_loss', 'pkd_loss', 'srd_loss',
    'tfd_inter_loss', 'tfd_intra_loss', 'value_loss'
]
