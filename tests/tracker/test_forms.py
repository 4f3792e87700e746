"""Forms: begun, fields left, sent, abandoned."""

import pytest

from tests.tracker.acts import arrive, only, so_far
from tests.tracker.recorder import Event
from tests.tracker.visits import Visit
from tests.tracker.webdriver import Key

FORMS = ("form_start", "form_field", "form_submit", "form_error", "form_abandon")
ORDER = (
    "<form id=order name=Order action=/sent><input name=who> <input name=mail type=email> <button>Send</button></form>"
)
AJAX = "<script>addEventListener('submit', e => e.preventDefault())</script>"


def told(events: list[Event], *names: str) -> list[tuple[object, ...]]:
    """The type of each event, and these fields of it."""
    return [(event["event_type"], *(event.get(name) for name in names)) for event in events]


def test_form_is_begun_with_its_first_input_and_once(visit: Visit) -> None:
    visit.open(ORDER, clock=True)
    visit.browser.click("[name=who]")
    assert [] == so_far(visit, *FORMS), "focus is not enough"
    visit.browser.press("Jo", Key.TAB, "jo@shop.example")
    assert [("form_start", "order", "Order", "who", "text"), ("form_field", "order", "Order", "who", "text")] == told(
        so_far(visit, *FORMS), "form_id", "form_name", "field_name", "field_type"
    )


def test_used_field_is_told_with_its_time_when_it_is_left(visit: Visit) -> None:
    """From its focus on. A field that was only passed through is not told."""
    visit.open(ORDER + "<input id=outside>", clock=True)
    visit.browser.click("[name=who]")
    visit.advance(3)
    visit.browser.press("Jo", Key.TAB, Key.TAB)
    assert [("form_field", "who", "text", 50)] == told(
        so_far(visit, "form_field"), "field_name", "field_type", "form_completion_rate"
    )
    assert 3 <= only(visit, "form_field")["field_time"] < 4


