"""Fair queueing: which owner's job runs next. Pure."""

from collections.abc import Mapping
from datetime import datetime


def next_owner(waiting: Mapping[str, datetime], running: Mapping[str, int]) -> str:
    """Return the waiting owner with the fewest running jobs; ties go to the one who has waited longest.

    Thus many jobs of one owner delay a job of another owner by one run at most. `waiting` maps owners to the time
    since when they wait. Raises ValueError if it is empty.
    """
    return min(waiting, key=lambda owner: (running.get(owner, 0), waiting[owner], owner))
