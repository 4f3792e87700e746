"""What visitors do, and what was told of it: helpers of the tests of clicks, copies and forms."""

from tests.system.process import wait_until
from tests.tracker.recorder import Event
from tests.tracker.visits import PATIENCE_S, Visit

CLICKS = ("email_click", "phone_click", "file_download", "outbound_link", "click", "heatmap_click")

# Links and forms do all but leave the page. Registered last of all, so it also sees what others have done.
STAY = """<script>
for (const kind of ["click", "auxclick", "submit"]) addEventListener(kind, e => e.preventDefault());
</script>"""


def so_far(visit: Visit, *types: str) -> list[Event]:
    """Every event of these types (none: all) up to now, waiting timers apart.

    Events are sent one after the other. So once what waits for a paint has been done, one more is sent, and when it
    has come, all before it have.
    """
    if visit.browser.run("return !document.hidden"):  # a hidden page does not paint
        visit.settle()
    number = sum(event.get("click_element_tag") == "custom" for event in visit.events())
    visit.browser.run("window.collector.trackEvent({type: arguments[0]})", f"end-{number}")
    visit.wait_for(lambda told: any(e.get("click_element_id") == f"end-{number}" for e in told), "the last has come")
    told = [event for event in visit.events() if event.get("click_element_tag") != "custom"]
    return [event for event in told if not types or event["event_type"] in types]


def only(visit: Visit, *types: str) -> Event:
    """The one event of these types so far."""
    [event] = so_far(visit, *types)
    return event


def arrive(visit: Visit, path: str) -> None:
    """Wait until the browser is at a path. The page before it cannot be asked: it may be gone before it answers."""
    wait_until(lambda: visit.browser.url == visit.origin() + path, f"the browser is at {path}", PATIENCE_S)
