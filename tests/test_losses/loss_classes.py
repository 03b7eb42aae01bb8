"""Every loss of the package, for tests of what they have in common."""
import inspect

from mmselfkd import losses
from mmselfkd.losses import AdversarialLoss, DistillationLoss

CLASSES = [cls for cls in vars(losses).values() if inspect.isclass(cls)
           and cls not in (AdversarialLoss, DistillationLoss)]
