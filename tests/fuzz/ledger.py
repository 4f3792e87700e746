"""The ledger: what each conversation was told, held against the rows of the parts.

Every 201 is one row, and every row had a 201. A row tells its conversation by the name in it; rows whose names a
mutation destroyed are nameless, and there are exactly as many of them as the 201s that no named row answers for. Only
where a connection was reset may there be rows whose 201 nobody saw.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.fuzz.bodies import conversation_of
from tests.fuzz.conversations import Conversation
from tests.fuzz.drive import Heard
from tests.fuzz.strict import Answer, Malformed, read


@dataclass(slots=True)
class Ledger:
    """Of one collector and one lap."""

    statuses: Counter[int] = field(default_factory=Counter)
    stored: Counter[int] = field(default_factory=Counter)  # 201s, by conversation
    stored_names: set[str] = field(default_factory=set)  # requests that must be rows, once
    other_names: set[str] = field(default_factory=set)  # requests that must be none
    cut: set[int] = field(default_factory=set)  # conversations some of whose answers may be lost
    cut_wild: int = 0  # requests of wild ones among them

    def enter(self, conversation: Conversation, heard: Heard) -> None:
        """Read what came back, and hold it against what is known. Raises Malformed."""
        sent = conversation.sent
        answers = read(heard.data, cut=heard.cut, heads=b"HEAD" in sent, interim=b"expect" in sent.lower())
        for answer in answers:
            self.statuses[answer.status] += 1
            if b"fz-" in answer.shown:
                raise Malformed(f"an answer echoes what was sent: {answer.shown!r}")
        self.stored[conversation.number] = sum(answer.status == 201 for answer in answers)
        if heard.cut:
            self.cut.add(conversation.number)
            self.cut_wild += len(conversation.requests) if conversation.is_wild else 0
        self._compare(conversation, answers, heard.cut)

    def _compare(self, conversation: Conversation, answers: list[Answer], cut: bool) -> None:
        intact = conversation.requests[: conversation.intact]
        expected = len(intact)
        if conversation.is_wild and answers and answers[-1].status in (400, 431):
            # What comes in one read with what is no HTTP may share its answer.
            answers, expected = answers[:-1], 0
        if b"upgrade" in conversation.sent.lower():  # behind one that is declined nothing is read
            expected = min(expected, len(answers))
        if (len(answers) < expected and not cut) or (len(answers) > expected and not conversation.is_wild):
            raise Malformed(f"{len(answers)} answers to {expected} whole requests")
        for request, answer in zip(intact, answers, strict=False):
            if request.status not in (None, answer.status, 503):
                raise Malformed(f"{answer.status} instead of {request.status} to {request.data!r}")
            (self.stored_names if answer.status == 201 else self.other_names).add(request.name)

    def verdict(self, rows: Iterable[tuple[str | None, ...]]) -> None:
        """Hold the new rows, each the texts that a name may stand in, against what was said. Raises AssertionError."""
        found: Counter[int] = Counter()
        names: Counter[str] = Counter()
        nameless = 0
        for row in rows:
            known = conversation_of(row)
            if known is None:
                nameless += 1
            else:
                found[known[0]] += 1
                names[known[1]] += 1
        lost = {name for name in self.stored_names if not names[name]}
        assert len(lost) <= nameless, f"rows are missing: {sorted(lost)[:5]}"
        assert not [name for name in self.stored_names if names[name] > 1], "rows are there twice"
        assert not self.other_names & names.keys(), "rows are there whose events were refused"
        assert found.keys() <= self.stored.keys(), "rows are there that nobody sent"
        whole = self.stored.keys() - self.cut
        more = [number for number in whole if found[number] > self.stored[number]]
        assert not more, f"rows without a 201, of conversations {more[:5]}"
        missing = sum(self.stored[number] - found[number] for number in whole)
        assert missing <= nameless <= missing + self.cut_wild, f"{missing} rows are missing, {nameless} are nameless"
