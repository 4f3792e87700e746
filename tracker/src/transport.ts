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

const waiting: string[] = []; // the first one is on its way if `isSending`
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
  if (waiting.length > MAX_WAITING) waiting.splice(+isSending, 1);
  if (!isLeaving) void next();
  else if (!timer && navigator.onLine) sendWaiting();
}

/** Send what waits by beacon, as the page goes, unless the collector has said to wait. */
export function sendWaiting(): void {
  // A request under way survives the page.
  while (!isOrdered && waiting.length > +isSending && navigator.sendBeacon?.(endpoint, waiting[+isSending])) {
    waiting.splice(+isSending, 1);
  }
}

/** Drop what waits. */
export function dropWaiting(): void {
  waiting.length = 0;
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
  const [body] = waiting;
  if (isSending || timer || !body) return;
  isSending = true;
  let pauseS = Math.min(FIRST_PAUSE_S * 2 ** failures++, LONGEST_PAUSE_S);
  try {
    const { status, headers } = await fetch(endpoint, {
      method: "POST",
      body,
      keepalive: true,
      credentials: "omit",
      signal: AbortSignal.timeout?.(TIMEOUT_MS),
    });
    if (status === 429 || status === 503) {
      const orderedS = Number(headers.get("Retry-After"));
      isOrdered = orderedS > 0;
      if (isOrdered) pauseS = orderedS;
    } else {
      failures = pauseS = 0;
      if (waiting[0] === body) waiting.shift();
    }
  } catch {
    // No answer: offline, or the collector is down, or a blocker has stopped it.
  }
  isSending = false;
  // Longer pauses than a month would overflow the timer.
  if (pauseS) timer = setTimeout(resume, Math.min(pauseS, 2e6) * 1000);
  else void next();
}
