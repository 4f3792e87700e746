"""Bots and opt-outs: what is stored of them, and what is not."""

import gzip
import json
from dataclasses import replace
from typing import Any

import pytest

from collector.sender_keys import fingerprint
from tests.edge.conftest import Connect, Serve
from tests.edge.wire import Answer, head, request, tally
from tests.support import Running, body, event

GOOGLEBOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
BOT = f"User-Agent: {GOOGLEBOT}".encode()
BROWSER = f"User-Agent: {FIREFOX}".encode()
KEY = "ck_test"
BEARER = b"Authorization: Bearer " + KEY.encode()

POLICIES: dict[str, dict[str, Any]] = {
    "flag": {},
    "drop": {"bots": "drop"},
    "ignore": {"bots": "ignore"},
    "keyed": {"bots": "drop", "keys": [fingerprint(KEY)], "respect_gpc": True},
    "gpc": {"respect_gpc": True},
    "dnt": {"respect_dnt": True},
    "both": {"respect_gpc": True, "respect_dnt": True, "bots": "drop", "excluded_ips": ["127.0.0.1"]},
    "off": {"tracking": False, "respect_gpc": True},
}


@pytest.fixture
async def policies(serve: Serve) -> Running:
    return await serve(POLICIES, rate_limit={"burst": 100_000})


