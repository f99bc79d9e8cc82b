"""One affine map, which a checkpoint of the published code calls `llama_proj` or `llama_proj2`."""

from torch import nn

from tinygptv.definitions.connector_parts import linear
from tinygptv.errors import HandoffError
from tinygptv.models.kinds import ConnectorPartKind
from tinygptv.models.stored import Table
from tinygptv.models.translation import COMPUTED, Rules, Translation, drop_unused, rename

REFERENCE_PROJECTIONS = ("llama_proj", "llama_proj2")
"""The published code's names for the projections of the connector, in order."""
_KNOWN = {4096: " (MiniGPT-4 for the 7B decoder)", 5120: " (MiniGPT-4 for the 13B decoder)"}


class LinearKind(ConnectorPartKind[linear.Linear]):
    """A projection, read from MiniGPT-4's file or begun at random."""

    def build(self, width: int) -> nn.Linear:
        """(I, N, width) -> (I, N, its width)."""
        return nn.Linear(width, self.definition.width)

    def read(self, table: Table) -> Translation:
        """A projection of MiniGPT-4's. Raises HandoffError if it was made for another decoder's width."""
        kept, left_out = drop_unused(table, [COMPUTED])
        weight, wanted = kept.get("llama_proj.weight"), self.definition.width
        if weight is not None and weight.shape[0] != wanted:
            raise HandoffError(
                f"{self.definition.weights}: a projection to width {weight.shape[0]}"
                f"{_KNOWN.get(weight.shape[0], '')}, but the recipe's {self.prefix.removesuffix('.')} is {wanted} wide"
                f"{_KNOWN.get(wanted, '')}; use the file made for that width, pretrained_minigpt4_7b.pth for 4096, or "
                "change `width`"
            )
        return Translation("a projection of MiniGPT-4", rename(kept, [(r"^llama_proj\.", self.prefix)]), left_out)

    def from_reference(self, projections: int) -> Rules:
        """The first and the second projection have a name there."""
        return [(rf"^{name}\.", self.prefix) for name in REFERENCE_PROJECTIONS[projections : projections + 1]]

    def to_reference(self, name: str, projections: int) -> str | None:
        """The first and the second projection have a name there."""
        return next((f"{old}.{name}" for old in REFERENCE_PROJECTIONS[projections : projections + 1]), None)
