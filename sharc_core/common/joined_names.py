"""Names of the classes of several data sets that are joined to one: `<part>/<class>`."""


def joined_name(part: str, own: str) -> str:
    """Return the name of a class of a part, such as `digits/0`."""
    return f"{part}/{own}"


def split_name(name: str) -> tuple[str, str]:
    """Return part and own name of a joined class. The part of any other name is empty."""
    part, slash, own = name.partition("/")
    return (part, own) if slash else ("", name)
