#!/usr/bin/env bash
# Builds the fuzz targets and runs each on its committed corpus: fuzz/run.sh SECONDS [TARGET...]
# Says whether this toolchain can do that:                       fuzz/run.sh --can
#
# Nothing in the checkout changes: new inputs, logs and findings go below the target folder. The same as
# `RUSTC_BOOTSTRAP=1 cargo fuzz run TARGET`, without cargo-fuzz, which takes longer to install than the targets to build.
set -euo pipefail
cd "$(dirname "$0")"

host=$(rustc -vV | sed -n 's/^host: //p')
if [ "$1" = --can ]; then
    compgen -G "$(rustc --print sysroot)/lib/rustlib/$host/lib/librustc-*_rt.asan.a" >/dev/null
    exit
fi
seconds=$1
shift
[ $# -gt 0 ] || set -- decoder connection ring systemd c_api

# Sanitizers and the coverage pass are there in every toolchain, for those who say that they know what they ask for. The
# flags are those of cargo-fuzz.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
${CARGO:-cargo} build --release --locked --target "$host" "${@/#/--bin=}"

# Each input makes and frees a reader's large buffer: kept back for long, they would be fresh memory every time.
export ASAN_OPTIONS="quarantine_size_mb=16:${ASAN_OPTIONS:-}"
# For the sockets of inputs; what a killed fuzzer leaves behind goes with it.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

# A little structure says much, and long inputs are slow ones.
longest() {
    case $1 in decoder) echo 160 ;; systemd) echo 512 ;; *) echo 1024 ;; esac
}

# Memory that grows, one large piece of memory (malloc_limit_mb), and a hang are findings too.
run() {
    local target=$1 work=$CARGO_TARGET_DIR/run/$1 found=nothing options=()
    mkdir -p "$work/corpus" "$work/findings"
    [ ! -e "dictionaries/$target.dict" ] || options=("-dict=dictionaries/$target.dict")
    "$CARGO_TARGET_DIR/$host/release/$target" "$work/corpus" "corpus/$target" "${options[@]}" \
        -max_total_time="$seconds" -max_len="$(longest "$target")" -timeout=90 -rss_limit_mb=1024 -malloc_limit_mb=64 \
        -print_final_stats=1 -artifact_prefix="$work/findings/" >"$work/log" 2>&1 || found="A DEFECT"
    awk -v target="$target" -v found="$found" '
        / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") edges = $(i + 1); else if ($i == "corp:") corpus = $(i + 1) }
        /^#[0-9]+/ { runs = substr($1, 2) }
        /number_of_executed_units/ { runs = $2 }
        /average_exec_per_sec/ { speed = $2 }
        END { printf "%s: found %s in %d runs, %d a second, %d edges covered, corpus %s\n",
              target, found, runs, speed, edges, corpus }' "$work/log"
    [ "$found" = nothing ] || {
        tail -n 60 "$work/log" >&2
        echo "$target: the whole story is in $work/log, the input in $work/findings/" >&2
        return 1
    }
}

status=0
for target in "$@"; do
    run "$target" || status=1
done
exit $status
