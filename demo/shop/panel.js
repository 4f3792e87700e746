// The panel: a line for each event that watch.js has noted, newest first.
"use strict";

// How to cause each type in this shop, in the order in which one meets them.
const HINTS = {
  pageview: "Open the page, or a product.",
  click: "Press a button or follow a link within the shop.",
  heatmap_click: "Click a picture, a text or an empty place.",
  scroll: "Scroll down: 25, 50, 75 and 100 % are told.",
  exit: "Go from one product to another page, or leave the shop and come back.",
  time_on_page: "Stay for three seconds, then open another page of the shop.",
  cwv: "Look at another tab, and come back.",
  heartbeat: "Stay and read for 15 seconds.",
  outbound_link: "Follow “Our growers”, at the end of the page.",
  file_download: "Download the brewing guide from a product.",
  email_click: "Click the e-mail address at the end of the page.",
  phone_click: "Click the telephone number at the end of the page.",
  copy: "Select the code WELCOME-TEA, and copy it.",
  form_start: "Type into the form of the newsletter.",
  form_field: "Fill in a field of the form, and go to the next.",
  form_error: "Send the form with a field empty.",
  form_submit: "Fill in the form, and send it.",
  form_abandon: "Type into the form, then open a product instead.",
  dead_click: "Press “Compare” on a product. It does nothing, which is told after 2.5 seconds.",
  rage_click: "Press “Compare” three times, fast.",
};

const byId = (id) => document.getElementById(id);

function make(name, className, ...content) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...content);
  return element;
}

// Without the shop around it, there is nothing to show.
const watched = parent === window ? undefined : parent.watched;

const seconds = (value) => value != null && `${value} s`;
const percent = (value) => value != null && `${value} %`;
const quoted = (value) => value != null && `“${value}”`;

/** The fields that matter, as one line. */
function describe(event) {
  const { event_type: type } = event;
  const times = [seconds(event.time_on_page), event.engaged_time != null && `${event.engaged_time} s engaged`];
  const click = quoted(event.click_element_text) || event.click_element || event.click_element_tag;
  const form = [event.form_name ?? event.form_id, event.field_name];
  const parts = {
    pageview: [event.page_path, quoted(event.page_title), event.traffic_source],
    scroll: [percent(event.scroll_depth), event.scroll_behavior],
    exit: [event.page_path, ...times],
    time_on_page: [event.page_path, ...times],
    heartbeat: times,
    cwv: ["lcp", "inp", "cls", "ttfb"].map((name) => event[name] != null && `${name} ${Math.round(event[name] * 1000) / 1000}`),
    outbound_link: [event.click_target_url],
    email_click: [event.click_target_url],
    phone_click: [event.click_target_url],
    file_download: [event.file_name],
    rage_click: [click, `${event.click_count} clicks`],
    copy: [quoted(event.copied_text) || "text not told"],
    form_field: [...form, seconds(event.field_time)],
    form_error: [...form, event.error_message],
    form_submit: [...form, percent(event.form_completion_rate)],
    form_abandon: [...form, percent(event.form_completion_rate)],
    form_start: form,
  };
  return (parts[type] ?? [click]).filter(Boolean).join(" · ");
}

/** The answer: a text, and how it is coloured. */
function answerOf({ status, reason, message }) {
  if (status === null) return ["waiting", "open"];
  if (status === "beacon") return ["sent by beacon", "open", "A page cannot read the answer to a beacon."];
  if (status === "left") return ["answer not seen", "open", "The page was left before the answer came."];
  if (status === 0) return ["no answer", "failed", "The collector is stopped, or a blocker has stopped the request."];
  const text = reason ? `${status} ${reason}` : String(status);
  return [text, status === 201 ? "stored" : status === 202 ? "ignored" : "failed", message];
}

const lines = new Map(); // by the event's body

