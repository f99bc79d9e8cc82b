"""Every kind of answer."""

from tests.fuzz.answers import codings, endings, fields, framing, interim, redirects, statuses, wishes
from tests.fuzz.messages import Production

PRODUCTIONS: tuple[Production, ...] = (
    *interim.productions(),
    *framing.productions(),
    *statuses.productions(),
    *endings.productions(),
    *fields.productions(),
    *codings.productions(),
    *redirects.productions(),
    *wishes.productions(),
)
"""Their order is that of their numbers in a run."""
