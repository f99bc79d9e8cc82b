"""Pretrains the frozen parts of the tiny recipe: vision encoder, Q-Former and a small Phi, on the embedded corpus.

They play the parts that EVA-CLIP, BLIP-2's Q-Former and Phi-2 play in the real recipe. The result ships as package data
(`tinygptv/backbones/shapes/`), so this is run once, for about an hour on two cores; `provenance.json` says how.
"""

from tinygptv.shapes.bootstrap.phases import PHASES, run

__all__ = ["PHASES", "run"]
