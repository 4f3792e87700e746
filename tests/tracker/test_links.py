"""Links do what they do without the tracker, at once, and are told all the same."""

from typing import Any

import pytest

from tests.system.process import wait_until
from tests.tracker.acts import CLICKS, STAY, arrive, only, so_far
from tests.tracker.visits import Visit
from tests.tracker.webdriver import Key


def test_link_to_the_next_page_is_told_before_the_page_is_gone(visit: Visit) -> None:
    visit.page("<p>Next", "/next")
    visit.open("<a id=next href='/next?q=1'>Next</a>")
    visit.browser.click("#next")
    arrive(visit, "/next?q=1")
    event = visit.first("click")
    assert ("/", visit.origin() + "/next", "Next") == (
        event["page_path"],
        event["click_target_url"],
        event["click_element_text"],
    )


def test_navigation_starts_at_once_when_the_collector_hangs(visit: Visit) -> None:
    """The click is sent as well, though the events before it have no response yet."""
    visit.page("<p>Next", "/next", tracker=False)
    visit.fail("hang")
    visit.open("<button id=b>Buy</button> <a id=next href='/next'>Next</a>")
    visit.wait("pageview")
    visit.browser.click("#b")
    visit.browser.click("#next")
    arrive(visit, "/next")
    visit.wait("click", 2)
    assert {"b", "next"} == {event["click_element_id"] for event in visit.events("click")}


@pytest.mark.parametrize(
    "how",
    [{"button": 1}, {"keys": Key.CONTROL}, {"keys": Key.SHIFT}],
    ids=["middle button", "control", "shift"],
)
def test_link_opened_elsewhere_is_one_row_and_leaves_the_page(visit: Visit, how: dict[str, Any]) -> None:
    visit.needs("buttons")
    visit.serve("/next", "<!doctype html><title>Next</title>")
    visit.open(f"<a id=next href='http://blog.{visit.site}.localhost:{visit.servers.pages_port}/next'>Next</a>")
    visit.browser.click("#next", **how)
    visit.wait_for_windows(1)
    assert visit.origin() + "/" == visit.browser.url
    assert ["outbound_link"] == [event["event_type"] for event in so_far(visit, *CLICKS, "dead_click", "rage_click")]


def test_middle_and_right_click_on_no_link_are_no_clicks(visit: Visit) -> None:
    visit.needs("buttons")
    visit.open("<button id=b>Buy</button> <a id=a href='https://other.example/'>Out</a>")
    visit.browser.click("#b", button=1)
    visit.browser.click("#b", button=2)
    visit.browser.click("#a", button=2)
    visit.browser.press(Key.ESCAPE)
    assert [] == so_far(visit, *CLICKS)


def test_link_with_a_target_opens_its_window(visit: Visit) -> None:
    visit.serve("/next", "<!doctype html><title>Next</title>")
    visit.open("<a id=next href='/next' target=_blank>Next</a>")
    visit.browser.click("#next")
    visit.wait_for_windows(1)
    assert visit.origin() + "/next" == only(visit, *CLICKS)["click_target_url"]


def test_download_is_saved_and_told_with_its_file(visit: Visit) -> None:
    visit.download("/files/list.BIN")
    visit.open("<a id=file href='/files/list.BIN?v=2' download>Prices</a>")
    visit.browser.click("#file")
    event = only(visit, *CLICKS)
    expected = {
        "event_type": "file_download",
        "file_name": "list.BIN",
        "file_extension": "bin",
        "file_url": f"{visit.origin()}/files/list.BIN",
        "click_target_url": f"{visit.origin()}/files/list.BIN",
    }
    assert expected == {name: event[name] for name in expected}
    wait_until(lambda: bool(list(visit.folder.rglob("list*.BIN*"))), "the file is saved", 5)


