"""Privacy: a page full of secrets, a visitor who touches all of it, and none of them in anything that was sent."""

from collections.abc import Iterator
from urllib.parse import unquote

import pytest

from tests.tracker.acts import so_far
from tests.tracker.visits import Visit
from tests.tracker.webdriver import Key

# What must not be sent, by where it is on the page. Each is in the page's markup or typed by the visitor.
SECRETS = {
    "password": "hunter2secret",
    "half an e-mail address": "halfaddress@",
    "card number with blanks": "4111 1111 1111 1111",
    "phone number with brackets": "(0171) 234-5678",
    "Arabic digits": "٠١٢٣٤٥٦٧٨٩",
    "query of an outbound link": "outboundquery",
    "fragment of an outbound link": "outboundfragment",
    "user of a link": "linkuser",
    "query of a download": "downloadquery",
    "subject of a mail": "mailsubject",
    "body of a message": "smsbody",
    "hidden field": "hiddensecret",
    "default text": "defaultsecret",
    "option": "optionsecret",
    "value of an option": "optionvalue",
    "checkbox value": "checkboxsecret",
    "range": "8675309",
    "editable text": "editablesecret",
    "link in editable text": "editedlink",
    "button in editable text": "editedbutton",
    "private text": "privatesecret",
    "private id": "privateid",
    "private class": "privateclass",
    "private label": "privatelabel",
    "private link": "privatelink",
    "private file": "privatefile",
    "private field": "privatefield",
    "private form": "privateform",
    "field outside the private form": "outsidefield",
    "title attribute": "titlesecret",
    "label with an address": "label@secret.example",
    "placeholder": "placeholdersecret",
    "alt text": "altsecret",
    "plain text": "paragraphsecret",
    "query of the page": "pagequery",
    "fragment of the page": "pagefragment",
    "address in a utm parameter": "utm@secret.example",
    "address in the title": "title@secret.example",
    "id with an account": "12345678901",
    "id that is an address": "id@secret.example",
    "words of the site": "wordsofthesite",
    "message of the site": "message@secret.example",
    "typed e-mail address": "typed@secret.example",
    "data: URL": "dataurlsecret",
    "javascript: URL": "scripturlsecret",
}
S = SECRETS

PAGE = f"""
<form id=f novalidate>
  <input type=hidden name=h value={S["hidden field"]}>
  <input id=pass type=password name=p placeholder={S["placeholder"]}>
  <input id=mail type=email name=m required>
  <input id=own name=o value=x>
  <textarea id=area name=a>{S["default text"]}</textarea>
  <select id=choice name=c><option value={S["value of an option"]}>{S["option"]}<option>Other</select>
  <label id=check><input type=checkbox value={S["checkbox value"]}> I agree, {S["label with an address"]}</label>
  <input id=range type=range min=0 max=9999999 value={S["range"]}>
  <input id=secret name={S["private field"]} data-private>
  <button id=send title={S["title attribute"]}>Send to {S["card number with blanks"]}</button>
</form>
<form id={S["private form"]} data-private><input id=inner required><button id=pf>Send</button></form>
<button id=phone>{S["phone number with brackets"]} {S["half an e-mail address"]}</button>
<button id=digits aria-label="Call {S["Arabic digits"]}">Call</button>
<button id=account class="user-{S["id with an account"]}">Account</button>
<button class="user-{S["id with an account"]} anonymous">Account</button>
<button id="{S["id that is an address"]}" class=named>Named</button>
<input id=outside form={S["private form"]} name={S["field outside the private form"]}>
<div contenteditable><a id=editlink href="https://other.example/{S["link in editable text"]}">{S["editable text"]}</a>
<button id=editbutton>{S["button in editable text"]}</button></div>
<a id=out href="https://{S["user of a link"]}@other.example/x?q={S["query of an outbound link"]}#{
    S["fragment of an outbound link"]
}">Out</a>
<a id=file href="/f.pdf?key={S["query of a download"]}">File</a>
<a id=to href="mailto:shop@shop.example?subject={S["subject of a mail"]}">Mail</a>
<a id=sms href="sms:+49301?body={S["body of a message"]}">Message</a>
<a id=data href="data:text/plain,{S["data: URL"]}" download="x.txt">Data</a>
<a id=js href="javascript:void '{S["javascript: URL"]}'">Script</a>
<div id=edit contenteditable style="cursor: pointer">{S["editable text"]}</div>
<div data-private data-copied-text>
  <button id={S["private id"]} class="{S["private class"]} pb" aria-label={S["private label"]}>{
    S["private text"]
}</button>
  <a id=pl href="https://other.example/{S["private link"]}">Link</a>
  <a id=pd href="/x" download="{S["private file"]}.pdf">File</a>
</div>
<div id=mixed data-copied-text>Some words, {S["half an e-mail address"]} <b data-private>{S["private text"]}</b></div>
<p id=text>{S["plain text"]} <img id=img alt={S["alt text"]} src="data:," width=20 height=20></p>
<script>
  for (const kind of ["click", "auxclick", "submit"]) addEventListener(kind, e => e.preventDefault());
  document.querySelector("#own").setCustomValidity("{S["words of the site"]} {S["message of the site"]}");
  document.querySelector("#send").addEventListener("click", () => document.querySelector("#f").reportValidity());
</script>
"""


