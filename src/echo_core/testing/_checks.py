"""What the contract checks share: how one says that a promise was broken."""


class ContractBroken(AssertionError):
    """A promise of the contract does not hold; the text says which, and what was seen instead."""


def require(condition: object, promise: str) -> None:
    """Raise `ContractBroken` with `promise` unless `condition` holds."""
    if not condition:
        raise ContractBroken(promise)