FILES = [
    ("href='/a/report.pdf'", "report.pdf", "pdf"),
    ("href='/a/report.PDF?x=1.doc'", "report.PDF", "pdf"),
    ("href='/a/Price%20list.xlsx'", "Price list.xlsx", "xlsx"),
    ("href='/a/backup.tar.gz'", "backup.tar.gz", "gz"),
    ("href='/a/%E0%A4%A.zip'", "%E0%A4%A.zip", "zip"),
    ("href='/a/' download='Sales 2026.csv'", "Sales 2026.csv", "csv"),
    ("href='/a/notes' download", "notes", None),
    ("href='blob:x' download='pic.png'", "pic.png", "png"),
    ("href='data:,x' download", None, None),
]


def test_file_has_its_name_and_extension(visit: Visit) -> None:
    visit.open("".join(f"<p><a id=f{n} {markup}>File</a>" for n, (markup, *_) in enumerate(FILES)) + STAY)
    for n in range(len(FILES)):
        visit.browser.click(f"#f{n}")
    told = so_far(visit, "file_download")
    assert [tuple(each[1:]) for each in FILES] == [(each["file_name"], each["file_extension"]) for each in told]
    assert [None, None] == [each["file_url"] for each in told[-2:]], "its content is in the URL"


def test_download_that_a_script_starts_is_told(visit: Visit) -> None:
    """Apps make a link, click it and throw it away."""
    visit.open("<button id=b>Export</button>" + STAY)
    visit.browser.run(
        "document.querySelector('#b').onclick = () => { const a = document.createElement('a'); a.download = 'x.csv';"
        "a.href = URL.createObjectURL(new Blob(['x'])); document.body.append(a); a.click(); a.remove(); }"
    )
    visit.browser.click("#b")
    assert ["click", "file_download"] == [event["event_type"] for event in so_far(visit, *CLICKS)]


SVG = """
<svg id=svg width=200 height=40>
  <a id=plain href="https://other.example/a?q=1"><rect width=80 height=40 fill=red /></a>
  <a id=old xlink:href="https://other.example/b?q=1"><g><rect x=100 width=80 height=40 /></g></a>
</svg>
"""


def test_svg_links_are_links(visit: Visit) -> None:
    visit.open(SVG + STAY)
    for name in ("plain", "old"):
        visit.browser.click(f"#{name} rect")
    assert [("plain", "https://other.example/a"), ("old", "https://other.example/b")] == [
        (each["click_element_id"], each["click_target_url"]) for each in so_far(visit, "outbound_link")
    ]


@pytest.mark.parametrize("name", ["plain", "old"])
def test_svg_link_leads_to_its_page(visit: Visit, name: str) -> None:
    visit.serve("/next", "<!doctype html><title>Next</title>")
    visit.open(SVG.replace("https://other.example/a", "/next").replace("https://other.example/b", "/next"))
    visit.browser.click(f"#{name} rect")
    arrive(visit, "/next?q=1")
    assert name == visit.first("click")["click_element_id"]


def test_area_of_an_image_map_is_a_link(visit: Visit) -> None:
    visit.open(
        "<map name=m><area id=left shape=rect coords='0,0,100,50' href='https://other.example/left'></map>"
        "<svg hidden></svg><img id=i usemap='#m' width=100 height=50 alt=Map "
        "src='data:image/svg+xml,%3Csvg xmlns=%22http://www.w3.org/2000/svg%22 width=%22100%22 height=%2250%22/%3E'>"
        + STAY
    )
    visit.browser.click("#i")
    event = only(visit, *CLICKS)
    assert ("outbound_link", "area", "left") == tuple(
        event[name] for name in ("event_type", "click_element_tag", "click_element_id")
    )


def test_other_port_and_subdomain_are_other_hosts_and_www_is_not(visit: Visit) -> None:
    port = visit.servers.pages_port
    others = (f"{visit.site}.localhost:{port + 1}", f"blog.{visit.site}.localhost:{port}")
    hosts = [*others, f"www.{visit.site}.localhost:{port}", f"{visit.site.upper()}.localhost:{port}"]
    visit.open("".join(f"<p><a id=h{n} href='http://{host}/'>Link</a>" for n, host in enumerate(hosts)) + STAY)
    for n in range(len(hosts)):
        visit.browser.click(f"#h{n}")
    assert ["outbound_link", "outbound_link", "click", "click"] == [
        event["event_type"] for event in so_far(visit, *CLICKS)
    ]