AREAS = ("#mixed", "#text", "#edit", "body")  # that are selected and copied


def act_on_everything(visit: Visit) -> None:
    browser = visit.browser
    for selector in [
        "#phone",
        "#digits",
        "#account",
        ".anonymous",
        ".named",
        "#editlink",
        "#editbutton",
        "#out",
        "#file",
        "#to",
        "#sms",
        "#data",
        "#js",
        "#edit",
        ".pb",
        "#pl",
        "#pd",
        "#text",
        "#img",
        "#check",
    ]:
        browser.click(selector)
    typed = {"#pass": S["password"], "#mail": S["half an e-mail address"], "#own": S["typed e-mail address"]}
    for selector, text in typed.items():
        browser.click(selector)
        browser.press(text, Key.TAB)
    for selector, text in {"#secret": "x", "#inner": "x", "#outside": "x", "#area": "x", "#edit": "x"}.items():
        browser.click(selector)
        browser.press(text, Key.TAB)
    browser.run("document.querySelector('#choice').focus()")
    browser.press(Key.DOWN, Key.TAB)
    browser.run("document.querySelector('#range').focus()")
    browser.press(Key.LEFT, Key.TAB)
    for selector in ("#send", "#pf"):
        browser.click(selector)
    copies = [
        *(f"const f = document.querySelector('{each}'); f.focus(); f.select()" for each in ("#pass", "#area")),
        *(f"getSelection().selectAllChildren(document.querySelector('{each}'))" for each in AREAS),
    ]
    for select in copies:
        browser.run(select)
        browser.press("c", hold=Key.CONTROL)


def variants(secret: str) -> Iterator[str]:
    """The forms that it may have in a body or URL."""
    yield secret
    yield secret.replace(" ", "").replace("(", "").replace(")", "").replace("-", "")
    yield secret.encode("unicode_escape").decode()
    if "@" in secret and not secret.endswith("@"):
        yield secret.partition("@")[0] + "@"
        yield secret.replace("@", "%40")


@pytest.fixture
def everything(visit: Visit) -> Visit:
    """A page on which all was touched."""
    campaign = f"utm_source=news&utm_term={S['address in a utm parameter']}"
    query = f"?x={S['query of the page']}&{campaign}#{S['fragment of the page']}"
    visit.open(
        PAGE,
        title=f"Hello {S['address in the title']}",
        attributes={"on": "heatmap_click"},
        query=query,
        clock=True,
    )
    act_on_everything(visit)
    visit.advance(3)
    visit.browser.run("getSelection().removeAllRanges()")
    visit.browser.click("#phone", times=3)
    visit.advance(3)
    so_far(visit)
    visit.leave()
    visit.wait("exit")
    return visit


def test_no_secret_is_in_any_request_or_row(everything: Visit) -> None:
    """The types that were sent say that there was something to tell."""
    visit = everything
    assert {
        *("pageview", "click", "heatmap_click", "outbound_link", "file_download", "email_click", "phone_click"),
        *("copy", "rage_click", "dead_click", "form_start", "form_field", "form_error", "form_abandon", "exit"),
    } <= set(visit.types())
    sent = [f"{each.path} {each.headers} {each.body.decode()}" for each in visit.requests()]
    haystack = [*sent, *map(unquote, sent), *map(str, visit.rows())]
    found = {
        where: text
        for where, secret in SECRETS.items()
        for text in haystack
        if any(form in text for form in variants(secret))
    }
    assert {} == found


def test_secrets_are_found_where_they_are_sent(visit: Visit) -> None:
    """The search itself: a page that sends one is caught in each of its forms."""
    visit.open("<p>Page")
    for secret in SECRETS.values():
        for form in variants(secret):
            assert form
    visit.browser.run(
        "window.collector.trackEvent({type: 'click', click_element_text: arguments[0]})", S["Arabic digits"]
    )
    body = visit.first("click")
    assert any(form in str(body) for form in variants(S["Arabic digits"]))


def test_nothing_but_what_the_tracker_needs_is_kept_on_the_device(everything: Visit) -> None:
    visit = everything
    visit.browser.back()
    kept = visit.browser.run("return document.cookie + JSON.stringify({...localStorage, ...sessionStorage})")
    assert {} == {where: secret for where, secret in SECRETS.items() if secret in kept}
