"""A race that an outsider would write: sixty requests at once on one cent, at three workers."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from moongate.store.postgres import PostgresStore
from test_workers_postgres import admin, sound, three

pytestmark = pytest.mark.postgres
CENT_NANOS = 10_000_000
ANSWER = "think hm\n" + "text word \ndelay 0.01\n" * 30 + "usage prompt=50 completion=31"


def patient() -> None:
    """A database that shares a busy machine with the test is not taken for gone."""
    PostgresStore.__init__.__kwdefaults__["patience_s"] = 10.0


@pytest.mark.parametrize("stream", [False, True])
def test_sixty_requests_at_once_on_one_cent_at_three_workers(stream: bool) -> None:
    with three(ANSWER, patient) as it:
        made = admin(it, "POST", "/keys", {"name": "poor", "account": "poor"})
        admin(it, "POST", "/accounts/poor/credit", {"usd": "0.01"})
        body = {
            "model": "kimi-k2.5",
            "messages": [{"role": "user", "content": "Name three moons."}],
            "stream": stream,
            "max_tokens": 500,
        }

        def ask(_: int) -> tuple[int, bytes]:
            return it.ask("/v1/chat/completions", body, key=made["key"])

        with ThreadPoolExecutor(60) as pool:
            answers = list(pool.map(ask, range(60)))
        assert {status for status, _ in answers} == {200, 402}
        paid = [
            int(re.findall(rb'"cost_nanos":(\d+)', text)[-1])
            for status, text in answers
            if status == 200
        ]
        print(f"{len(paid)} answered, {sum(paid)} of {CENT_NANOS} nano-dollars")
        assert sum(paid) <= CENT_NANOS
        wallet = admin(it, "GET", "/accounts/poor")
        assert (wallet["posted_nanos"], wallet["held_nanos"]) == (CENT_NANOS - sum(paid), 0)
        sound(it)
