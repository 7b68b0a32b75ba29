"""The peak memory of this process."""

from pathlib import Path


def peak_bytes() -> int:
    """Peak resident memory of this process in bytes (VmHWM, Linux).

    `getrusage` would not do: a process starts with the peak of its parent there.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
