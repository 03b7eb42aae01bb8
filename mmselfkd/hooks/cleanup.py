"""What is patched on a Runner so that clean-up follows an exception.

mmengine calls no stage of a hook when a run fails. From ``before_run`` on the
student carries torch hooks and a submodule of ours, so whatever runs between
there and the end of training is wrapped: the methods of this one Runner, of
its train loop and of the later hooks that can raise. After the last of them
the resources are closed, which takes the wrappers off too.
"""
import functools
from contextlib import ExitStack
from typing import Any

from mmengine.hooks import Hook

# what Runner.train calls between before_run and the loop
BEFORE_THE_LOOP = ('_init_model_weights', 'load_or_resume', '_maybe_compile')


def close_after_training(runner: Any, hook: Hook,
                         resources: ExitStack) -> None:
    """Close ``resources`` when training has ended or failed.

    Args:
        runner (Runner): Its ``before_run`` stage is under way.
        hook (Hook): Whose turn it is; later ones may still fail.
        resources (ExitStack): What is to be closed.
    """
    later = runner.hooks[runner.hooks.index(hook) + 1:]
    for other in later:
        _wrap(other, 'before_run', resources)
    for name in BEFORE_THE_LOOP:
        _wrap(runner, name, resources)
    _wrap(runner.train_loop, 'run', resources, is_last=True)


def _wrap(owner: Any, name: str, resources: ExitStack,
          is_last: bool = False) -> None:
    """Close ``resources`` when ``owner.name()`` raises, or is the last."""
    method = getattr(owner, name)
    if name in vars(owner):  # somebody else has patched it
        resources.callback(setattr, owner, name, method)

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            result = method(*args, **kwargs)
        except BaseException:
            resources.close()
            raise
        if is_last:
            resources.close()
        return result

    setattr(owner, name, wrapped)
    resources.callback(delattr, owner, name)
