"""What a user can get wrong about data, said in one line."""

from collections.abc import Iterable


class DataError(ValueError):
    """A mistake in data or its options; the message names the file or option, what was found and the fix."""


def is_unicode(text: str) -> bool:
    """False for text with half a character in it, as file names that are not UTF-8 and careless JSON have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shorten(names: Iterable[object], limit: int = 5) -> str:
    """The first `limit` names separated by commas, then how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
