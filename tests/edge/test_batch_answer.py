"""The answer to a batch, as the store of answers keeps it."""

from collector.edge.batch_answer import Answer


def test_answer_survives_the_store() -> None:
    for answer in (
        Answer(201, None, b'{"stored": 1}'),
        Answer(202, "invalid", b'{"message": "a\\nb \xc3\xa9"}\n '),
    ):
        assert answer == Answer.from_bytes(answer.to_bytes())
