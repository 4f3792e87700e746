// Transport: one event a request, as text, which needs no preflight. One request at a time, so that order is kept.
//
// Events that the collector cannot take now wait, at most MAX_WAITING of them. A page that goes wild is stopped by a
// token bucket of its own.

import { endpoint } from "./options";

const MAX_WAITING = 50;
const BURST = 120;
const REFILL_PER_S = 2;
const FIRST_PAUSE_S = 2; // after a failure; doubled with each more, up to
const LONGEST_PAUSE_S = 120;
const TIMEOUT_MS = 10_000; // WebKit's requests hang when a download begins

const waiting: string[] = [];
let underWay: string | undefined; // the one whose answer is awaited
let isSending = false;
let timer: ReturnType<typeof setTimeout> | undefined; // set during a pause
let isOrdered = false; // whether the collector has said how long the pause is
let failures = 0;
let isLeaving = false;

let tokens = BURST;
let filledAt = 0;

/** Take a token for an event. False if the page sends too many. */
export function takeToken(): boolean {
  const now = performance.now();
  tokens = Math.min(BURST, tokens + ((now - filledAt) / 1000) * REFILL_PER_S);
  filledAt = now;
  return tokens >= 1 && !!tokens--;
}

/** From now on the page may go at any moment: send by beacon. False: it has come back. */
export function setLeaving(value: boolean): void {
  isLeaving = value;
}

/** Send an event, or let it wait. */
export function send(body: string): void {
  waiting.push(body);
  if (waiting.length > MAX_WAITING) waiting.shift();
  if (!isLeaving) void next();
  else if (!timer && navigator.onLine) sendWaiting();
}

/** Send what waits by beacon, as the page goes, unless the collector has said to wait. A request survives the page. */
export function sendWaiting(): void {
  while (!isOrdered && waiting.length && navigator.sendBeacon?.(endpoint, waiting[0])) waiting.shift();
}

/** Drop what waits, and do not repeat what is under way. */
export function dropWaiting(): void {
  waiting.length = 0;
  underWay = undefined;
}

/** Try again, unless the collector has said to wait longer. */
export function resumeEarly(): void {
  if (!isOrdered) resume();
}

function resume(): void {
  clearTimeout(timer);
  timer = undefined;
  isOrdered = false;
  void next();
}

/** Send the first that waits, and then the others. */
async function next(): Promise<void> {
  if (isSending || timer || !waiting.length) return;
  isSending = true;
  underWay = waiting.shift();
  let pauseS = 0;
  try {
    const { status, headers } = await fetch(endpoint, {
      method: "POST",
      body: underWay,
      keepalive: true,
      credentials: "omit",
      signal: AbortSignal.timeout?.(TIMEOUT_MS),
    });
    if (status === 429 || status === 503) pauseS = Number(headers.get("Retry-After")) || -1;
  } catch {
    pauseS = -1; // no answer: offline, or the collector is down, or a blocker has stopped it
  }
  isSending = false;
  if (!pauseS) {
    failures = 0;
    return next();
  }
  isOrdered = pauseS > 0;
  if (!isOrdered) pauseS = Math.min(FIRST_PAUSE_S * 2 ** failures++, LONGEST_PAUSE_S);
  if (underWay && waiting.length < MAX_WAITING) waiting.unshift(underWay); // else it is the oldest
  // Longer pauses than a month would overflow the timer.
  timer = setTimeout(resume, Math.min(pauseS, 2e6) * 1000);
}