function lineOf(entry) {
  const event = JSON.parse(entry.body);
  const json = make("pre", "", JSON.stringify(event, null, 2));
  json.tabIndex = 0; // it scrolls
  const answer = make("span", "answer");
  const note = make("p", "note");
  const when = make("time", "", new Date(event.event_time).toLocaleTimeString("en-GB"));
  when.dateTime = event.event_time;
  const summary = make("summary", "", make("b", "", event.event_type), when, answer, make("span", "what", describe(event)));
  const line = { type: event.event_type, element: make("li", "", make("details", "", summary, note, json)), answer, note };
  line.element.dataset.type = event.event_type;
  return line;
}

function showLine(entry) {
  let line = lines.get(entry.body);
  if (!line) {
    line = lineOf(entry);
    lines.set(entry.body, line);
    byId("log").prepend(line.element);
    tell(line.type);
  }
  const [text, kind, note = ""] = answerOf(entry);
  line.answer.className = `answer ${kind}`;
  line.answer.textContent = text;
  line.note.textContent = [note, entry.sent > 1 && `Sent ${entry.sent} times.`].filter(Boolean).join(" ");
  byId("latest").textContent = `${line.type}, ${text}`;
}

function showTypes() {
  const counts = new Map();
  for (const { type } of lines.values()) counts.set(type, (counts.get(type) ?? 0) + 1);
  const all = Object.keys(HINTS);
  const seen = all.filter((type) => counts.has(type)).length;
  byId("seen").textContent = `${seen} of ${all.length} types seen`;
  byId("meter").style.width = `${(seen / all.length) * 100}%`;
  byId("none").hidden = lines.size > 0;
  byId("latest").hidden = !lines.size;
  for (const type of all) {
    const item = byId(`type-${type}`);
    item.classList.toggle("done", counts.has(type));
    item.querySelector(".times").textContent = counts.has(type) ? `${counts.get(type)} ×` : "not yet";
  }
}

// Screen readers are told once in a while what came, not of every event.
const SAY_MS = 4000;
const unsaid = [];

function tell(type) {
  unsaid.push(type);
  if (unsaid.length > 1) return;
  setTimeout(() => {
    const types = [...new Set(unsaid)].join(", ");
    byId("said").textContent = `${unsaid.length} ${unsaid.length > 1 ? "events" : "event"} sent: ${types}`;
    unsaid.length = 0;
  }, SAY_MS);
}

function showTrouble() {
  const found = watched.trouble();
  for (const each of document.querySelectorAll(".trouble")) each.hidden = each.id !== found;
}

function showAll() {
  const log = watched.log();
  if (!log.length) {
    lines.clear();
    byId("log").replaceChildren();
  }
  log.forEach(showLine);
  showTypes();
  showTrouble();
}

// On small screens the panel is a drawer at the bottom: shut, only its head can be seen, and reached by keys.

const isSmall = parent.matchMedia("(max-width: 60rem)");

function setDrawer(isOpen) {
  document.documentElement.classList.toggle("drawer", isSmall.matches);
  byId("drawer").disabled = !isSmall.matches;
  byId("drawer").setAttribute("aria-expanded", String(isOpen || !isSmall.matches));
  document.documentElement.classList.toggle("shut", isSmall.matches && !isOpen);
  watched?.open(isOpen);
}

byId("drawer").addEventListener("click", () => setDrawer(byId("drawer").getAttribute("aria-expanded") === "false"));
isSmall.addEventListener("change", () => setDrawer(false));
setDrawer(false);

for (const [type, hint] of Object.entries(HINTS)) {
  const item = make("li", "", make("b", "", type), make("span", "times"), make("span", "hint", hint));
  item.id = `type-${type}`;
  byId("types").append(item);
}

byId("clear").addEventListener("click", () => watched?.clear());

byId("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(byId("command").textContent).then(
    () => (byId("copy").textContent = "Copied"),
    () => getSelection().selectAllChildren(byId("command")),
  );
});

if (watched) {
  watched.onChange = (entry) => {
    if (!entry) return showAll();
    showLine(entry);
    showTypes();
  };
  showAll();
} else {
  byId("none").textContent = "This is a part of the demo shop. Open index.html.";
}
