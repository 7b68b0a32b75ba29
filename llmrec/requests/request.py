"""A request: the words of a person, and the conditions that they state."""

from dataclasses import dataclass

LIKE = "like"  # attribute whose value is the title of another item


@dataclass(frozen=True, order=True)
class Condition:
    """One condition on an item.

    Attributes:
        attribute: `category`, `decade`, `price`, `brand`, `like`, or a relation to a person such as `director`.
        value: the value as the item table has it; the title of an item for `like`.
        negated: the item must not have the value.
    """

    attribute: str
    value: str
    negated: bool = False

    @property
    def key(self) -> str:
        """The attribute and its value as one text, such as `decade: 1980s`."""
        return f"{self.attribute}: {self.value}"

    def __str__(self) -> str:
        value = f"like {self.value}" if self.attribute == LIKE else self.value
        return f"not {value}" if self.negated else value


@dataclass(frozen=True)
class Request:
    """What a person asks for.

    Attributes:
        text: the words that the prompt shows.
        conditions: what the words mean; an item satisfies the request if all of them hold. Empty if nobody knows.
    """

    text: str
    conditions: tuple[Condition, ...] = ()
