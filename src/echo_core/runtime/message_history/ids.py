"""Ids as people give them: whole, without their dashes, or only their beginning."""


def is_hex(text: str) -> bool:
    """Whether it may be a part of an id of hexadecimal digits."""
    return bool(text) and not set(text.lower()) - set("0123456789abcdef-")


def dashed(text: str) -> str:
    """The beginning of an id as ids are written, with its dashes."""
    bare = text.replace("-", "")
    if not is_hex(text) or len(bare) > 32:
        return text
    parts = (bare[:8], bare[8:12], bare[12:16], bare[16:20], bare[20:])
    return "-".join(part for part in parts if part)


def times(text: str) -> tuple[int, int] | None:
    """When a message whose id begins so was made, at the earliest and the latest; None: no UUIDv7."""
    bare = text.replace("-", "").lower()
    if not is_hex(bare) or len(bare) > 32 or (len(bare) > 12 and bare[12] != "7"):
        return None
    head = bare[:12]
    first, last = int(head.ljust(12, "0"), 16), int(head.ljust(12, "f"), 16)
    return first * 1_000_000, (last + 1) * 1_000_000
