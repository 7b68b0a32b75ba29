#!/usr/bin/env bash
# From a fresh checkout to a trained, measured recommender: real MovieLens-100K, a real language model, two CPU cores.
#
#     scripts/quickstart.sh [--json]
#
# Makes .venv (or $LLMREC_VENV) once, then runs `llmrec run configs/quickstart.yaml`. Run it again to go on.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
# shellcheck source=scripts/venv.sh
source "$root/scripts/venv.sh"
make_venv "${LLMREC_VENV:-.venv}" bundled
exec "$venv_python" -m llmrec run configs/quickstart.yaml "$@"
