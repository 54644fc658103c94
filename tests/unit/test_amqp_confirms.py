"""Which published messages were confirmed, refused or returned, whatever the order of the answers."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from umbel.stores.amqp.confirms import Confirmation, Confirms, Outgoing


class Answer:
    def __init__(self) -> None:
        self.value: Confirmation | None = None
        self.error: Exception | None = None

    def done(self) -> bool:
        return self.value is not None or self.error is not None

    def set_result(self, value: Any) -> None:
        assert not self.done()
        self.value = value

    def set_exception(self, error: Exception) -> None:
        self.error = error


def messages(*keys: str) -> list[Outgoing]:
    return [Outgoing("", key, {}, key.encode()) for key in keys]


def published(*sizes: int) -> tuple[Confirms, list[Answer]]:
    confirms, answers = Confirms(), []
    for size in sizes:
        answers.append(Answer())
        confirms.add(messages(*"m" * size), answers[-1])
    return confirms, answers


def test_one_answer_may_confirm_many() -> None:
    confirms, (first, second, third) = published(2, 1, 3)
    confirms.answered(4, True, refused=False)
    assert first.value == second.value == Confirmation()
    assert third.value is None
    confirms.answered(6, True, refused=False)
    assert third.value == Confirmation()


def test_a_batch_in_the_middle_may_be_done_first() -> None:
    confirms, (first, second) = published(1, 2)
    confirms.answered(3, False, refused=False)
    confirms.answered(2, False, refused=False)
    assert first.value is None
    assert second.value == Confirmation()
    confirms.answered(1, False, refused=False)
    assert first.value == Confirmation()


def test_refused_messages_are_named_by_their_place() -> None:
    confirms, (first, second) = published(2, 3)
    confirms.answered(4, False, refused=True)
    confirms.answered(2, True, refused=True)
    confirms.answered(5, True, refused=False)
    assert first.value == Confirmation(refused=[0, 1])
    assert second.value == Confirmation(refused=[1])


def test_returned_messages_are_found_in_their_order() -> None:
    confirms, answers = Confirms(), [Answer(), Answer()]
    confirms.add(messages("a", "b", "a"), answers[0])
    confirms.add(messages("a", "c"), answers[1])
    for key in "aaac":
        confirms.came_back("", key, key.encode(), "312 NO_ROUTE")
    confirms.answered(5, True, refused=False)
    assert answers[0].value == Confirmation(returned={0: "312 NO_ROUTE", 2: "312 NO_ROUTE"})
    assert answers[1].value == Confirmation(returned={0: "312 NO_ROUTE", 1: "312 NO_ROUTE"})
    assert not answers[0].value.accepted


def test_what_was_not_written_gives_its_numbers_back() -> None:
    confirms, (first,) = published(2)
    dropped, later = Answer(), Answer()
    confirms.drop_last(confirms.add(messages("x", "y"), dropped))
    confirms.add(messages("z"), later)
    confirms.answered(3, True, refused=False)
    assert first.value == later.value == Confirmation()
    assert not dropped.done()


def test_the_end_is_told_to_all_that_wait() -> None:
    confirms, (first, second) = published(1, 1)
    confirms.answered(1, False, refused=False)
    confirms.fail(ConnectionError("gone"))
    assert first.error is None
    assert isinstance(second.error, ConnectionError)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_every_order_of_answers_confirms_everything_once(sizes: list[int], chance: Any) -> None:
    confirms, answers = published(*sizes)
    total = sum(sizes)
    refused = {number for number in range(1, total + 1) if chance.random() < 0.2}
    open_numbers = set(range(1, total + 1))
    while open_numbers:
        number = chance.choice(sorted(open_numbers))
        covered = {each for each in open_numbers if each <= number}
        verdicts = {each in refused for each in covered}
        if chance.random() < 0.4 and len(verdicts) == 1:
            confirms.answered(number, True, refused=verdicts.pop())
            open_numbers -= covered
        else:
            confirms.answered(number, False, refused=number in refused)
            open_numbers.discard(number)
        first = 1
        for size, answer in zip(sizes, answers, strict=True):
            mine = set(range(first, first + size))
            assert answer.done() == mine.isdisjoint(open_numbers)
            if answer.value is not None:
                assert sorted(answer.value.refused) == sorted(each - first for each in mine & refused)
            first += size
