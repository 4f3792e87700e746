// Core Web Vitals, as Google's web-vitals defines them: LCP, CLS, INP, FID and TTFB of this document.

import type { CollectorFields } from "./api";
import { listen } from "./listen";

type Shift = PerformanceEntry & { value: number; hadRecentInput: boolean };
type Timing = PerformanceEventTiming & { interactionId?: number };

const SLOW_MS = 40; // event timings that are reported
const LONGEST = 10; // interactions that are kept
const INTERACTIONS_EACH = 50; // one of so many may be longer than the INP

let hiddenAt = document.hidden && !isPrerendering() ? 0 : Infinity;
let lcp: number | undefined;
let isLcpFinal = false;
let fid: number | undefined;
let ttfb: number | undefined;

let cls: number | undefined;
let windowScore = 0;
let windowBegan = 0;
let windowEnded = 0;

let interactions: { id: number; ms: number }[] = [];
let countedBefore = 0; // interactions before the last restore

function isPrerendering(): boolean {
  return (document as { prerendering?: boolean }).prerendering === true;
}

const navigation = (): PerformanceNavigationTiming | undefined =>
  performance.getEntriesByType("navigation")[0] as PerformanceNavigationTiming | undefined;

/** When the visitor saw the page: after 0 only if it was rendered before. */
const activatedAt = (): number => (navigation() as { activationStart?: number } | undefined)?.activationStart ?? 0;

function observe(type: string, callback: (entry: never) => void, more = {}): PerformanceObserver | undefined {
  if (!PerformanceObserver.supportedEntryTypes.includes(type)) return undefined;
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) callback(entry as never);
  });
  observer.observe({ type, buffered: true, ...more });
  observers.push([observer, callback]);
  return observer;
}

const observers: [PerformanceObserver, (entry: never) => void][] = [];

function onPaint(entry: PerformanceEntry): void {
  if (!isLcpFinal && entry.startTime < hiddenAt) lcp = Math.max(entry.startTime - activatedAt(), 0);
}

function onShift(entry: Shift): void {
  if (entry.hadRecentInput) return;
  // A window ends after a second without shifts, or after five seconds. The worst one counts.
  if (windowScore && entry.startTime - windowEnded < 1000 && entry.startTime - windowBegan < 5000) {
    windowScore += entry.value;
  } else {
    windowScore = entry.value;
    windowBegan = entry.startTime;
  }
  windowEnded = entry.startTime;
  cls = Math.max(cls ?? 0, windowScore);
}

function onTiming(entry: Timing): void {
  if (entry.entryType === "first-input" && fid === undefined && entry.startTime < hiddenAt) {
    fid = Math.max(entry.processingStart - entry.startTime, 0);
  }
  if (!entry.interactionId && entry.entryType !== "first-input") return;
  const id = entry.interactionId ?? 0;
  const same = interactions.find((each) => each.id === id);
  if (same) same.ms = Math.max(same.ms, entry.duration);
  else interactions.push({ id, ms: entry.duration });
  interactions.sort((a, b) => b.ms - a.ms);
  interactions.length = Math.min(interactions.length, LONGEST);
}

function readInp(): number | undefined {
  const { interactionCount = 0 } = performance as { interactionCount?: number };
  const at = Math.floor((interactionCount - countedBefore) / INTERACTIONS_EACH);
  return interactions[Math.min(interactions.length - 1, at)]?.ms;
}

const round = (value: number | undefined, digits: number): number | undefined =>
  value === undefined ? undefined : Number(value.toFixed(digits));

/** The values up to now; undefined where there is none. */
export function readVitals(): CollectorFields {
  for (const [observer, callback] of observers) for (const entry of observer.takeRecords()) callback(entry as never);
  return {
    lcp: round(lcp, 1),
    cls: round(cls, 4),
    inp: round(readInp(), 1),
    fid: round(fid, 1),
    ttfb: round(ttfb, 1),
  };
}

/** The page is hidden: what is painted later is no LCP. */
export function hideVitals(at: number): void {
  hiddenAt = Math.min(hiddenAt, at);
  isLcpFinal = true;
}

/** The page came back from the bfcache, which counts as a navigation of its own. */
export function restartVitals(shownAt: number): void {
  hiddenAt = Infinity;
  fid = undefined;
  cls = cls === undefined ? undefined : 0;
  windowScore = 0;
  interactions = [];
  countedBefore = (performance as { interactionCount?: number }).interactionCount ?? 0;
  ttfb = 0;
  if (lcp === undefined) return;
  // Two frames later it is painted.
  lcp = undefined;
  requestAnimationFrame(() => requestAnimationFrame(() => (lcp = performance.now() - shownAt)));
}

export function watchVitals(): void {
  for (const entry of performance.getEntriesByType("visibility-state")) {
    if (entry.name === "hidden" && entry.startTime >= activatedAt()) hiddenAt = Math.min(hiddenAt, entry.startTime);
  }
  observe("largest-contentful-paint", onPaint);
  observe("layout-shift", onShift);
  observe("first-input", onTiming);
  observe("event", onTiming, { durationThreshold: SLOW_MS });
  // No shift is a value, too, once something was painted.
  observe("paint", () => {
    if (PerformanceObserver.supportedEntryTypes.includes("layout-shift")) cls ??= 0;
  });
  const readTtfb = (): void => {
    const { responseStart = 0 } = navigation() ?? {};
    if (responseStart > 0 && responseStart < performance.now()) ttfb = Math.max(responseStart - activatedAt(), 0);
  };
  if (isPrerendering()) listen("prerenderingchange", readTtfb);
  else readTtfb();
  // The first input ends the search for the largest paint. What was painted before it may still be reported.
  listen("keydown click", (event: Event) => {
    if (!event.isTrusted || isLcpFinal) return;
    readVitals();
    isLcpFinal = true;
  });
}
