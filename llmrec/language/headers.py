"""Headers: the chat template up to the start of the assistant's turn, with the user's profile inside.

The template is rendered once, without a profile. The profile is encoded apart and put in its place, so that nothing in
it becomes part of the template: no end of a turn, no item, and no condition of the template.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, cast

from jinja2 import TemplateError

from llmrec.catalogue.plain_text import PlainText
from llmrec.errors import ModelError

# Templates that name the date of the day would otherwise give every day another prompt. It is the default of Llama 3.
FIXED_DATE = datetime(2024, 7, 26)
# transformers offers templates the function `strftime_now`. A macro of that name replaces it.
_FILTERS = "".join(f" | replace('%{code}', '{FIXED_DATE.strftime('%' + code)}')" for code in "aAbBdHIjmMpSyY")
_FIXED_CLOCK = f"{{%- macro strftime_now(form) %}}{{{{ form{_FILTERS} }}}}{{% endmacro %}}"
_PLACEHOLDER = "profile-of-the-user"


@dataclass(frozen=True)
class HeaderFrame:
    """Token ids around the profile in a header. They are saved with an adapter.

    Attributes:
        before: token ids before the profile.
        after: token ids between the profile and the history.
        spaced: the profile is encoded with a space before it.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    spaced: bool

    def as_json(self) -> dict[str, Any]:
        """The frame as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "HeaderFrame":
        """The frame that `as_json` gave."""
        return cls(tuple(map(int, values["before"])), tuple(map(int, values["after"])), bool(values["spaced"]))

    @classmethod
    def render(cls, text: PlainText, system_prompt: str) -> "HeaderFrame":
        """Renders the chat template of a tokenizer.

        A template without a system turn gets the system prompt at the start of the user's turn. A template that names
        the date gets `FIXED_DATE`. A tokenizer without a template gets the plain form: system prompt and profile, each
        on a line of its own.

        Args:
            text: holds the tokenizer.
            system_prompt: the system turn.

        Raises:
            ModelError: the template refuses a single user turn, or does not show its content once.
        """
        placeholder = _PLACEHOLDER
        while placeholder in system_prompt:
            placeholder += "-"
        has_template = text.tokenizer.chat_template is not None
        rendered = _chat(text, system_prompt, placeholder) if has_template else f"{system_prompt}\n{placeholder}\n"
        if rendered.count(placeholder) != 1:
            raise ModelError(
                f"The chat template of {text.name} shows the user's message {rendered.count(placeholder)} times; "
                "expected once. Choose another `model.base`, or correct its chat template."
            )
        before, after = rendered.split(placeholder)
        spaced = before.endswith(" ")  # Words are encoded together with the space before them.
        start = [] if has_template else _first_token(text)
        return cls(
            before=(*start, *text.encode_markup(before.removesuffix(" "), continues=False)),
            after=tuple(text.encode_markup(after, continues=True)),
            spaced=spaced,
        )


def _chat(text: PlainText, system_prompt: str, profile: str) -> str:
    """The rendered chat template, with a system turn if it has one."""
    system = {"role": "system", "content": system_prompt}
    try:
        rendered = _rendered(text, [system, {"role": "user", "content": profile}])
        if system_prompt.strip() in rendered:
            return rendered
    except (TemplateError, TypeError, ValueError):
        pass  # Gemma's and Mistral's first templates raise an exception of their own
    try:
        return _rendered(text, [{"role": "user", "content": f"{system_prompt}\n\n{profile}"}])
    except (TemplateError, TypeError, ValueError) as error:
        raise ModelError(
            f"The chat template of {text.name} refuses a conversation that starts with the user's turn: {error}. "
            "Choose another `model.base`, or correct its chat template."
        ) from None


def _rendered(text: PlainText, messages: Sequence[dict[str, str]]) -> str:
    rendered = text.tokenizer.apply_chat_template(
        list(messages),
        add_generation_prompt=True,
        tokenize=False,
        chat_template=_FIXED_CLOCK + text.tokenizer.get_chat_template(),
        date_string=FIXED_DATE.strftime("%d %b %Y"),
    )
    return cast(str, rendered)


def _first_token(text: PlainText) -> list[int]:
    """The token that the tokenizer itself puts before a text, which chat templates write instead."""
    first = text.tokenizer.bos_token_id
    starts = cast(list[int], text.tokenizer(".")["input_ids"])
    return [cast(int, first)] if first is not None and starts[0] == first else []


class ChatHeaders:
    """The token ids of each profile's header.

    Args:
        text: encodes profiles.
        system_prompt: the system turn.
        frame: the tokens around the profile; None renders the chat template.

    Attributes:
        frame: the tokens around the profile.

    Raises:
        ModelError: see `HeaderFrame.render`.
    """

    def __init__(self, text: PlainText, system_prompt: str, frame: HeaderFrame | None = None):
        self.text = text
        self.frame = frame or HeaderFrame.render(text, system_prompt)
        self._rendered: dict[str, list[int]] = {}

    def __call__(self, profile: str, request: str = "") -> list[int]:
        """Token ids before the assistant's turn.

        Args:
            profile: what the prompt says of the user.
            request: the words of the user, which stand on a line below the profile; "" for no request.
        """
        if request:  # not kept: people write without end
            return self._render(f"{profile}\n{request}")
        if profile not in self._rendered:
            self._rendered[profile] = self._render(profile)
        return self._rendered[profile]

    def _render(self, said: str) -> list[int]:
        words = self.text.encode(f" {said}" if self.frame.spaced else said)
        return [*self.frame.before, *words, *self.frame.after]
