"""`tinypeft practice`: questions that are drawn anew each time, asked in the terminal."""

from __future__ import annotations

from tinypeft.claims.ask import Session, converse
from tinypeft.claims.practice import LEVELS, TOPICS, Kind, check_numbers, find_kinds, new_seed, series
from tinypeft.commands import program


def run_practice(*, topic: str | None, seed: int | None, count: int, kinds: str | None, tries: int, list_only: bool
                 ) -> Session | None:
    """Ask on standard output, take answers from standard input.

    Args:
        topic: only questions of this topic; None for all.
        seed: equal seeds give equal questions; None draws one, and prints it.
        count: how many are asked.
        kinds: names with commas between; None for all of the topic.
        tries: wrong answers that a question may have before its solution is shown.
        list_only: print the kinds instead.

    Returns:
        The session, when it is over; None for a list.

    Raises:
        ValueError: an unknown topic or kind, or a number that cannot be.
    """
    names = [name for name in (kinds or "").replace(" ", "").split(",") if name]
    found = find_kinds(topic, names)
    if list_only:
        print_kinds(found)
        return None
    check_numbers(seed, count, tries)
    seed = new_seed() if seed is None else seed
    options = [*([topic] if topic else []), *(["--kind", ",".join(names)] if names else []), "--seed", str(seed),
               "--count", str(count)]
    print(f"Seed {seed}. The same questions again: {program('tinypeft')} practice {' '.join(options)}")
    session = Session(series(found, seed, count), tries=tries, total=count)
    converse(session)
    return session


def print_kinds(kinds: list[Kind]) -> None:
    """What can be practised, by topic."""
    width = max(len(kind.name) for kind in kinds)
    for topic in dict.fromkeys(kind.topic for kind in kinds):
        print(f"{topic}: {TOPICS[topic]}")
        for kind in (kind for kind in kinds if kind.topic == topic):
            print(f"    {kind.name:<{width}}  {kind.title} ({LEVELS[kind.level]})")
    print(f"\n{len(kinds)} kinds of questions. {program('tinypeft')} practice TOPIC asks those of a topic, --kind NAME those "
          "of one kind.")
