#!/usr/bin/env bash
# CamVid on a CPU: a teacher, the plain student and every method.
#   CAMVID=/path/to/camvid SEEDS='0 1' bash benchmarks/camvid.sh
. "$(dirname "$0")/train.sh"

teacher=fpn_r18-w48_1xb8-2k_camvid-120x160
student=fpn_r18-w16_1xb8-1k_camvid-120x160
pair=fpn_r18-w48-w16_1xb8-1k_camvid-120x160
train "$teacher" "camvid/$teacher.py"
for seed in ${SEEDS:-0}; do
    run() { train "$1-seed$seed" "$2" --cfg-options "randomness.seed=$seed"; }
    run plain "camvid/$student.py"
    run skd-pi-pa "skd/skd-pi-pa_$pair.py"
    run skd "skd/skd_$pair.py"
    run nfd "nfd/nfd_$pair.py"
    run icsd "icsd/icsd_$pair.py"
    run aicsd "aicsd/aicsd_$pair.py"
    run plain-semi "camvid/${student/w16/w16-semi}.py"
    run skd-pi-pa-semi "skd/skd-pi-pa-semi_$pair.py"
    run ka-dtd "ka_dtd/ka-dtd_$pair.py"
    # without a teacher
    run ka-dtd-ema "ka_dtd/ka-dtd_$student.py"
    run frskd "frskd/frskd_$student.py"
    run mixskd "mixskd/mixskd_$student.py"
    run tfd "tfd/tfd_$student.py"
    run skd-pi-pa-ema "skd/skd-pi-pa-ema_$student.py"
    run skd-pi-pa-snapshot "skd/skd-pi-pa-snapshot_$student.py"
done
"$PYTHON" tools/summarize.py "work_dirs/$teacher" work_dirs/*-seed*
