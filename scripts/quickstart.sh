#!/usr/bin/env bash
# Trains and evaluates a recommender on MovieLens-100K with a small language model, on two CPU cores.
#
#     scripts/quickstart.sh [--json]
#
# Makes the virtual environment .venv (or $LLMREC_VENV), then runs `llmrec run configs/quickstart.yaml`. If it is
# interrupted, run it again: finished stages are skipped, and training resumes from its last checkpoint.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
# shellcheck source=scripts/venv.sh
source "$root/scripts/venv.sh"
make_venv "${LLMREC_VENV:-.venv}" bundled
exec "$venv_python" -m llmrec run configs/quickstart.yaml "$@"
