#!/usr/bin/env bash
# Installs the package with its test tools into .venv-test (or $LLMREC_VENV) and runs pytest.
#
#     scripts/test.sh [PYTEST ARGUMENTS]        # `-m slow` runs the proofs that take minutes
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
# shellcheck source=scripts/venv.sh
source "$root/scripts/venv.sh"
make_venv "${LLMREC_VENV:-.venv-test}" test
exec "$venv_python" -m pytest "$@"
