"""A check of the order of calls: a method that needs a result of an earlier one says in its error which one to call."""


def require(part: object, attribute: str, method: str, earlier: str) -> None:
    """Raise RuntimeError unless `part` has the attribute that the earlier method sets."""
    if not hasattr(part, attribute):
        raise RuntimeError(f"{method} of {type(part).__name__} was called before {earlier}, expected {earlier} first")
