"""Fair queueing: the owner whose job is next. Pure."""

from collections.abc import Mapping
from datetime import datetime


def next_owner(waiting: Mapping[str, datetime], running: Mapping[str, int]) -> str:
    """Of the owners who wait, with the time since when, the one with the fewest running jobs; of equals the first.

    So many jobs of one owner delay another's by one of them at most. ValueError when nobody waits.
    """
    return min(waiting, key=lambda owner: (running.get(owner, 0), waiting[owner], owner))
