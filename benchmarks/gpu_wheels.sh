#!/usr/bin/env bash
# Make the folder of packages that benchmarks/gpu.sh is given where there is no network:
#
#     bash benchmarks/gpu_wheels.sh FOLDER
#
# For a machine with Python 3.12, torch, torchaudio and NumPy, on Linux and x86-64. Each by itself,
# the wheels take 90 MB: unpacked, they are put into one archive, where what is alike in them takes
# space once. What the run does not use is left out: tests, numba and Matplotlib, of which librosa
# and panns_inference get stand-ins to import; TensorBoard, seaborn, gdown, ruff, mypy.
# PYTHON=/path/to/python picks another interpreter than .venv's: it needs pip.
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:?which folder?}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT

from_requirements=(
  av soundfile soxr msgspec scipy scikit-learn joblib threadpoolctl librosa panns-inference
  speechbrain skops tqdm pytest hypothesis
)
they_need=(
  cffi narwhals cloudpickle lazy-loader decorator msgpack pooch platformdirs packaging audioread
  torchlibrosa hyperpyyaml pyyaml ruamel.yaml iniconfig pluggy pygments sortedcontainers
)
platforms=()
for version in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${version}_x86_64")
done
"${PYTHON:-$here/.venv/bin/python}" -m pip install --quiet --disable-pip-version-check --no-compile \
  --target "$site" --no-deps --only-binary=:all: --implementation cp --python-version 3.12 \
  "${platforms[@]}" --constraint "$here/requirements.txt" \
  "${from_requirements[@]}" "${they_need[@]}" nvidia-ml-py

find "$site" -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
mkdir "$site/matplotlib"
touch "$site/matplotlib/__init__.py" "$site/matplotlib/pyplot.py"
cat >"$site/numba.py" <<'PYTHON'
"""Stands in for numba: its decorators change nothing."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *given, **_: given[0] if given and callable(given[0]) else lambda made: made
PYTHON

mkdir -p "$folder"
tar --create --sort=name --directory "$site" . | xz --x86 --lzma2=preset=7 >"$folder/wheels.tar.xz"
echo "$folder/wheels.tar.xz: $(($(stat --format=%s "$folder/wheels.tar.xz") / 1000000)) MB"
