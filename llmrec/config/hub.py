"""Config section `hub`: where a finished run is pushed."""

import re
from typing import Literal

from pydantic import Field, field_validator

from llmrec.config.section import Section

INCLUDABLE = ("reward", "report")  # what a push uploads on request


class HubConfig(Section):
    """Where the run is pushed when it has finished. No stage depends on this section."""

    repo: str = Field(description="Repository as OWNER/NAME. A repository that does not exist is created.")
    private: bool = Field(
        default=False, description="Whether a new repository is private. true: a repository that is public is refused."
    )
    revision: str | None = Field(
        default=None, description="Branch to push to. A branch that does not exist is created. null: the main branch."
    )
    include: list[Literal["reward", "report"]] = Field(
        default=[], description="Further uploads: `reward` for the reward models, `report` for the HTML report."
    )
    titles: bool = Field(
        default=True,
        description="Whether item titles are uploaded. false: ids replace titles. `catalogue.scheme: title` requires "
        "true.",
    )

    @field_validator("repo")
    @classmethod
    def _names_a_repository(cls, repo: str) -> str:
        from huggingface_hub.utils import HFValidationError, validate_repo_id  # a config without `hub` need not wait

        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise ValueError(f"expected a repository name, OWNER/NAME. {error}") from None
        return repo

    @field_validator("revision")
    @classmethod
    def _names_a_branch(cls, revision: str | None) -> str | None:
        if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
            raise ValueError("expected the name of a branch, found the hash of a commit. A push makes a new commit.")
        return revision
