"""Errors of forms: the name of what is wrong, never the browser's words, which quote what was typed."""

import pytest

from tests.tracker.acts import only, so_far
from tests.tracker.test_forms import AJAX, FORMS, told
from tests.tracker.visits import Visit

# A field with what it has been given, and what is wrong with it.
WRONG = [
    ("<input name=f required>", "", "valueMissing"),
    ("<input name=f type=checkbox required>", "", "valueMissing"),
    ("<select name=f required><option value=''>None</select>", "", "valueMissing"),
    ("<textarea name=f required></textarea>", "", "valueMissing"),
    ("<input name=f type=email>", "zebra", "typeMismatch"),
    ("<input name=f type=url>", "zebra", "typeMismatch"),
    ("<input name=f pattern='[0-9]+'>", "zebra", "patternMismatch"),
    ("<input name=f minlength=9>", "zebra", "tooShort"),
    ("<input name=f type=number min=9>", "4", "rangeUnderflow"),
    ("<input name=f type=number max=3>", "4", "rangeOverflow"),
    ("<input name=f type=number step=3>", "4", "stepMismatch"),
]


def test_native_validation_is_told_by_the_name_of_what_is_wrong(visit: Visit) -> None:
    forms = "".join(f"<form id=f{n}>{markup}<button>Send</button></form>" for n, (markup, *_) in enumerate(WRONG))
    visit.open(forms)
    for n, (_, text, _) in enumerate(WRONG):
        if text:
            visit.browser.find(f"#f{n} [name=f]").type(text)
        visit.browser.click(f"#f{n} button")
    events = so_far(visit, "form_error", "form_submit")
    assert [("form_error", f"f{n}", "f", wrong) for n, (*_, wrong) in enumerate(WRONG)] == told(
        events, "form_id", "field_name", "error_message"
    )
    assert not [each for each in visit.requests() if b"zebra" in each.body]


def test_message_of_the_site_is_not_told(visit: Visit) -> None:
    """It may quote what was typed."""
    visit.open(
        "<form id=order><input name=who><button>Send</button></form>"
        "<script>const who = document.querySelector('input');"
        "who.addEventListener('input', () => who.setCustomValidity(`${who.value} is taken`))</script>"
    )
    visit.browser.find("input").type("zebra")
    visit.browser.click("button")
    assert "customError" == only(visit, "form_error")["error_message"]
    assert not [each for each in visit.requests() if b"zebra" in each.body or b"taken" in each.body]


OWN = {
    "checkValidity": "if (!form.checkValidity()) e.preventDefault()",
    "reportValidity": "if (!form.reportValidity()) e.preventDefault()",
}


@pytest.mark.parametrize("code", OWN.values(), ids=OWN)
def test_own_validation_is_told_as_native_one_is(visit: Visit, code: str) -> None:
    """With `novalidate` the form has a submit event, which the page cancels."""
    visit.open(
        "<form id=order novalidate><input name=who value=Jo><input name=mail type=email required><button>Send</button>"
        "</form><script>const form = document.querySelector('form');"
        f"document.addEventListener('submit', e => {{ {code} }}, true);</script>"
    )
    visit.browser.click("button")
    assert [("form_error", "order", "mail", "valueMissing")] == told(
        so_far(visit, *FORMS), "form_id", "field_name", "error_message"
    )


def test_form_that_the_page_stops_because_of_errors_is_not_sent(visit: Visit) -> None:
    """It looks for them without asking the browser to check, so there is no event `invalid`."""
    stop = "if (document.querySelector(':invalid')) { e.preventDefault(); e.stopImmediatePropagation(); }"
    visit.open(
        "<form novalidate><input name=who required><button>Send</button></form>"
        f"<script>document.addEventListener('submit', e => {{ {stop} }}, true)</script>{AJAX}"
    )
    visit.browser.click("button")
    assert [] == so_far(visit, "form_submit")
    visit.browser.find("input").type("Jo")
    visit.browser.click("button")
    assert ["form_start", "form_field", "form_submit"] == [event["event_type"] for event in so_far(visit, *FORMS)]


def test_form_with_errors_that_is_sent_all_the_same_is_sent(visit: Visit) -> None:
    """`novalidate`, and the server checks."""
    visit.serve("/sent", "<!doctype html><title>Sent</title>")
    visit.open("<form id=order novalidate action=/sent><input name=mail required><button>Send</button></form>")
    visit.browser.click("button")
    visit.wait("form_submit")
    visit.wait("exit")
    assert ["form_submit"] == [event["event_type"] for event in visit.events(*FORMS)]


def test_same_error_is_told_once_within_moments(visit: Visit) -> None:
    """Pages check at every key. Another error, another field and a later one are told."""
    visit.open("<form id=f><input name=a type=email required><input name=b required></form>", clock=True)
    check = "document.querySelector('form').checkValidity()"
    for _ in range(3):
        visit.browser.run(check)
        visit.advance(0.5)
    assert [("a", "valueMissing"), ("b", "valueMissing")] == [
        each[1:] for each in told(so_far(visit, "form_error"), "field_name", "error_message")
    ]
    visit.browser.run(f"document.querySelector('input').value = 'zebra'; {check}")
    assert ("form_error", "a", "typeMismatch") == told(so_far(visit, "form_error"), "field_name", "error_message")[-1]
    visit.advance(3)
    visit.browser.run(check)
    assert 5 == len(so_far(visit, "form_error"))


def test_errors_of_a_large_form_are_told_of_some_fields_only(visit: Visit) -> None:
    visit.open(f"<form id=big>{'<input required>' * 3000}<button>Send</button></form>")
    visit.browser.click("button")
    assert 20 == len(so_far(visit, "form_error"))


def test_error_does_not_hide_that_the_form_was_abandoned(visit: Visit) -> None:
    visit.open("<form id=order><input name=who><input name=mail required><button>Send</button></form>")
    visit.browser.find("[name=who]").type("Jo")
    visit.browser.click("button")
    visit.leave()
    visit.wait("form_abandon")
    visit.wait("exit")
    # Beacons may overtake each other.
    assert {"form_start", "form_field", "form_error", "form_abandon"} == {
        event["event_type"] for event in visit.events(*FORMS)
    }
