#!/usr/bin/env bash
# BCCD on a CPU: a teacher, the plain student, SKD, NFD and FRSKD.
#   BCCD=/path/to/bccd SEEDS='0 1' bash benchmarks/bccd.sh
. "$(dirname "$0")/train.sh"

teacher=fcos_r18-w48_1xb8-1k_bccd-320x240
student=fcos_r18-w16_1xb8-1k_bccd-320x240
pair=fcos_r18-w48-w16_1xb8-1k_bccd-320x240
train "$teacher" "bccd/$teacher.py"
for seed in ${SEEDS:-0}; do
    run() { train "$1-seed$seed" "$2" --cfg-options "randomness.seed=$seed"; }
    run det-plain "bccd/$student.py"
    run det-nfd "nfd/nfd_$pair.py"
    run det-skd "skd/skd_$pair.py"
    run det-frskd "frskd/frskd_$student.py"
done
"$PYTHON" tools/summarize.py "work_dirs/$teacher" work_dirs/det-*-seed*
