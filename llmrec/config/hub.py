"""Section `hub`."""

from typing import Literal

from pydantic import Field

from llmrec.config.section import Section

INCLUDABLE = ("reward", "report")  # what a push brings on request


class HubConfig(Section):
    """Where the run is pushed when it has ended; no stage depends on it."""

    repo: str = Field(description="OWNER/NAME; made if there is none")
    private: bool = Field(False, description="make a new repository private, refuse a public one")
    revision: str | None = Field(None, description="branch, made if there is none; null: the main one")
    include: list[Literal["reward", "report"]] = Field([], description="the reward models, the report as a page")
    titles: bool = Field(True, description="false: items go by their ids; not with `catalogue.scheme: title`")
