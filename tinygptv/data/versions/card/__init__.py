"""The data card of a filtered version: what it contains, where it comes from, and what was dropped and why."""

from tinygptv.data.versions.card.writing import CARD_JSON, CARD_PAGE, card

__all__ = ["CARD_JSON", "CARD_PAGE", "card"]
