"""The data card: what is in a filtered version, where it comes from, and what was left out, for people and machines."""

from tinygptv.data.versions.card.writing import CARD_JSON, CARD_PAGE, card

__all__ = ["CARD_JSON", "CARD_PAGE", "card"]
