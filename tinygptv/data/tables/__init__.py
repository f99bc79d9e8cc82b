"""Tables of URL+caption pairs, in any published layout → rows."""
