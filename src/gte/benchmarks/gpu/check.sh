#!/usr/bin/env bash
# On a machine with a CUDA card and no network, in a copy of the checkout with .gpu and .whl: bash .gpu/check.sh
# Arguments are those of `python -m gte.benchmarks.gpu`; GPU_SITE is where the carried wheels are put.
cd "$(dirname "$0")/.." || exit 1
site=${GPU_SITE:-/tmp/gpu_site}
if [ ! -d "$site" ] && ls .whl/*.whl >/dev/null 2>&1; then
    rm -rf "$site.partial"
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site.partial" .whl/*.whl || exit 1
    mv "$site.partial" "$site"
fi
export PYTHONPATH="$PWD/src:$site${PYTHONPATH:+:$PYTHONPATH}"
python3 -c 'import polars' 2>/dev/null || export PYTHONPATH="$PYTHONPATH:$PWD/.gpu/stubs"
exec python3 -m gte.benchmarks.gpu "$@"
