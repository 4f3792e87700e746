"""The ledger: compares the responses of each conversation with the rows in the parts.

Every 201 is one row, or as many as the answer to a batch says, and every row had one. A row is matched to its
conversation by the name in it. A mutation may destroy the name; there must be exactly as many such nameless rows as
stored events without a named row. Only a connection that was reset may have rows whose answer was never received. A
batch with the Idempotency-Key of another one adds no row; a mutation may make one of any batch with a key.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.fuzz.bodies import conversation_of
from tests.fuzz.conversations import Conversation, Request
from tests.fuzz.drive import Received
from tests.fuzz.strict import Answer, Malformed, read


@dataclass(slots=True)
class Ledger:
    """The ledger of one collector and one lap."""

    statuses: Counter[int] = field(default_factory=Counter)
    stored: Counter[int] = field(default_factory=Counter)  # events, by conversation
    stored_names: set[str] = field(default_factory=set)  # events that must each be one row
    other_names: set[str] = field(default_factory=set)  # events that must not be rows
    cut: set[int] = field(default_factory=set)  # conversations that may have lost responses
    cut_wild: int = 0  # number of events in those of them that are wild
    perhaps_repeated: int = 0  # events of answers that a mutation may have repeated

    def enter(self, conversation: Conversation, received: Received) -> None:
        """Parse the responses and compare them with the expected ones. Raises Malformed."""
        sent = conversation.sent
        answers = read(received.data, cut=received.cut, heads=b"HEAD" in sent, interim=b"expect" in sent.lower())
        for answer in answers:
            self.statuses[answer.status] += 1
            if b"fz-" in answer.shown:
                raise Malformed(f"a response echoes what was sent: {answer.shown!r}")
        stored = sum(answer.stored for answer in answers)
        self.stored[conversation.number] += stored
        if received.cut:
            self.cut.add(conversation.number)
            self.cut_wild += sum(len(each.names) for each in conversation.requests) if conversation.is_wild else 0
        elif conversation.is_wild and b"idempotency" in sent.lower():
            self.perhaps_repeated += stored
        self._compare(conversation, answers, received.cut)

    def _compare(self, conversation: Conversation, answers: list[Answer], cut: bool) -> None:
        intact = conversation.requests[: conversation.intact]
        expected = len(intact)
        if conversation.is_wild and answers and answers[-1].status in (400, 431):
            # Requests read together with bytes that are not HTTP may share their 400 or 431.
            answers, expected = answers[:-1], 0
        if b"upgrade" in conversation.sent.lower():  # nothing is read after a declined upgrade
            expected = min(expected, len(answers))
        if (len(answers) < expected and not cut) or (len(answers) > expected and not conversation.is_wild):
            raise Malformed(f"{len(answers)} responses to {expected} intact requests")
        for request, answer in zip(intact, answers, strict=False):
            if request.status not in (None, answer.status, 503):
                raise Malformed(f"{answer.status} instead of {request.status} for {request.data!r}")
            if request.repeats:
                self.stored[conversation.number] -= answer.stored
            self._enter_names(request, answer)

    def _enter_names(self, request: Request, answer: Answer) -> None:
        """Enter which events of an intact request must be rows, and which must not, as far as it is known."""
        if request.stored is not None and answer.status != 503 and answer.stored != len(request.stored):
            raise Malformed(f"{answer.stored} stored instead of {request.stored} for {request.data!r}")
        if request.repeats:  # it has the names of the first batch, or others, which must not be rows
            self.other_names.update(set(request.names) - self.stored_names)
            return
        if request.is_batch and request.stored is None and answer.stored:
            return
        stored = (request.stored or request.names) if answer.stored else ()
        self.stored_names.update(stored)
        self.other_names.update(set(request.names).difference(stored))

    def verdict(self, rows: Iterable[tuple[str | None, ...]]) -> None:
        """Compare the new rows with the responses. A row is the texts that may hold a name. Raises AssertionError."""
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
        assert not [name for name in self.stored_names if names[name] > 1], "rows are duplicated"
        assert not self.other_names & names.keys(), "rows of refused events exist"
        assert found.keys() <= self.stored.keys(), "rows exist that were never sent"
        whole = self.stored.keys() - self.cut
        more = [number for number in whole if found[number] > self.stored[number]]
        assert not more, f"conversations {more[:5]} have rows without a 201"
        missing = sum(self.stored[number] - found[number] for number in whole)
        least = missing - self.perhaps_repeated
        assert least <= nameless <= missing + self.cut_wild, f"{missing} rows are missing, {nameless} are nameless"
