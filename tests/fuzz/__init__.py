"""Fuzzes configs: valid ones must train, others must end in our error.

Case number N of a seed depends on nothing but the two. A valid one composes
student, hook, teachers, sources, losses, schedules, optimizer and loop as the
documentation allows; it has to make its steps with finite values, to leave
the model clean and to save a stock checkpoint. An invalid one is a valid one
with one thing spoilt; it has to end in a ConfigError before the first
iteration that names what was spoilt. The mutations take turns.

So do the themes of valid ones, each with what must be right in it:

- lists of task losses: the scores are read as with the cross entropy alone;
- other ignored labels, of each head its own: noise on these pixels changes
  no loss that leaves them out, and where there are no others it is 0;
- images of one or four channels: a pretrained teacher sees what its own
  preprocessor makes of them;
- a transform with a memory: the student sees the batches of a plain run;
- tokens: they are the map that the backbone makes of them;
- two losses on one source: either is what it is alone.

Cases of detectors have the losses that look at boxes or at a head, with what
the documentation says of each; one in a few has one that is refused.

Else what is legal is not listed here. The losses, teachers and schedules say
it: by their signatures, by the attributes of ``DistillationLoss``, and by what
they refuse. A new loss is fuzzed as soon as it is exported.

Models and data are those of the tests, so this needs a clone::

    python -m tests.fuzz --seed 1

The files: ``values`` (arguments of a class), ``models`` (students and what
can be tapped in them), ``cases`` (what a case is), ``valid``, ``mutations``
and ``detectors`` (making one), ``running``, ``watching``, ``checking``.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from .checking import problems_of  # noqa: E402
from .detectors import make_detector  # noqa: E402
from .mutations import make_invalid  # noqa: E402
from .running import replay  # noqa: E402
from .valid import make_valid  # noqa: E402

__all__ = [
    'make_detector', 'make_invalid', 'make_valid', 'problems_of', 'replay'
]
