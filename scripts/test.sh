#!/usr/bin/env bash
# Runs pytest in a virtual environment that it makes: .venv-test, or $LLMREC_VENV.
#
#     scripts/test.sh [PYTEST ARGUMENTS]        # `-m slow` runs the tests that take minutes
#
# $LLMREC_EXTRAS are the extras to install, by default those of the tests.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
# shellcheck source=scripts/venv.sh
source "$root/scripts/venv.sh"
make_venv "${LLMREC_VENV:-.venv-test}" "${LLMREC_EXTRAS:-test}"
exec "$venv_python" -m pytest "$@"
