// Core Web Vitals of this document, as Google's web-vitals defines them: LCP, CLS, INP, FID and TTFB.

import type { CollectorFields } from "./api";

type Shift = PerformanceEntry & { value: number; hadRecentInput: boolean };
type Timing = PerformanceEventTiming & { interactionId?: number };
type Navigation = { activationStart?: number; responseStart?: number };

const SLOW_MS = 40; // event timings that are reported
const LONGEST = 10; // interactions that are kept
const INTERACTIONS_EACH = 50; // one of so many may be longer than the INP

let hiddenAt = Infinity; // first; what is painted later is no LCP
let isRestored = false; // from the bfcache

let lcp: number | undefined;
let fid: number | undefined;

let cls = 0;
let windowScore = 0;
let windowBegan = 0;
let windowEnded = 0;

let longest: { id: number; ms: number }[] = []; // interactions
let countedBefore = 0; // interactions before the last restore

const observers: [PerformanceObserver, (entry: never) => void][] = [];

const navigation = (): Navigation => (performance.getEntriesByType("navigation")[0] ?? {}) as Navigation;

/** When the visitor saw the page: after 0 only if it was rendered before. */
const activatedAt = (): number => navigation().activationStart ?? 0;

const sinceActivation = (at: number): number => Math.max(at - activatedAt(), 0);

const canObserve = (type: string): boolean => PerformanceObserver.supportedEntryTypes.includes(type);

function observe(type: string, callback: (entry: never) => void): void {
  if (!canObserve(type)) return;
  const observer = new PerformanceObserver((list) => list.getEntries().forEach(callback as never));
  observer.observe({ type, buffered: true, durationThreshold: SLOW_MS } as PerformanceObserverInit);
  observers.push([observer, callback]);
}

function onPaint({ startTime }: PerformanceEntry): void {
  // The browser itself tells of no paint after the first input.
  if (!isRestored && startTime < hiddenAt) lcp = sinceActivation(startTime);
}

function onShift({ hadRecentInput, startTime, value }: Shift): void {
  if (hadRecentInput) return;
  // A window ends after a second without shifts, or after five seconds. The worst one counts.
  if (!windowScore || startTime - windowEnded >= 1000 || startTime - windowBegan >= 5000) {
    windowScore = 0;
    windowBegan = startTime;
  }
  windowEnded = startTime;
  windowScore += value;
  cls = Math.max(cls, windowScore);
}

function onInteraction({ duration, entryType, interactionId: id, processingStart, startTime }: Timing): void {
  const isFirst = entryType === "first-input";
  if (isFirst && startTime < hiddenAt) fid ??= processingStart - startTime;
  if (!id) return;
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
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  const count = countInteractions() - countedBefore;
  const at = Math.floor(count / INTERACTIONS_EACH);
  return {
    lcp,
    fid,
    cls: canObserve("layout-shift") && paint?.startTime! < hiddenAt ? cls : undefined,
    // No first input is told of a restored page. 8 ms is the least that an interaction takes.
    inp: longest[Math.min(longest.length - 1, at)]?.ms ?? (isRestored && count ? 8 : undefined),
    ttfb: isRestored ? 0 : responseStart! > 0 ? sinceActivation(responseStart!) : undefined,
  };
}

/** The page is hidden. */
export function noteHidden(at: number): void {
  hiddenAt = Math.min(hiddenAt, at);
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
  // A page that is being prerendered is hidden, too, but nobody has seen it yet.
  if (document.hidden && !(document as { prerendering?: boolean }).prerendering) hiddenAt = 0;
  observe("largest-contentful-paint", onPaint);
  observe("layout-shift", onShift);
  observe("first-input", onInteraction);
  observe("event", onInteraction);
}