def outcome(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.reason


async def test_each_policy_treats_bots_as_it_says(policies: Running, connect: Connect) -> None:
    wire = await connect(policies)
    assert (201, None) == outcome(await wire.ask(request(body(), BOT, site="flag")))
    assert (201, None) == outcome(await wire.ask(request(body(), BROWSER, site="flag")))
    assert (202, "bot") == outcome(await wire.ask(request(body(), BOT, site="drop")))
    assert (201, None) == outcome(await wire.ask(request(body(), BROWSER, site="drop")))
    assert (201, None) == outcome(await wire.ask(request(body(), BOT, site="ignore")))
    assert (201, None) == outcome(await wire.ask(request(body(), site="flag")))  # no user agent
    await policies.flush()
    rows = {site: [(row["user_agent"], row["bot"]) for row in policies.rows(site)] for site in POLICIES}
    assert [(GOOGLEBOT, "Googlebot"), (FIREFOX, None), (None, None)] == rows["flag"]
    assert [(FIREFOX, None)] == rows["drop"]
    assert [(GOOGLEBOT, None)] == rows["ignore"]
    assert {"received": 2, "stored": 1, "bot": 1} == tally(policies, "drop")


async def test_bot_is_dropped_without_its_body(policies: Running, connect: Connect) -> None:
    """No client waits for a response that does not need its body, and no sample of it is kept."""
    wire = await connect(policies)
    wire.send(head(BOT, b"Content-Length: 100", site="drop"))
    assert (202, "bot") == outcome(await wire.answer())
    wire = await connect(policies)
    assert (202, "bot") == outcome(await wire.ask(request(b"no event", BOT, site="drop")))
    await policies.flush()
    assert [] == policies.rejected("drop")


async def test_recovered_events_have_the_bots_that_their_site_flags(policies: Running, connect: Connect) -> None:
    """The journal does not have them."""
    wire = await connect(policies)
    for site in ("flag", "ignore"):
        await wire.ask(request(body(), BOT, site=site))
    await policies.stages.journal.seal()
    for segment in policies.stages.journal.sealed:
        segment.to_disk()
    assert await policies.stages.flusher.flush()
    assert ["Googlebot"] == [row["bot"] for row in policies.rows("flag")]
    assert [(GOOGLEBOT, None)] == [(row["user_agent"], row["bot"]) for row in policies.rows("ignore")]


async def test_recovered_events_of_a_removed_site_have_their_bots(policies: Running, connect: Connect) -> None:
    """Nobody knows its setting any more; the default flags bots."""
    wire = await connect(policies)
    await wire.ask(request(body(), BOT, site="ignore"))
    await policies.stages.journal.seal()
    for segment in policies.stages.journal.sealed:
        segment.to_disk()
    decider = policies.stages.decider
    decider.rules = replace(decider.rules, sites={"flag": decider.rules.sites["flag"]})
    assert await policies.stages.flusher.flush()
    assert ["Googlebot"] == [row["bot"] for row in policies.rows("ignore")]


async def test_bots_of_senders_are_those_that_their_events_name(policies: Running, connect: Connect) -> None:
    """The sender itself is usually a program that the list knows."""
    wire = await connect(policies)
    sender = (BEARER, b"User-Agent: python-requests/2.32")
    given = [body(user_agent=GOOGLEBOT), body(user_agent=FIREFOX), body()]
    found = [outcome(await wire.ask(request(each, *sender, site="keyed"))) for each in given]
    assert [(202, "bot"), (201, None), (201, None)] == found
    answer = await wire.ask(request(b"\n".join(given), *sender, target="/public/keyed/batch"))
    assert {"stored": 2, "dropped": 1} == {key: answer.json[key] for key in ("stored", "dropped")}
    assert [{"index": 0, "reason": "bot", "message": "Bots are not tracked"}] == answer.json["errors"]
    await policies.flush()
    assert [FIREFOX, None] * 2 == [row["user_agent"] for row in policies.rows("keyed")]


@pytest.mark.parametrize(
    ("site", "lines", "opted_out"),
    [
        ("gpc", [b"Sec-GPC: 1"], True),
        ("gpc", [b"sec-gpc:  1 "], True),
        ("gpc", [b"Sec-GPC: 0", b"Sec-GPC: 1"], True),  # whoever added one of them wants it
        ("gpc", [b"Sec-GPC: 1", b"Sec-GPC: 0"], True),
        ("gpc", [b"Sec-GPC: 0"], False),
        ("gpc", [b"Sec-GPC: 11"], False),
        ("gpc", [b"Sec-GPC: ?1"], False),
        ("gpc", [b"Sec-GPC:"], False),
        ("gpc", [b"DNT: 1"], False),
        ("gpc", [], False),
        ("dnt", [b"DNT: 1"], True),
        ("dnt", [b"DNT: 0"], False),
        ("dnt", [b"DNT: null"], False),
        ("dnt", [b"Sec-GPC: 1"], False),
        ("flag", [b"Sec-GPC: 1", b"DNT: 1"], False),
        ("keyed", [b"Sec-GPC: 1", BEARER], True),
    ],
)
async def test_opt_out_is_respected_where_the_site_says_so(
    policies: Running, connect: Connect, site: str, lines: list[bytes], opted_out: bool
) -> None:
    wire = await connect(policies)
    expected = (202, "opted_out") if opted_out else (201, None)
    assert expected == outcome(await wire.ask(request(body(), *lines, site=site)))
    assert expected == outcome(await wire.ask(request(body(), *lines, target=f"/public/{site}/e")))
    batch = await wire.ask(request(body() + b"\n" + body(), *lines, target=f"/public/{site}/batch"))
    assert (expected, 0 if opted_out else 2) == (outcome(batch), batch.json["stored"])
    packed = request(gzip.compress(body()), b"Content-Encoding: gzip", *lines, site=site)
    assert expected == outcome(await wire.ask(packed))


async def test_nothing_is_kept_of_a_client_that_opted_out(
    policies: Running, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    wire = await connect(policies)
    for data in (body(), b"no event", json.dumps(event(lcp="fast")).encode()):
        assert (202, "opted_out") == outcome(await wire.ask(request(data, b"Sec-GPC: 1", site="gpc")))
    await policies.flush()
    assert ([], []) == (policies.rows("gpc"), policies.rejected("gpc"))
    assert [] == caplog.messages


async def test_order_of_the_checks(policies: Running, connect: Connect) -> None:
    """Tracking, opt-out, localhost, origin, address, bot. The first one decides."""
    wire = await connect(policies)
    lines = [BOT, b"Sec-GPC: 1", b"Origin: http://localhost"]
    found = []
    for site, kept in (("off", 3), ("both", 3), ("drop", 3)):
        found.append((await wire.ask(request(body(), *lines[:kept], site=site))).reason)
    found.append((await wire.ask(request(body(), BOT, site="both"))).reason)
    found.append((await wire.ask(request(b"no event", BOT, site="drop"))).reason)
    assert ["tracking_disabled", "opted_out", "localhost", "excluded_ip", "bot"] == found


async def test_bot_that_sends_a_batch_without_a_key_is_dropped(policies: Running, connect: Connect) -> None:
    """Its own user agent counts, not those that its events give."""
    wire = await connect(policies)
    events = b"\n".join([body(user_agent=FIREFOX), b"no event"])
    answer = await wire.ask(request(events, BOT, target="/public/drop/batch"))
    assert (202, 0, ["bot", "bot"]) == (answer.status, answer.json["stored"], reasons(answer))
    answer = await wire.ask(request(body(user_agent=GOOGLEBOT), BROWSER, target="/public/drop/batch"))
    assert (201, 1) == (answer.status, answer.json["stored"])
    await policies.flush()
    assert ([FIREFOX], []) == ([row["user_agent"] for row in policies.rows("drop")], policies.rejected("drop"))


async def test_order_of_the_checks_of_a_batch(policies: Running, connect: Connect) -> None:
    """Tracking, opt-out, localhost, address, bot: the same, but `Origin` decides earlier about the whole batch."""
    wire = await connect(policies)
    lines = [BOT, b"Sec-GPC: 1", b"Origin: http://localhost"]
    found = []
    for site, sent in (("off", lines), ("both", lines), ("drop", lines), ("both", lines[:1]), ("drop", lines[:1])):
        found += reasons(await wire.ask(request(b"no event", *sent, target=f"/public/{site}/batch")))
    assert ["tracking_disabled", "opted_out", "localhost", "excluded_ip", "bot"] == found


def reasons(answer: Answer) -> list[str]:
    return [each["reason"] for each in answer.json["errors"]]
