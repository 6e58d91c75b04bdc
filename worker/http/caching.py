"""Entity tags of answers.

A tag is made of the whole answer but its ``asOf``. The account's sequence alone would lie: holds, free quotas
and a change of the tier don't raise it, time brings credit and takes it, and a new catalog changes prices and
limits. All of that is in the answer. So a tag saves the transfer, and not the reading.

Tags are weak: two answers that differ in ``asOf`` alone say the same, in other bytes.
"""

import hashlib

from schemas.answers import BaseAnswer

_DIGITS = 22


def entity_tag(answer: BaseAnswer) -> str:
    """Return the tag, without its quotes and without the mark of a weak one."""
    content = answer.model_dump_json(exclude_none=True, exclude={"as_of"})
    return hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]
