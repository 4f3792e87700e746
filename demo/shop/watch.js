// Notes what the tracker sends and what the collector answers, for the panel. The tracker knows nothing of it.
"use strict";

{
  const KEPT = 300; // entries of the log
  const STORE = "demo-log"; // sessionStorage: the log of this tab alone, so that what was sent on leaving can be shown

  const tag = document.querySelector('script[src$="/t.js"]');
  // Browsers that a program drives are not tracked unless the tag says so. Tests of this page open `?automation`.
  if (new URLSearchParams(location.search).has("automation")) tag.dataset.automation = "";
  const path = new URL(tag.src).pathname.replace(/[^/]*$/, "");

  const isEvent = (url) => new URL(url, location.href).pathname.startsWith(path);

  // An entry: `event`, `sent` (how often), `status`: the answer, 0: none came, null: not yet, "beacon": not to be read.
  let log = [];
  try {
    log = JSON.parse(sessionStorage.getItem(STORE)) ?? [];
  } catch {
    // Storage is blocked: the log begins with this page.
  }
  for (const entry of log) entry.status ??= "left"; // the page went before the answer came

  let isSaving = false;

  function save() {
    isSaving = false;
    try {
      sessionStorage.setItem(STORE, JSON.stringify(log));
    } catch {
      // Blocked or full. The panel shows the log all the same.
    }
  }

  /** Save soon, and show. The page may go at any moment only after pagehide, where beacons are sent: see `note`. */
  function changed(entry) {
    if (entry && !log.includes(entry)) return; // the log was cleared meanwhile
    if (!isSaving) setTimeout(save);
    isSaving = true;
    watched.onChange(entry);
  }

  function note(body, status) {
    // An event that is sent again, because the collector could not take it, is still one event.
    let entry = log.find((each) => each.body === body);
    if (entry) entry.sent++;
    else {
      entry = { body, sent: 1 };
      log.push(entry);
      log.splice(0, log.length - KEPT);
    }
    entry.status = status;
    if (status === "beacon") save();
    changed(entry);
    return entry;
  }

  const fetch = window.fetch;
  window.fetch = (resource, options) => {
    const response = fetch(resource, options);
    if (!isEvent(resource.url ?? resource) || typeof options?.body !== "string") return response;
    const entry = note(options.body, null);
    const answer = async () => {
      try {
        const { status, headers } = await response;
        Object.assign(entry, { status, reason: headers.get("Collect-Reason") });
        if (status !== 201) entry.message = (await (await response).clone().json()).message;
      } catch {
        entry.status ||= 0;
      }
      changed(entry);
    };
    void answer();
    return response;
  };

  const sendBeacon = navigator.sendBeacon.bind(navigator);
  navigator.sendBeacon = (url, body) => {
    const isTaken = sendBeacon(url, body);
    if (isTaken && isEvent(url) && typeof body === "string") note(body, "beacon");
    return isTaken;
  };

  /** Why nothing is sent, if so: an id of a text in the panel. */
  function trouble() {
    if (document.readyState !== "complete") return null;
    if (!window.collector?.isEnabled) return "blocked";
    if (window.collector.isEnabled()) return null;
    return navigator.webdriver || /headless/i.test(navigator.userAgent) ? "automated" : "disabled";
  }

  /** What the panel reads. It sets `onChange`; without an entry, anything may have changed. */
  window.watched = {
    onChange() {},
    trouble,
    log: () => log,
    clear() {
      log = [];
      changed();
    },
    /** On small screens the panel is a drawer. */
    open(isOpen) {
      document.getElementById("panel").classList.toggle("open", isOpen);
    },
  };

  addEventListener("load", () => setTimeout(() => watched.onChange()));
  addEventListener("pageshow", () => watched.onChange());
}
