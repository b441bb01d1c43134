"""Web search: the tool loop as an upstream wrapping another; one file per engine."""
