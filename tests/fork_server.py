"""A Python that has imported PyTorch's slow modules and becomes `python -m MODULE` or `python -c CODE` on request.

Each line of its input is a job in JSON. A child process runs it, and a line of the output is the child's exit code.
Only modules that read no environment variables when they are imported may be imported here, because each job brings an
environment of its own.
"""

import importlib
import json
import os
import runpy
import sys

PRELOADED = (
    *("torch", "torch._dynamo", "torch._inductor.compile_fx", "torch.distributed.tensor", "torch.distributed.fsdp"),
    *("scipy.optimize", "scipy.stats", "pandas", "pyarrow.parquet", "networkx"),
)

for module in PRELOADED:
    importlib.import_module(module)
with open(0, closefd=False) as jobs:  # not sys.stdin, which the command is to find unread
    for line in jobs:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            break
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    else:
        sys.exit()

# From here on this process is the command. It ends as any Python does: after an exception with a traceback and code 1.
for number, path in enumerate((os.devnull, job["stdout"], job["stderr"])):
    opened = os.open(path, os.O_RDWR)
    os.dup2(opened, number)
    os.close(opened)
os.chdir(job["cwd"])
os.environ.clear()
os.environ.update(job["environment"])
option, what, *arguments = job["arguments"]
sys.path[0] = job["cwd"]
sys.argv = [option, *arguments]
if option == "-m":
    runpy.run_module(what, run_name="__main__", alter_sys=True)
else:
    exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
