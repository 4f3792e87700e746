// Page views: when one begins and ends, and the events of its life: pageview, scroll, heartbeat, time_on_page, cwv, exit.

import type { CollectorFields } from "./api";
import { maySend, readConsent } from "./consent";
import type { EventType } from "./contract";
import { readTimes, restartEngagement, watchEngagement, whenEngaged } from "./engagement";
import { listen, safely } from "./listen";
import { isAuto, spa } from "./options";
import { readPage, readSource, readTitle } from "./page";
import { runAll } from "./schedule";
import { readBehavior, readScroll, restartScroll, watchScroll } from "./scroll";
import { track } from "./send";
import { resumeEarly, sendWaiting, setLeaving } from "./transport";
import { noteHidden, readVitals, restartVitals, watchVitals } from "./vitals";

const SETTLE_MS = 150; // after a change of path, until the app has set the title
const FIRST_BEAT_S = 15;
const BEAT_S = 30;
const LONG_VIEW_S = 300; // from here on beats are rarer
const LONG_BEAT_S = 60;
const WORTH_TELLING_S = 3;

let [page] = readPage();
let landing = page; // of this document, or of its last restore
let key = ""; // of the view; empty: none has begun
let referrer = document.referrer;
let extra: CollectorFields = {};
let shownAt = 0; // when the view was first visible, in ms since 1970; 0: not yet
let isAnnounced = false; // its pageview is on the way
let told = { engaged_time: 0, max_scroll_depth: 0 }; // by the last event with these
let vitalsTold = "";
let settling: ReturnType<typeof setTimeout> | undefined;

const beforeLeave: (() => void)[] = [];

/** Call back when a view ends, while its page is still the current one. */
export function onLeave(callback: () => void): void {
  beforeLeave.push(callback);
}

/** Send an event of the current page, after its pageview. */
export function trackHere(type: EventType, fields: CollectorFields, at?: number): void {
  announce();
  track(type, page, fields, at);
}

/** Send the pageview, if it is due and may be sent. */
export function announce(): void {
  if (isAnnounced || !shownAt || !maySend()) return;
  clearTimeout(settling);
  isAnnounced = true;
  track("pageview", page, { page_title: readTitle(), ...readSource(referrer), ...extra }, shownAt);
}

/** The view is visible for the first time. Its pageview waits until the app has set the title. */
function show(): void {
  if (shownAt || document.hidden) return;
  shownAt = Date.now();
  settling = setTimeout(announce, SETTLE_MS);
  restartEngagement();
  if (isAuto) beatAt(FIRST_BEAT_S);
}

function beatAt(seconds: number): void {
  whenEngaged(seconds * 1000, () => {
    trackHere("heartbeat", tell());
    beatAt(seconds + (seconds < LONG_VIEW_S ? BEAT_S : LONG_BEAT_S));
  });
}

/** Times and depth, for an event. */
const tell = (): typeof told & CollectorFields => (told = { ...readTimes(), ...readScroll() });

function tellTime(): void {
  const isLonger = readTimes().engaged_time - told.engaged_time >= WORTH_TELLING_S;
  if (isAnnounced && (isLonger || readScroll().max_scroll_depth > told.max_scroll_depth)) {
    trackHere("time_on_page", tell());
  }
}

function tellVitals(): void {
  const vitals = readVitals();
  const values = JSON.stringify(vitals);
  if (!shownAt || !maySend() || values === "{}" || values === vitalsTold) return;
  vitalsTold = values;
  track("cwv", landing, vitals);
}

/** End the view, if it has begun. A view that was replaced within SETTLE_MS has not. */
function leave(): void {
  clearTimeout(settling);
  if (!isAnnounced || !isAuto) return;
  for (const callback of beforeLeave) callback();
  tellTime();
  trackHere("exit", { ...tell(), scroll_behavior: readBehavior(), is_exit: true });
}

/** Begin a view of the page as it is now. */
function begin(from = isAnnounced ? (page.page_url ?? "") : referrer): void {
  referrer = from;
  [page, key] = readPage();
  extra = {};
  isAnnounced = false;
  shownAt = 0;
  told = { engaged_time: 0, max_scroll_depth: 0 };
  restartScroll();
  show();
}

/** Begin a view because the page says so. */
export function beginView(fields: CollectorFields = {}): void {
  if (isAnnounced || !shownAt) {
    leave();
    begin();
  }
  extra = fields;
  announce();
}

function onRoute(): void {
  if (readPage()[1] === key) return;
  leave();
  begin();
}

function watchRoutes(): void {
  for (const name of ["pushState", "replaceState"] as const) {
    const original = history[name];
    history[name] = function (this: History, ...given: Parameters<typeof original>) {
      original.apply(this, given);
      safely(onRoute)();
    };
  }
  listen("popstate hashchange", onRoute);
}

function onHidden(event: Event): void {
  const isLeaving = event.type === "pagehide";
  setLeaving(true);
  if (isAuto) {
    announce();
    noteHidden(event.timeStamp);
    tellVitals();
    if (isLeaving) leave();
    else tellTime();
  }
  runAll();
  if (isLeaving) sendWaiting();
}

function onVisible(): void {
  setLeaving(false);
  readConsent(); // another page or tab may have taken it back
  if (key) show();
  announce();
  resumeEarly();
}

/** Follow the page's life. */
export function watchViews(): void {
  listen("visibilitychange", (event: Event) => (document.hidden ? onHidden(event) : onVisible()));
  listen("pagehide", onHidden);
  listen("pageshow", (event: PageTransitionEvent) => {
    if (!event.persisted) return;
    if (isAuto) {
      vitalsTold = "";
      restartVitals(event.timeStamp);
      begin(document.referrer);
      landing = page;
    }
    onVisible();
  });
  listen("online", resumeEarly);
  if (!isAuto) return;
  watchEngagement();
  watchVitals();
  watchScroll((mark) => {
    trackHere("scroll", { ...readScroll(), scroll_depth: mark, scroll_behavior: readBehavior() });
  });
  if (spa !== "off") watchRoutes();
  begin();
}
