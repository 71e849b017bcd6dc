#!/usr/bin/env bash
# Fetch the artist20 data set and pretrained weights; see: bash get_dataset.sh --help
# PYTHON=/path/to/python picks another interpreter than .venv's.
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-}
if [ -z "$python" ]; then
  if [ -x "$here/.venv/bin/python" ]; then python=$here/.venv/bin/python; else python=python3; fi
fi

# The working directory stays the caller's, so that paths mean what they say; nothing is imported
# from it, though: it may well hold a folder named artist20.
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1

case " $* " in # help needs no packages
  *" -h "* | *" --help "*) exec "$python" -m artist20.fetch --help ;;
esac
if ! missing=$("$python" -c '
import sys
assert sys.version_info >= (3, 11), "Python 3.11 or later is needed"
import av, gdown, msgspec, numpy, tqdm' 2>&1); then
  reason=${missing##*$'\n'} # of a traceback, the last line
  echo "error: $python: $reason; run 'make setup' or 'pip install -r requirements.txt' in $here" >&2
  exit 2
fi
exec "$python" -m artist20.fetch "$@"
