"""Text from a file as it may be shown: its names are anyone's."""

__all__ = ["printable"]


def printable(text: str) -> str:
    """Return a text without what commands a terminal."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
