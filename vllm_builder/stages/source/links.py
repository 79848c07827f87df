"""Whether a symbolic link stays inside its tree, decided by names alone."""

from __future__ import annotations

from collections.abc import Callable


def link_problem(
    parts: tuple[str, ...], target: str, is_link: Callable[[tuple[str, ...]], bool], *, depth: int = 0
) -> str:
    """Why the link at ``parts`` must not be made, or an empty string.

    A link must point to a place inside, on a way that goes through no other link. The second rule makes the
    first one decidable: ``..`` behind a link would go up from wherever that link leads.

    Args:
        parts: where the link is, in components.
        is_link: whether there is a link at a place.
        depth: how many leading components are above the root of the tree.
    """
    if not target or target.startswith("/") or "\\" in target or not target.isprintable():
        return f"is a link to {target!r}"
    here = list(parts[:-1])
    steps = [step for step in target.split("/") if step not in {"", "."}]
    for number, step in enumerate(steps):
        if step == "..":
            if len(here) <= depth:
                return f"is a link that leaves the tree ({target!r})"
            here.pop()
        else:
            here.append(step)
            if number < len(steps) - 1 and is_link(tuple(here)):
                return f"is a link through another link ({target!r})"
    return ""
