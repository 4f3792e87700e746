// Core Web Vitals of this document, as Google's web-vitals defines them: LCP, CLS, INP, FID and TTFB.

import type { CollectorFields } from "./api";
import { listen } from "./listen";

type Shift = PerformanceEntry & { value: number; hadRecentInput: boolean };
type Timing = PerformanceEventTiming & { interactionId?: number };
type Navigation = { activationStart?: number; responseStart?: number };

const SLOW_MS = 40; // event timings that are reported
const LONGEST = 10; // interactions that are kept
const INTERACTIONS_EACH = 50; // one of so many may be longer than the INP

let hiddenAt = Infinity; // what is painted later is no LCP
let isRestored = false; // from the bfcache

let lcp: number | undefined;
let fid: number | undefined;
let isLcpFinal = false;

let cls = 0;
let windowScore = 0;
let windowBegan = 0;
let windowEnded = 0;

let longest: { id: number | undefined; ms: number }[] = []; // interactions
let countedBefore = 0; // interactions before the last restore

const observers: [PerformanceObserver, (entry: never) => void][] = [];

const navigation = (): Navigation => (performance.getEntriesByType("navigation")[0] ?? {}) as Navigation;

/** When the visitor saw the page: after 0 only if it was rendered before. */
const activatedAt = (): number => navigation().activationStart ?? 0;

const canObserve = (type: string): boolean => PerformanceObserver.supportedEntryTypes.includes(type);

function observe(type: string, callback: (entry: never) => void): void {
  if (!canObserve(type)) return;
  const observer = new PerformanceObserver((list) => list.getEntries().forEach(callback as never));
  observer.observe({ type, buffered: true, durationThreshold: SLOW_MS } as PerformanceObserverInit);
  observers.push([observer, callback]);
}

function onPaint({ startTime }: PerformanceEntry): void {
  if (!isLcpFinal && startTime < hiddenAt) lcp = Math.max(startTime - activatedAt(), 0);
}

function onShift({ hadRecentInput, startTime, value }: Shift): void {
  if (hadRecentInput) return;
  // A window ends after a second without shifts, or after five seconds. The worst one counts.
  if (startTime - windowEnded >= 1000 || startTime - windowBegan >= 5000) {
    windowScore = 0;
    windowBegan = startTime;
  }
  windowEnded = startTime;
  windowScore += value;
  cls = Math.max(cls, windowScore);
}

function onInteraction({ duration, entryType, interactionId: id, processingStart, startTime }: Timing): void {
  const isFirst = entryType === "first-input";
  if (isFirst && startTime < hiddenAt) fid ??= Math.max(processingStart - startTime, 0);
  if (!id && !isFirst) return;
  const same = longest.find((each) => each.id === id);
  if (same) same.ms = Math.max(same.ms, duration);
  else longest.push({ id, ms: duration });
  longest.sort((a, b) => b.ms - a.ms).splice(LONGEST);
}

const countInteractions = (): number => (performance as { interactionCount?: number }).interactionCount ?? 0;

/** The values up to now; undefined where there is none. */
export function readVitals(): CollectorFields {
  for (const [observer, callback] of observers) observer.takeRecords().forEach(callback as never);
  const { responseStart } = navigation();
  const isPainted = performance.getEntriesByName("first-contentful-paint")[0];
  const at = Math.floor((countInteractions() - countedBefore) / INTERACTIONS_EACH);
  return {
    lcp,
    fid,
    cls: canObserve("layout-shift") && isPainted ? cls : undefined,
    inp: longest[Math.min(longest.length - 1, at)]?.ms,
    ttfb: isRestored ? 0 : responseStart ? Math.max(responseStart - activatedAt(), 0) : undefined,
  };
}

/** The page is hidden, or has its first input: the largest paint is found. */
export function endLcp(hidden = Infinity): void {
  readVitals();
  hiddenAt = Math.min(hiddenAt, hidden);
  isLcpFinal = true;
}

/** The page came back from the bfcache, which counts as a navigation of its own. */
export function restartVitals(shownAt: number): void {
  isRestored = true;
  hiddenAt = Infinity;
  fid = undefined;
  cls = windowScore = 0;
  longest = [];
  countedBefore = countInteractions();
  // Two frames later it is painted.
  if (lcp) requestAnimationFrame(() => requestAnimationFrame(() => (lcp = performance.now() - shownAt)));
  lcp = undefined;
}

export function watchVitals(): void {
  // Hidden before this script ran, but for a time of prerendering.
  for (const { name, startTime } of performance.getEntriesByType("visibility-state")) {
    if (name === "hidden" && startTime >= activatedAt()) hiddenAt = Math.min(hiddenAt, startTime);
  }
  observe("largest-contentful-paint", onPaint);
  observe("layout-shift", onShift);
  observe("first-input", onInteraction);
  observe("event", onInteraction);
  listen("keydown click", ({ isTrusted }: Event) => isTrusted && !isLcpFinal && endLcp());
}
