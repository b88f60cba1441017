"""The order of calls: what a method needs of an earlier one is there, or the error says which one to call."""


def require(part: object, attribute: str, method: str, earlier: str) -> None:
    """Raise RuntimeError unless `part` has the attribute, which the earlier method sets."""
    if not hasattr(part, attribute):
        raise RuntimeError(f"{method} of {type(part).__name__} was called before {earlier}, expected {earlier} first")
