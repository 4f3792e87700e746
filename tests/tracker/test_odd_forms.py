"""Forms whose markup is odd: fields whose names hide properties, shadow DOM, private ones."""

import pytest

from tests.tracker.acts import CLICKS, so_far
from tests.tracker.test_forms import AJAX, FORMS, told
from tests.tracker.visits import Visit
from tests.tracker.webdriver import Key

NAMES = [
    "id",
    "name",
    "elements",
    "matches",
    "children",
    "length",
    "action",
    "method",
    "target",
    "submit",
    "style",
    "title",
]


@pytest.mark.parametrize("at", ["name", "id"])
def test_names_of_fields_that_hide_properties_of_the_form_do_no_harm(visit: Visit, at: str) -> None:
    """`form.matches` is the field, if there is one called so."""
    fields = "".join(f"<input {at}={name}>" for name in NAMES)
    visit.open(f"<form id=order>{fields}<button id=send>Send</button></form>{AJAX}", clock=True)
    visit.browser.click("form input:nth-of-type(4)")
    visit.browser.press("Jo", Key.TAB)
    visit.browser.click("#send")
    rate = round(100 / len(NAMES))
    assert [
        ("form_start", "order", "matches", None),
        ("form_field", "order", "matches", rate),
        ("form_submit", "order", None, rate),
    ] == told(so_far(visit, *FORMS), "form_id", "field_name", "form_completion_rate")
    assert ["form#order>button#send"[11:]] == [e["click_element"] for e in so_far(visit, "click")]


def test_click_in_a_form_with_such_fields_is_told(visit: Visit) -> None:
    fields = "".join(f"<input name={name}>" for name in NAMES)
    visit.open(f"<main><form>{fields}<button>One</button><button>Two</button></form></main>{AJAX}")
    visit.browser.click("button:last-of-type")
    assert ["html>body>main>form>button:nth-of-type(2)"] == [e["click_element"] for e in so_far(visit, *CLICKS)]


GLOBALS = ["title", "forms", "cookie", "navigation", "collector", "body"]


@pytest.mark.parametrize("name", GLOBALS)
def test_form_whose_name_hides_a_property_of_the_page_does_no_harm(visit: Visit, name: str) -> None:
    """`document.title` is the form, if one is called so."""
    visit.open(f"<form name={name}><input name=q><button>Go</button></form><b id={name}></b>{AJAX}")
    visit.browser.click("[name=q]")
    visit.browser.press("x", Key.TAB)
    visit.browser.click("button")
    assert ["pageview", "form_start", "form_field", "click", "form_submit"] == [
        event["event_type"] for event in so_far(visit)
    ]
    assert {name} == {event["form_name"] for event in so_far(visit, *FORMS)}


def test_form_without_a_name_has_the_one_of_its_place(visit: Visit) -> None:
    visit.open(f"<form></form><form aria-label='Your order'><input name=x></form>{AJAX}")
    visit.browser.run("document.querySelectorAll('form')[1].requestSubmit()")
    assert [("form_submit", "form:1", "Your order")] == told(so_far(visit, *FORMS), "form_id", "form_name")


def test_field_outside_of_its_form_belongs_to_it(visit: Visit) -> None:
    visit.open(f"<form id=order><input name=a></form><input name=out form=order><button form=order>Send</button>{AJAX}")
    visit.browser.click("[name=out]")
    visit.browser.press("Jo", Key.TAB)
    visit.browser.click("button")
    assert [
        ("form_start", "order", "out", None),
        ("form_field", "order", "out", 50),
        ("form_submit", "order", None, 50),
    ] == told(so_far(visit, *FORMS), "form_id", "field_name", "form_completion_rate")


SHADOW = """<div id=host></div><script>
const root = document.querySelector("#host").attachShadow({mode: "open"});
root.innerHTML = "<form id=order><input name=who> <input name=mail></form>";
window.find = name => root.querySelector(name);
</script>"""


def test_field_of_a_form_in_a_shadow_root_is_told(visit: Visit) -> None:
    """Once the focus leaves the shadow root: no earlier change of it is heard outside, nor `submit` and `invalid`."""
    visit.open(SHADOW)
    visit.browser.click(visit.browser.run("return window.find('[name=who]')"))
    visit.browser.press("Jo")
    visit.browser.run("window.find('[name=who]').blur()")
    assert [("form_start", "order", "who"), ("form_field", "order", "who")] == told(
        so_far(visit, *FORMS), "form_id", "field_name"
    )


PRIVATE = {
    "form": "<form data-private id=order><input name=who required><button>Send</button></form>",
    "around": "<div data-private><form id=order><input name=who required><button>Send</button></form></div>",
    "outside": "<form data-private id=order><button>Send</button></form><input name=who required form=order>",
}


@pytest.mark.parametrize("markup", PRIVATE.values(), ids=PRIVATE)
def test_private_form_is_not_told(visit: Visit, markup: str) -> None:
    visit.open(markup + AJAX)
    visit.browser.click("button")
    visit.browser.click("[name=who]")
    visit.browser.press("Jo", Key.TAB)
    visit.browser.click("button")
    visit.browser.run("history.pushState(1, '', '/two')")
    visit.wait("exit")
    assert [] == so_far(visit, *FORMS)


def test_private_field_is_not_told(visit: Visit) -> None:
    visit.open(
        "<form id=order><input name=secret data-private required> <div data-private><input name=more required></div>"
        f"<input name=open><button>Send</button></form>{AJAX}"
    )
    visit.browser.click("button")
    visit.browser.click("[name=secret]")
    visit.browser.press("Jo", Key.TAB, "Jo", Key.TAB, "x", Key.TAB)
    visit.browser.click("button")
    assert [("form_start", "open"), ("form_field", "open"), ("form_submit", None)] == told(
        so_far(visit, *FORMS), "field_name"
    )
