"""`--depends-on`: what comes first, for groups and jobs."""

from collections.abc import Sequence

from cli.run_options import Decorator, many
from moorage.errors import InvalidSpec
from moorage.v1 import groups_pb2

_CONDITIONS = {
    "": groups_pb2.DEPENDENCY_CONDITION_UNSPECIFIED,
    "started": groups_pb2.DEPENDENCY_CONDITION_STARTED,
    "healthy": groups_pb2.DEPENDENCY_CONDITION_HEALTHY,
    "completed": groups_pb2.DEPENDENCY_CONDITION_COMPLETED,
}

DEPENDS_ON: Decorator = many(
    "--depends-on",
    metavar="GROUP[:started|healthy] | jobs/JOB",
    text="What comes first when it starts and is updated, and stops after it.",
)


def dependencies(words: Sequence[str]) -> list[groups_pb2.Dependency]:
    """From words such as `db`, `db:started` and `jobs/migrate`.

    Raises:
        InvalidSpec: not of this form.
    """
    found = []
    for word in words:
        target, _, condition = word.partition(":")
        if not target or condition not in _CONDITIONS:
            raise InvalidSpec.of("depends-on", f"{word!r}: write db, db:started, db:healthy or jobs/migrate")
        found.append(groups_pb2.Dependency(target=target, condition=_CONDITIONS[condition]))
    return found
