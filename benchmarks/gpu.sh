#!/usr/bin/env bash
# What needs a GPU, in MINUTES (25): its tests, what a step costs at 512x1024,
# with the teacher's answers cached too, and as many of the runs on CamVid at
# 480x360 as fit, in this order.
#   CAMVID=/path/to/camvid WEIGHTS=/path/to/converted bash benchmarks/gpu.sh
# GPU_DIR (work_dirs/gpu) gets tests.txt, step_cost.md, results.jsonl with its
# logs, and
# camvid.md. Started again, it leaves out what is finished there.
# A dry run on a CPU: PAIR, METHODS, COST, RESOLUTION, RUNS and the TEACHER
# among them (below GPU_DIR/runs) of a small size.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
GPU_DIR=$(realpath -m "${GPU_DIR:-work_dirs/gpu}")
teacher=${TEACHER:-camvid_teacher-lr3e-3-val-4000-seed0/iter_4000.pth}
export TEACHER=$GPU_DIR/runs/$teacher
export PAIR=${PAIR:-pspnet} RESOLUTION=${RESOLUTION:-full}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
end=$(($(date +%s) + 60 * ${MINUTES:-25}))
failed=()
mkdir -p "$GPU_DIR"

# keep FILE COMMAND...: what it prints, once it has ended well and in time
keep() {
    local file=$1 left=$((end - $(date +%s)))
    shift
    [ -e "$GPU_DIR/$file" ] && return
    echo "== $file: $((left / 60)) minutes left"
    if ((left > 0)) && timeout -k 30 "$left" "$@" 2>&1 |
            tee "$GPU_DIR/$file.part"; then
        mv "$GPU_DIR/$file.part" "$GPU_DIR/$file"
    else
        failed+=("$file")
    fi
}

methods=()
for name in ${METHODS:-at icsd kd nfd pairwise skd_pi_pa student}; do
    methods+=("benchmarks/step_cost/$name.py")
done
keep tests.txt "$PYTHON" -m pytest -v -rs tests/test_hooks/test_gpu.py
# shellcheck disable=SC2086  # several arguments
keep step_cost.md "$PYTHON" benchmarks/step_cost.py --cached \
    ${COST:---iters 20} "${methods[@]}"
keep runs.txt "$PYTHON" -m benchmarks.saturation.run --out "$GPU_DIR" \
    --runs "${RUNS:-benchmarks/saturation/gpu.json}" --work-dirs "$GPU_DIR/runs"
"$PYTHON" -m benchmarks.saturation.table camvid --out "$GPU_DIR" |
    tee "$GPU_DIR/camvid.md"
echo "not finished: ${failed[*]:-nothing}"
((${#failed[@]} == 0))
