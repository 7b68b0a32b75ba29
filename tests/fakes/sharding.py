"""Makes accelerate shard on CPUs, where it would otherwise use DDP, and DeepSpeed communicate without compiling."""

import os

from accelerate import PartialState
from accelerate.utils import DistributedType


def shard_on_cpus() -> None:
    """Call this before anything makes an `Accelerator`. The launcher's environment chooses the kind of sharding."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # otherwise compiled with g++ for a minute
    initialize = PartialState.__init__

    def as_if_on_gpus(self: PartialState, *args: object, **kwargs: object) -> None:
        initialize(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU  # accelerate shards under this type only

    PartialState.__init__ = as_if_on_gpus
