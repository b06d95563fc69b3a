"""A text that is not shown."""

_SHOWN = "********"


class SecretStr:
    """A secret, which neither `str` nor `repr` shows. Equal texts are equal; an empty one is false."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def get_secret_value(self) -> str:
        """Returns the text."""
        return self._text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_SHOWN!r})"

    def __str__(self) -> str:
        return _SHOWN

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretStr) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)
