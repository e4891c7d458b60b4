"""The form of the requests to one model: which fields its server accepts, and how a judge has to reply.

run.toml can set the form in the table [models.ROLE.request]. What run.toml does not set is found out at the first
requests of a run, because servers differ. This module does not depend on how a request is built or sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Self

MAX_TOKENS_FIELDS: Final = ("max_tokens", "max_completion_tokens")
SYSTEM_ROLES: Final = ("system", "developer", "user")
JSON_SCHEMA, JSON_OBJECT, JSON, LETTER, TEXT = "json_schema", "json_object", "json", "letter", "text"
REPLY_FORMATS: Final = (JSON_SCHEMA, JSON_OBJECT, JSON, LETTER, TEXT)
"""The formats of a judge's reply, the best one first."""


@dataclass(frozen=True, slots=True)
class RequestForm:
    """[models.ROLE.request]: how requests to a model differ from the usual form. All keys are optional.

    Attributes:
        max_tokens_field: The name of the field with the maximum number of tokens of a reply: `max_tokens` or
            `max_completion_tokens`. Add `max_tokens` to `omit` for a server that accepts neither.
        max_tokens: The maximum number of tokens of a reply of the judge or the writer model. If 0, it depends on the
            request: 1024 or 2048. Models that reason before they answer need more.
        omit: The fields that are left out, such as `temperature` or `seed`.
        extra: Additional fields of the body. They replace fields with the same names.
        max_choices: The maximum value of the field `n`. If a request needs more choices, it is sent several times. If
            0, there is no maximum.
        max_stop_strings: The maximum number of stop strings in a request. The optimizer itself cuts the answer at stop
            strings that are not sent. If -1, there is no maximum.
        max_top_logprobs: The maximum value of the field `top_logprobs`. If 0, no log-probabilities are requested.
        system_role: The role of the message with the system prompt: `system` or `developer`. If `user`, the system
            prompt is put before the first user message, for models without a system role.
        reply_format: The format in which a judge has to reply: `json_schema`, `json_object`, `json` (asked for in the
            prompt alone), `letter` (one letter or digit, with log-probabilities) or `text` (plain sentences). If empty,
            the first of these formats is used that the server accepts and whose replies can be read.
    """

    max_tokens_field: str = MAX_TOKENS_FIELDS[0]
    max_tokens: int = 0
    omit: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    max_choices: int = 0
    max_stop_strings: int = -1
    max_top_logprobs: int = 20
    system_role: str = SYSTEM_ROLES[0]
    reply_format: str = ""

    @property
    def differences(self) -> Mapping[str, Any]:
        """The keys whose values differ from the defaults, with their values as in JSON."""
        default = type(self)()
        changed = {key.name: getattr(self, key.name) for key in fields(self)}
        changed = {name: value for name, value in changed.items() if value != getattr(default, name)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}

    @classmethod
    def from_differences(cls, differences: Mapping[str, Any]) -> Self:
        """Return the form with these differences from the defaults, as they were read from a journal."""
        omit = tuple(differences.get("omit", ()))
        return cls(**{**differences, "omit": omit})

    def without(self, name: str) -> Self:
        """Return this form with one more field to omit."""
        return replace(self, omit=tuple(dict.fromkeys((*self.omit, name))))
