"""Messages that no attempt could finish, kept on disk with everything that is known of them.

`letter` is one of them, `selection` says which are meant, `store` keeps them and `jobs` their replays in the
file of `database`; `desk` is what command line and control API ask.
"""

from echo_core.runtime.dead_letters.database import FILE_NAME, DeadLetterError
from echo_core.runtime.dead_letters.jobs import ReplayJob, ReplayJobs, ReplayWish
from echo_core.runtime.dead_letters.letter import MOST_REPLAYS, Attempt, DeadLetter, replays_of
from echo_core.runtime.dead_letters.selection import Selection
from echo_core.runtime.dead_letters.store import DeadLetterStore, Depth, Kind

__all__ = [
    "FILE_NAME",
    "MOST_REPLAYS",
    "Attempt",
    "DeadLetter",
    "DeadLetterError",
    "DeadLetterStore",
    "Depth",
    "Kind",
    "ReplayJob",
    "ReplayJobs",
    "ReplayWish",
    "Selection",
    "replays_of",
]
