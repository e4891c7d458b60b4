"""The tables of run.toml about models: their endpoints ([models.ROLE]), and how judge and writer model work.

The tables [TABLE.judge] and [TABLE.writer] are parts of the tables [search], [reward] and [examples].
"""

from dataclasses import dataclass, field
from typing import Final

from optimizer.core.budget import Prices
from optimizer.core.request_form import RequestForm

ANCHORED, IMPARTIAL, CRITIC = "anchored", "impartial", "critic"
MANNERS: Final = (ANCHORED, IMPARTIAL, CRITIC)
EXPECTED, INTEGER = "expected", "integer"
SCORES: Final = (EXPECTED, INTEGER)
SHORT, PUBLISHED_RULES = "short", "published"
INSTRUCTIONS: Final = (SHORT, PUBLISHED_RULES)
MAX_ATTEMPTS: Final = 3
"""How often a request is sent, at most, if its reply cannot be read."""


@dataclass(frozen=True, slots=True)
class ModelTable:
    """[models.ROLE]: a model and its endpoint.

    Attributes:
        base_url: The base URL of the server, such as `http://localhost:8000/v1`.
        model: The name of the model in requests to the endpoint.
        kind: `chat` for a chat model, `completion` for a base model.
        api_key_env: The environment variable that holds the endpoint's API key. None if the endpoint needs no key.
        concurrency: The maximum number of requests to this model at the same time.
        timeout: The maximum time in seconds from sending a request to its complete reply. A slower attempt fails.
        price_prompt: The price of a million prompt tokens, in the currency of [budget] money.
        price_completion: The price of a million completion tokens, in the currency of [budget] money.
        request: The table [models.ROLE.request]: the form of the requests that the server accepts.
    """

    base_url: str
    model: str
    kind: str = "chat"
    api_key_env: str | None = None
    concurrency: int = 8
    timeout: float = 300.0
    price_prompt: float = 0.0
    price_completion: float = 0.0
    request: RequestForm = field(default_factory=RequestForm)

    @property
    def prices(self) -> Prices:
        """The prices of the model's tokens."""
        return Prices(self.price_prompt, self.price_completion)


@dataclass(frozen=True, slots=True)
class JudgeTable:
    """[reward.judge] and [examples.judge]: how the judge chooses criteria and scores answers.

    Attributes:
        manner: How the judge is told to score an answer by a criterion, from 1 to 5. `anchored`: by descriptions of the
            answers that deserve 1, 3 and 5. `impartial`: by how far it agrees that the answer does well. `critic`: on
            the scale of `impartial`, but it deducts points for each mistake, and says what to improve.
        criteria: The names of the criteria that the judge chooses from. If empty, all of templates/criteria.toml.
        fewest: The smallest number of criteria for a query.
        most: The largest number of criteria for a query.
        new_criteria: Whether the judge may define criteria of its own for a query.
        analysis: Whether the judge answers five questions about a query before it chooses criteria for it.
        reasons: Whether the judge sees why a criterion was chosen when it scores an answer.
        scores: `expected`: the mean of the possible scores, weighted by their probabilities, if the server returns
            log-probabilities. `integer`: the score that the judge wrote.
        attempts: The maximum number of requests for one verdict if the replies cannot be read. A verdict that was cut
            off is requested again in any case.
    """

    manner: str = ANCHORED
    criteria: tuple[str, ...] = ()
    fewest: int = 2
    most: int = 5
    new_criteria: bool = True
    analysis: bool = False
    reasons: bool = False
    scores: str = EXPECTED
    attempts: int = MAX_ATTEMPTS


@dataclass(frozen=True, slots=True)
class WriterTable:
    """[search.writer] and [examples.writer]: how the writer model rewrites prompts and answers.

    Attributes:
        instructions: What the writer model is told. `short`: a few sentences. `published`: the rules of DRPO's authors,
            in other words.
        temperature: The sampling temperature.
        top_p: The sampling parameter `top_p`. If 0, it is not sent.
    """

    instructions: str = SHORT
    temperature: float = 0.7
    top_p: float = 0.0
