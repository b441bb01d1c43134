"""Structs that may hold content show sizes, never text: zero retention starts at ``repr``.

Whatever carries a prompt, an answer, a tool schema or a picture derives from
:class:`Sealed`. Its ``repr`` (hence ``str``, ``%r``, a traceback's locals, a debugger's
dump through ``repr``) tells how large the parts are and nothing of what they say.
"""

import msgspec


def size_of(value: object) -> str:
    """Describe ``value`` by kind and size only; numbers and flags stand as they are."""
    match value:
        case None | bool() | int() | float() | Sealed():
            return repr(value)
        case str():
            return f"<{len(value)} chars>"
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case list() | tuple() | dict() | set() | frozenset():
            return f"<{len(value)} items>"
        case _:
            return f"<{type(value).__name__}>"


class Sealed(msgspec.Struct, frozen=True):
    """A frozen struct whose ``repr`` gives sizes. Subclass it for anything with content."""

    def __repr__(self) -> str:
        fields = (f"{name}={size_of(getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(fields)})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [(name, size_of(getattr(self, name))) for name in self.__struct_fields__]
