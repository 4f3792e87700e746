// Page views: when one begins and ends, and the events of its life: pageview, scroll, heartbeat, time_on_page, cwv, exit.

import type { CollectorFields } from "./api";
import { maySend } from "./consent";
import type { EventType } from "./contract";
import { readTimes, restartEngagement, watchEngagement, whenEngaged } from "./engagement";
import { listen } from "./listen";
import { isAuto, spa } from "./options";
import { readKey, readPage, readSource, readTitle, type Page } from "./page";
import { runAll } from "./schedule";
import { readBehavior, readScroll, restartScroll, watchScroll } from "./scroll";
import { track } from "./send";
import { resumeEarly, sendWaiting, setLeaving } from "./transport";
import { hideVitals, readVitals, restartVitals, watchVitals } from "./vitals";

const SETTLE_MS = 150; // after a change of path, until the app has set the title
const FIRST_BEAT_S = 15;
const BEAT_S = 30;
const LONG_VIEW_S = 300; // from here on beats are rarer
const LONG_BEAT_S = 60;
const WORTH_TELLING_S = 3;

let page: Page = readPage();
let landing = page; // of this document, or of its last restore
let key = readKey();
let referrer = document.referrer;
let extra: CollectorFields = {};
let shownAt = 0; // when the view was first visible, in ms since 1970; 0: not yet
let isAnnounced = false; // its pageview is on the way
let told = { engaged_time: 0, max_scroll_depth: 0 }; // by the last event with these
let vitalsTold = "";
let settling: ReturnType<typeof setTimeout> | undefined;

const beforeLeave: (() => void)[] = [];

/** The page that events belong to now. */
export const currentPage = (): Page => page;

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
  clearTimeout(settling);
  if (!isAuto || isAnnounced || !shownAt || !maySend()) return;
  isAnnounced = true;
  trackPageview();
}

function trackPageview(): void {
  track("pageview", page, { page_title: readTitle(), ...readSource(referrer), ...extra }, shownAt);
}

/** The view is visible for the first time. Its pageview waits until the app has set the title. */
function show(): void {
  if (shownAt || document.hidden || (document as { prerendering?: boolean }).prerendering) return;
  shownAt = Date.now();
  settling = setTimeout(announce, SETTLE_MS);
  restartEngagement();
  whenEngaged(FIRST_BEAT_S * 1000, () => onBeat(FIRST_BEAT_S));
}

function onBeat(seconds: number): void {
  trackHere("heartbeat", tell());
  const next = seconds + (seconds < LONG_VIEW_S ? BEAT_S : LONG_BEAT_S);
  whenEngaged(next * 1000, () => onBeat(next));
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
  if (!isAnnounced) return;
  for (const callback of beforeLeave) callback();
  tellTime();
  trackHere("exit", { ...tell(), scroll_behavior: readBehavior(), is_exit: true });
}

/** Begin a view of the page as it is now. */
function begin(from: string, fields: CollectorFields = {}): void {
  page = readPage();
  key = readKey();
  referrer = from;
  extra = fields;
  isAnnounced = false;
  shownAt = 0;
  told = { engaged_time: 0, max_scroll_depth: 0 };
  restartScroll();
  show();
}

/** Begin a view because the page says so. */
export function beginView(fields?: CollectorFields): void {
  if (!isAuto) {
    page = readPage();
    extra = fields ?? {};
    shownAt = Date.now();
    trackPageview();
    referrer = page.page_url ?? "";
  } else if (isAnnounced) {
    const from = page.page_url ?? "";
    leave();
    begin(from, fields);
    announce();
  } else {
    extra = fields ?? {};
    announce();
  }
}

function onRoute(): void {
  if (readKey() === key) return;
  const from = isAnnounced ? (page.page_url ?? "") : referrer;
  leave();
  begin(from);
}

function watchRoutes(): void {
  for (const name of ["pushState", "replaceState"] as const) {
    const original = history[name];
    history[name] = function (this: History, ...given: Parameters<typeof original>) {
      original.apply(this, given);
      onRoute();
    };
  }
  listen("popstate hashchange", onRoute);
}

function onHidden(event: Event): void {
  const isLeaving = event.type === "pagehide";
  setLeaving(true);
  if (isAuto) {
    announce();
    hideVitals(event.timeStamp);
    tellVitals();
    if (isLeaving) leave();
    else tellTime();
  }
  runAll();
  if (isLeaving) sendWaiting();
}

function onVisible(): void {
  setLeaving(false);
  if (isAuto) show();
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
  listen("prerenderingchange", onVisible);
  watchEngagement();
  watchVitals();
  watchScroll((mark) => {
    trackHere("scroll", { ...readScroll(), scroll_depth: mark, scroll_behavior: readBehavior() });
  });
  if (spa !== "off") watchRoutes();
  begin(document.referrer);
}
