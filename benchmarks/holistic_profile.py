"""Where the time of HolisticLoss goes: its parts, and what in them is floor.

    python benchmarks/holistic_profile.py

The student's turn (scores and their gradient by the logits), the scores of
both sides and their backward pass, the gradient penalty and its own, and the
optimizer's step, on logits of the CamVid pair. *products*: the matrix products
among it (``aten::mm``, ``addmm``, ``bmm``), by torch's profiler: of patches or
their gradients with weights, and of gradients with patches. The equation
contains them all, so no way of computing it is faster than they are.
"""
import os

import torch
from measuring import machine, make_parser, table, told, write
from torch.profiler import ProfilerActivity, profile

from mmselfkd.losses import HolisticLoss

PRODUCTS = ('aten::mm', 'aten::addmm', 'aten::bmm')


def make_parts(loss, student, teacher, image):
    """What is timed, in the order of a training step."""
    def turn(penalty):
        loss.gradient_penalty = penalty
        loss.discriminator.zero_grad()
        loss.discriminator_loss(student, teacher, image=image).backward()

    optimizer = torch.optim.SGD(
        loss.discriminator.parameters(), lr=4e-5, momentum=0.9)
    turn(10.)

    def students_turn():
        logits = student.clone().requires_grad_()
        torch.autograd.grad(loss(logits, teacher, image=image), logits)

    return {
        "the student's turn": students_turn,
        "the discriminator's, without its penalty": lambda: turn(0.),
        "the discriminator's, with it": lambda: turn(10.),
        'step of the optimizer': optimizer.step,
    }


def profiled(work):
    """Milliseconds on the CPU: all, and of the products."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    return total / 1000, sum(event.self_cpu_time_total for event in events
                             if event.key in PRODUCTS) / 1000


def main():
    parser = make_parser(__doc__.split('\n')[0], rounds=10)
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--classes', type=int, default=11)
    parser.add_argument('--size', type=int, nargs=2, default=(30, 40),
                        help='of the logits')
    args = parser.parse_args()
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')
    torch.manual_seed(0)
    shape = args.batch, args.classes, *args.size
    student, teacher = torch.randn(2, *shape).unbind()
    image = torch.randn(args.batch, 3, *(4 * side for side in args.size))
    loss = HolisticLoss()
    loss(student, teacher, image=image)
    parts = make_parts(loss, student, teacher, image)
    times = {name: [] for name in parts}
    for round_ in range(args.iters + 1):
        for name, work in parts.items():
            spent = profiled(work)
            if round_:
                times[name].append(spent)
    rows = []
    for name, spent in times.items():
        every, products = zip(*spent)
        rows.append([
            name, told(every, 1), told(products, 1),
            told([p / e for p, e in zip(products, every)], 2)])
    write(machine(torch.device('cpu'), f'logits {shape}',
                  f'{args.iters} rounds') + '\n\n' +
          table(['part', 'ms', 'products, ms', 'share'], rows),
          args.out)


if __name__ == '__main__':
    main()
