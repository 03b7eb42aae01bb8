# Read by the scripts beside it: `train NAME CONFIG [OPTIONS]` trains in
# work_dirs/NAME, goes on with what was interrupted and leaves out what is done.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
PYTHON=${PYTHON:-python}

train() {
    local folder="work_dirs/$1" config="configs/$2"
    shift 2
    [ -e "$folder/done" ] || {
        "$PYTHON" tools/train.py "$config" --work-dir "$folder" --resume "$@"
        touch "$folder/done"
    }
}
