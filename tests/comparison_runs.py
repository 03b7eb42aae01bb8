"""Folders as tools/compare.py leaves them, without training."""
import json

from mmselfkd.comparison.recording import EVALUATION, FACTS
from mmselfkd.comparison.results import PLAIN, Plan

CLASSES = ('road', 'pole')
SETTINGS = dict(student=dict(type='A'), schedule=dict(max_iters=20),
                data=dict(root='here'), hooks=None)


def write_run(folder, method=PLAIN, seed=0, value=None, metric='mIoU',
              settings=SETTINGS, hook=None, teacher=None, losses=(2., 1.),
              iterations=20, classes=(60., 20.), config='', **evaluation):
    """A run; finished with ``value``, if there is one."""
    position = 0 if method == PLAIN else 1
    name = f'{method.replace(" ", "-")}-seed{seed}'
    folder = folder / name
    Plan(method, seed, position, settings, dict(hook=hook, teacher=teacher),
         str(config)).write(folder)
    (folder / FACTS).write_text(json.dumps(dict(
        iterations=iterations, parameters=1000, along=0, memory=100,
        memory_of='CPU')))
    log = folder / '1' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    extra = {} if method == PLAIN else {'distill.loss_x': 0.5,
                                        'distill.agreement': 0.9}
    records = [
        {'loss': loss, 'decode.loss_ce': loss, 'time': 0.5, 'data_time': 0.1,
         'step': 10 * (i + 1), **extra} for i, loss in enumerate(losses)]
    if value is not None:
        records.append({metric: value, 'step': iterations})
        (folder / EVALUATION).write_text(json.dumps(dict(
            dict(metrics={metric: value}, classes=dict(zip(CLASSES, classes)),
                 image_score='pixel accuracy', images=[], confusion=None),
            **evaluation)))
    log.write_text('\n'.join(map(json.dumps, records)))
    return folder
