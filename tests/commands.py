"""Commands in processes of their own, without the seconds that each would take to import PyTorch."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SERVER = Path(__file__).with_name("fork_server.py")


def run_python(
    *arguments: str | Path, environment: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run([sys.executable, *arguments], capture_output=True, text=True)` returns, sooner.

    A copy of a process that has imported PyTorch runs the command. Its standard input is empty. Where a test is about
    what a command imports, about signals or about a terminal, start a process of its own instead.

    Args:
        arguments: `-m`, a module and its arguments, or `-c`, code and its arguments.
        environment: all environment variables of the command; those of this process if None.
        cwd: its working directory; that of this process if None.
    """
    command = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        job = {
            "arguments": command,
            "cwd": str(cwd or Path.cwd()),
            "environment": environment or dict(os.environ),
            "stdout": str(out),
            "stderr": str(err),
        }
        server = _server()
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())


@functools.cache
def _server() -> subprocess.Popen[str]:
    """The server of this process; it ends when this process does, which closes its input."""
    return subprocess.Popen([sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
