#!/usr/bin/env bash
# Runs pytest in a virtual environment that it makes: .venv-test, or $LLMREC_VENV.
#
#     scripts/test.sh [PYTEST ARGUMENTS]        # `-m slow` runs the tests that take minutes
#
# As many processes as the machine has cores, at most 8, share the test files. Each has one thread, as two processes of
# several threads would wait for each other. `-n 0` runs all tests in one process.
#
# $LLMREC_EXTRAS are the extras to install, by default those of the tests.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
# shellcheck source=scripts/venv.sh
source "$root/scripts/venv.sh"
make_venv "${LLMREC_VENV:-.venv-test}" "${LLMREC_EXTRAS:-test}"
export OMP_NUM_THREADS=1
exec "$venv_python" -m pytest -n logical --maxprocesses 8 --dist loadfile "$@"