CHOICES = {
    "checkbox": ("<input type=checkbox name=f>", "click"),
    "radio": ("<input type=radio name=f value=1>", "click"),
    "select-one": ("<select name=f><option>One<option>Two</select>", "key"),
    "textarea": ("<textarea name=f></textarea>", "type"),
    "password": ("<input type=password name=f>", "type"),
    "number": ("<input type=number name=f>", "digit"),
    "search": ("<input type=search id=f>", "type"),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_field_has_its_name_and_type_and_no_value(visit: Visit, kind: str) -> None:
    markup, how = CHOICES[kind]
    visit.open(f"<form id=order>{markup} <button id=next type=button>Next</button></form>")
    if how == "click":
        visit.browser.click("form > *")
    else:
        visit.browser.run("document.querySelector('form > *').focus()")
        visit.browser.press({"key": Key.DOWN, "type": "zebra", "digit": "4711"}[how])
    visit.browser.run("document.querySelector('#next').focus()")
    visit.wait("form_field")
    assert [("form_start", "f", kind), ("form_field", "f", kind)] == told(
        so_far(visit, *FORMS), "field_name", "field_type"
    )
    assert not [each for each in visit.requests() if b"zebra" in each.body or b"4711" in each.body]


# How a form is sent, by a script on the page.
WAYS = {
    "button": ("", "document.querySelector('button').click()"),
    "AJAX": (AJAX, "document.querySelector('button').click()"),
    "requestSubmit()": ("", "document.querySelector('form').requestSubmit()"),
    "stopped": (
        "<script>document.addEventListener('submit', e => e.stopImmediatePropagation(), true)</script>" + AJAX,
        "document.querySelector('button').click()",
    ),
}


@pytest.mark.parametrize("way", [*WAYS, "Enter", "submit()"])
def test_form_is_sent(visit: Visit, way: str) -> None:
    """Told with the time since its start, and not as abandoned."""
    visit.serve("/sent", "<!doctype html><title>Sent</title>")
    more, script = WAYS.get(way, ("", "document.querySelector('form').submit()"))
    visit.open(ORDER + more, clock=True)
    visit.browser.click("[name=who]")
    visit.browser.press("Jo")
    visit.advance(2)
    if way == "Enter":
        visit.browser.press(Key.ENTER)
    else:
        visit.browser.run(f"const act = () => {{ {script} }}; window.advanceClock ? act() : 0")
    event = visit.first("form_submit")
    visit.leave()
    visit.wait("exit")
    assert ("order", 50) == (event["form_id"], event["form_completion_rate"])
    assert 2 <= event["field_time"] < 3
    assert ["form_start", "form_submit"] == [
        each["event_type"] for each in visit.events(*FORMS) if each["event_type"] != "form_field"
    ]


def test_form_that_nobody_typed_in_is_sent_too(visit: Visit) -> None:
    visit.open(ORDER + AJAX)
    visit.browser.click("button")
    assert [("form_submit", "order", 0)] == told(so_far(visit, *FORMS), "form_id", "form_completion_rate")


def test_submit_goes_to_its_page_at_once_when_the_collector_hangs(visit: Visit) -> None:
    visit.serve("/sent", "<!doctype html><title>Sent</title>")
    visit.fail("hang")
    visit.open(ORDER)
    visit.wait("pageview")
    visit.browser.click("[name=who]")
    visit.browser.press("Jo", Key.ENTER)
    arrive(visit, "/sent?who=Jo&mail=")
    visit.wait("form_submit")


@pytest.mark.parametrize("way", ["another page", "a route"])
def test_form_is_abandoned_with_its_last_field_when_the_page_is_left(visit: Visit, way: str) -> None:
    visit.open(ORDER + "<form id=other><input name=x></form><form id=untouched><input name=y></form>", clock=True)
    visit.browser.click("[name=x]")
    visit.browser.press("X")
    visit.browser.click("[name=who]")
    visit.browser.press("Jo", Key.TAB, "jo@")
    visit.advance(5)
    if way == "a route":
        visit.browser.run("history.pushState(1, '', '/two')")
    else:
        visit.leave()
    visit.wait("exit")
    events = visit.wait("form_abandon", 2)
    assert {("form_abandon", "other", "x", "text", 100), ("form_abandon", "order", "mail", "email", 100)} == set(
        told(events, "form_id", "field_name", "field_type", "form_completion_rate")
    )
    assert {"/"} == {event["page_path"] for event in events}
    assert all(5 <= event["field_time"] < 7 for event in events)


def test_form_is_abandoned_once_and_can_be_begun_again(visit: Visit) -> None:
    visit.open(ORDER)
    visit.browser.click("[name=who]")
    visit.browser.press("Jo")
    visit.browser.run("history.pushState(1, '', '/two')")
    visit.wait("pageview", 2)
    visit.browser.run("history.pushState(1, '', '/three')")
    visit.wait("exit", 2)
    visit.browser.press("x")
    visit.leave()
    visit.wait("exit", 3)
    assert ["form_start", "form_abandon", "form_start", "form_abandon"] == [
        event["event_type"] for event in visit.events(*FORMS)
    ]


def test_form_that_is_hidden_in_another_tab_is_not_abandoned(visit: Visit) -> None:
    visit.open(ORDER)
    visit.browser.click("[name=who]")
    visit.browser.press("Jo")
    with visit.hidden():
        pass
    assert [] == so_far(visit, "form_abandon")


def test_form_that_is_read_by_a_script_and_typed_in_again_is_abandoned(visit: Visit) -> None:
    """Drafts are saved in this way. It looks like `submit()`, which has no event."""
    visit.open(ORDER)
    visit.browser.click("[name=who]")
    visit.browser.press("J")
    visit.browser.run("new FormData(document.querySelector('form'))")
    visit.browser.press("o")
    visit.leave()
    visit.wait("form_abandon")
    assert [] == visit.events("form_submit")


def test_field_outside_of_a_form_is_not_told(visit: Visit) -> None:
    visit.open("<input id=alone> <input id=next>")
    visit.browser.click("#alone")
    visit.browser.press("Jo", Key.TAB)
    assert [] == so_far(visit, *FORMS)


RATES = [
    ("<input><input value=x><textarea></textarea><textarea>x</textarea>", 50),
    ("<input value=x><input type=hidden value=x><input type=submit><button>x</button>", 100),
    ("<input value=x><input disabled><fieldset disabled><input></fieldset>", 100),
    ("<input type=checkbox><input type=checkbox checked>", 50),
    ("<input type=radio name=a><input type=radio name=a checked><input type=radio name=b><input>", 33),
    ("<select><option value=''>Choose<option>x</select><select><option>x</select>", 50),
    ("<input type=number value=0><input type=range>", 100),
    ("<button>x</button>", None),
    ("<input value=x></form><input form=f><input form=f value=x><form>", 67),
    ("<fieldset><legend></legend><input value=x></fieldset><output>x</output><object></object>", 100),
    ("<input type=file><input value=x>", 50),
]


def test_completion_rate_counts_the_fields_that_a_visitor_fills(visit: Visit) -> None:
    forms = [f"<form id=f{n}>{markup.replace('=f', f'=f{n}')}</form>" for n, (markup, _) in enumerate(RATES)]
    visit.open("".join(forms) + AJAX)
    for n in range(len(RATES)):
        visit.browser.run(f"document.querySelector('#f{n}').requestSubmit()")
    rates = {event["form_id"]: event["form_completion_rate"] for event in so_far(visit, "form_submit")}
    assert [rate for _, rate in RATES] == [rates[f"f{n}"] for n in range(len(RATES))]


def test_form_of_three_thousand_fields_is_told(visit: Visit) -> None:
    visit.open(
        f"<form id=big novalidate>{'<input required>' * 2999}<input name=last><button>Send</button></form>{AJAX}"
    )
    visit.browser.click("[name=last]")
    visit.browser.press("x", Key.TAB)
    visit.browser.click("button")
    assert [("form_start", "last", None), ("form_field", "last", 0)] == told(
        so_far(visit, "form_start", "form_field"), "field_name", "form_completion_rate"
    )
