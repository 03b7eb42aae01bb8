"""What lives for one run: the plan, its losses and who computes them."""
from .plan import Plan, joined, make_plan
from .run import ENTRY, DistillationRun

__all__ = ['ENTRY', 'DistillationRun', 'Plan', 'joined', 'make_plan']
