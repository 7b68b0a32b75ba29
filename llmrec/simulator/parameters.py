"""The parameters of a world: each with its value, its origin, its interval and what it comes from."""

from dataclasses import dataclass
from typing import Any, Literal

Origin = Literal["fitted", "borrowed", "assumed"]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a world.

    Attributes:
        value: a number, or a list of numbers such as quantiles.
        origin: `fitted` on the log, `borrowed` from another source, or `assumed`.
        source: what the value comes from, in words.
        ci95: lower and upper end of its 95 % interval; None if it has none.
        n: number of events, sessions or users behind a fitted value.
        log_estimate: what the log says of an assumed parameter, if it says anything: (value, low, high).
    """

    value: float | list[float]
    origin: Origin
    source: str
    ci95: tuple[float, float] | None = None
    n: int | None = None
    log_estimate: tuple[float, float, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """The entry of `parameters.json`; keys without a value are left out."""
        values: dict[str, Any] = {"value": self.value, "origin": self.origin, "source": self.source}
        for key in ("ci95", "n", "log_estimate"):
            value = getattr(self, key)
            if value is not None:
                values[key] = list(value) if isinstance(value, tuple) else value
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Parameter":
        """Reads an entry of `parameters.json`."""
        pairs = {key: tuple(values[key]) if key in values else None for key in ("ci95", "log_estimate")}
        return cls(values["value"], values["origin"], values["source"], n=values.get("n"), **pairs)  # type: ignore[arg-type]


Parameters = dict[str, Parameter]
