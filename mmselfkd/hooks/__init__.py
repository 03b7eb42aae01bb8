"""Hooks: the mechanism, and one file per method that fills it in."""
from .aicsd_hook import AICSDHook
from .attnfd_hook import AttnFDHook
from .cirkd_hook import CIRKDHook
from .crosskd_hook import CrossKDHook
from .cwd_hook import CWDHook
from .dist_hook import DISTHook
from .distill_hook import DistillHook
from .fgd_hook import FGDHook
from .fitnets_hook import FitNetsHook
from .frskd_hook import FRSKDHook
from .icsd_hook import ICSDHook
from .ifvd_hook import IFVDHook
from .ka_dtd_hook import KADTDHook
from .ld_hook import LDHook
from .mgd_hook import MGDHook
from .mixskd_hook import MixSKDHook
from .nfd_hook import NFDHook
from .pkd_hook import PKDHook
from .skd_hook import SKDHook
from .srd_hook import SRDHook
from .tfd_hook import TFDHook
from .visualization import DistillVisualizationHook

__all__ = [
    'AICSDHook', 'AttnFDHook', 'CIRKDHook', 'CWDHook', 'CrossKDHook',
    'DISTHook', 'DistillHook', 'DistillVisualizationHook', 'FGDHook',
    'FRSKDHook', 'FitNetsHook', 'ICSDHook', 'IFVDHook', 'KADTDHook', 'LDHook',
    'MGDHook', 'MixSKDHook', 'NFDHook', 'PKDHook', 'SKDHook', 'SRDHook',
    'TFDHook'
]
