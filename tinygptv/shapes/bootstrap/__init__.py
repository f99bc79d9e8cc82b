"""Pretrains the frozen parts of the tiny recipe on the embedded corpus: vision encoder, Q-Former and a small Phi.

They correspond to EVA-CLIP, BLIP-2's Q-Former and Phi-2 in the real recipe. The result ships as package data
(`tinygptv/backbones/shapes/`), so this runs only once, for about an hour on two cores; see `provenance.json`.
"""

from tinygptv.shapes.bootstrap.phases import PHASES, run

__all__ = ["PHASES", "run"]
