"""What the Protocols of vendors' APIs name, and what of it a thing lacks."""

import inspect
from typing import Protocol


class Empty(Protocol):
    nothing: int


def protocols(module):
    return {
        each
        for each in vars(module).values()
        if getattr(each, "_is_protocol", False) and each.__module__ == module.__name__
    }


def members(protocol):
    return (set(vars(protocol)) | set(protocol.__annotations__)) - set(vars(Empty))


def functions(protocol):
    return {name for name in members(protocol) if inspect.isfunction(vars(protocol).get(name))}


def absent(things):
    """ "Protocol.member" of each that the thing behind a Protocol lacks."""
    return {
        f"{protocol.__name__}.{name}"
        for protocol, thing in things.items()
        for name in members(protocol)
        if not hasattr(thing, name)
    }


def misfits(protocol, thing):
    """The functions of a thing that don't take what the Protocol says."""
    found = set()
    for name in functions(protocol):
        _, *given = inspect.signature(vars(protocol)[name]).parameters.values()
        by_name = {each.name: each for each in given if each.kind is each.KEYWORD_ONLY}
        try:
            inspect.signature(getattr(thing, name)).bind(*given[: len(given) - len(by_name)], **by_name)
        except TypeError:
            found.add(f"{protocol.__name__}.{name}")
    return found
