"""The server as an application of Ray Serve: the same routes, answered by the replicas of a cluster.

    serve run llmrec.serving.ray_serve:application run=/shared/runs/shop store=postgresql://llmrec@db/llmrec

Ray imports this module on every machine of the cluster.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve  # pyright: ignore[reportMissingImports]

from llmrec.run import Run
from llmrec.serving.app import make_app
from llmrec.serving.guard import Limits
from llmrec.serving.server import Model, ServerOptions, read_keys, serving
from llmrec.versions.registry import Registry


class Arguments(BaseModel):
    """What `serve run` and the `args` of a Serve config file take. API keys are in LLMREC_API_KEYS of each machine."""

    model_config = ConfigDict(extra="forbid")

    run: Path | None = Field(default=None, description="Run directory, on a file system that all machines share.")
    model: str | None = Field(default=None, description="Adapter on a hub, in place of `run`.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of `model`.")
    store: str = Field(description="Feedback store: a PostgreSQL URL; an SQLite file only for one replica.")
    sampled_share: float = Field(default=0.05, ge=0, le=1, description="Share of lists that are drawn at random.")
    full_precision: bool = Field(default=False, description="Loads a quantized base in full precision.")
    rate: float = Field(default=100.0, ge=0.1, description="Requests per second of one API key at one replica.")
    concurrency: int = Field(default=256, ge=1, description="Requests in progress at one replica at most.")

    @model_validator(mode="after")
    def _one_source(self) -> "Arguments":
        if (self.run is None) == (self.model is None):
            raise ValueError("expected exactly one of `run` and `model`")
        return self


class Replica:
    """One server of the cluster.

    Args:
        arguments: the model, the store and the limits.
    """

    def __init__(self, arguments: Arguments):
        options = ServerOptions(
            host="127.0.0.1",  # Ray listens
            port=0,
            store=arguments.store,
            sampled_share=arguments.sampled_share,
            keys=read_keys(None),
            limits=Limits(rate=arguments.rate, concurrency=arguments.concurrency),
        )
        if arguments.run is not None:
            model = Model.of_registry(Registry(Run.open(arguments.run)), not arguments.full_precision)
        else:
            assert arguments.model is not None
            model = Model.of_hub(arguments.model, arguments.revision, not arguments.full_precision)
        self._open = ExitStack()
        service = self._open.enter_context(serving(model, options))
        self._app = make_app(service, options.limits, options.keys)

    def __serve_build_asgi_app__(self) -> Callable[..., Any]:
        """The HTTP application; Ray calls this after the constructor."""
        return self._app

    def __del__(self) -> None:
        self._open.close()


def application(arguments: Arguments) -> serve.Application:
    """The application that `serve run` and `serve deploy` start."""
    deployment = serve.deployment(name="llmrec", max_ongoing_requests=512)(serve.ingress()(Replica))
    return deployment.bind(arguments)
