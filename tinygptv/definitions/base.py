"""The one base class of every definition, and the kinds of location a definition may name."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

LOCATION_PREFIXES = ("embedded:", "data:", "s3://", "https://", "http://", "/", "./", "../")


class Definition(BaseModel):
    """A frozen, closed record: an unknown key or a wrong type is an error, never a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _check_location(location: str) -> str:
    if not location.startswith(LOCATION_PREFIXES):
        raise ValueError(
            f"'{location}' is not a location; begin it with one of {', '.join(LOCATION_PREFIXES)} "
            "(embedded: = drawn or shipped by this package, data: = below the folder in TINYGPTV_DATA)"
        )
    return location


Location = Annotated[str, AfterValidator(_check_location)]
"""Where bytes are: `embedded:…` (drawn or shipped by this package), `data:…` (below $TINYGPTV_DATA), a path or URL."""
