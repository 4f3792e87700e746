// Transport: one event a request, as text, which needs no preflight.
//
// Events that the collector cannot take now wait here, at most MAX_WAITING. Then one is sent at a time, until all
// are gone. A page that goes wild is stopped by a token bucket of its own.

import { endpoint } from "./options";

const MAX_WAITING = 50;
const BURST = 120;
const REFILL_PER_S = 2;
const FIRST_PAUSE_S = 2; // after a failure; doubled with each more, up to
const LONGEST_PAUSE_S = 120;
const TIMEOUT_MS = 30_000;

const waiting: string[] = [];
let timer: ReturnType<typeof setTimeout> | undefined; // set while sending is paused
let mayResumeEarly = true; // false if the collector has said how long to wait
let isDraining = false;
let failures = 0;
let isLeaving = false;

let tokens = BURST;
let filledAt = performance.now();

/** Take a token for an event. False if the page sends too many. */
export function takeToken(): boolean {
  const now = performance.now();
  tokens = Math.min(BURST, tokens + ((now - filledAt) / 1000) * REFILL_PER_S);
  filledAt = now;
  if (tokens < 1) return false;
  tokens--;
  return true;
}

/** From now on the page may go at any moment: send by beacon. False: it has come back. */
export function setLeaving(value: boolean): void {
  isLeaving = value;
}

/** Send an event, or let it wait. */
export function send(body: string): void {
  if (isLeaving) {
    if (!mayBeacon() || !beacon(body)) wait(body);
  } else if (timer || isDraining) {
    wait(body);
  } else {
    void post(body);
  }
}

/** Send what waits by beacon, as the page goes. */
export function sendWaiting(): void {
  while (waiting.length && mayBeacon() && beacon(waiting[0]!)) waiting.shift();
}

/** Drop what waits. */
export function dropWaiting(): void {
  waiting.length = 0;
}

const mayBeacon = (): boolean => !timer || mayResumeEarly;

function beacon(body: string): boolean {
  try {
    return navigator.sendBeacon(endpoint, body);
  } catch {
    return false; // the page has replaced it, or its policy forbids it
  }
}

function wait(body: string): void {
  waiting.push(body);
  if (waiting.length > MAX_WAITING) waiting.shift();
}

async function post(body: string): Promise<void> {
  let pauseS = Math.min(FIRST_PAUSE_S * 2 ** failures, LONGEST_PAUSE_S);
  let isOrdered = false;
  try {
    const { status, headers } = await fetch(endpoint, {
      method: "POST",
      body,
      keepalive: true,
      credentials: "omit",
      signal: AbortSignal.timeout?.(TIMEOUT_MS),
    });
    if (status !== 429 && status !== 503) {
      failures = 0;
      next();
      return;
    }
    const after = headers.get("Retry-After");
    const orderedS = Number(after) || (Date.parse(after ?? "") - Date.now()) / 1000;
    if (orderedS > 0) {
      pauseS = orderedS;
      isOrdered = true;
    }
  } catch {
    // No answer: offline, or the collector is down, or a blocker has stopped it.
  }
  if (!timer) failures++;
  if (waiting.length < MAX_WAITING) waiting.unshift(body); // else it is the oldest
  pause(pauseS, isOrdered);
}

function pause(seconds: number, isOrdered: boolean): void {
  isDraining = false;
  // Several events may fail together. The longest order counts.
  if (timer && !mayResumeEarly && !isOrdered) return;
  clearTimeout(timer);
  mayResumeEarly = !isOrdered;
  timer = setTimeout(resume, Math.min(seconds * 1000, 2 ** 31 - 1));
}

/** Try again, unless the collector has said to wait longer. */
export function resumeEarly(): void {
  if (timer && mayResumeEarly) resume();
}

function resume(): void {
  clearTimeout(timer);
  timer = undefined;
  mayResumeEarly = true;
  next();
}

function next(): void {
  const body = timer ? undefined : waiting.shift();
  isDraining = body !== undefined;
  if (body !== undefined) void post(body);
}
