// Engaged time: while the page is visible and has the focus, and less than 30 s after the last input.

import { listen } from "./listen";

const IDLE_MS = 30_000;

let startedAt = 0; // of the view, as performance.now()
let engagedMs = 0; // up to `countedAt`
let countedAt = 0;
let inputAt = 0;
let isActive = false; // visible and focused

let beat: (() => void) | undefined; // called when the engaged time reaches `beatMs`
let beatMs = 0;
let timer: ReturnType<typeof setTimeout> | undefined;

/** Add the time since it was last counted. */
function count(): void {
  const now = performance.now();
  if (isActive) engagedMs += Math.max(0, Math.min(now, inputAt + IDLE_MS) - countedAt);
  countedAt = now;
}

function look(): void {
  count();
  isActive = !document.hidden && document.hasFocus();
  arm();
}

function onInput(): void {
  const now = performance.now();
  // Firefox tells nobody that a restored page has the focus again, or one whose frame has it.
  const wasIdle = !isActive || now - inputAt > IDLE_MS;
  if (wasIdle) count();
  inputAt = now;
  if (wasIdle) look();
}

/** Set the timer for the next beat, if the time goes on. */
function arm(): void {
  clearTimeout(timer);
  if (!isActive || !beat) return;
  timer = setTimeout(
    () => {
      count();
      if (engagedMs >= beatMs) beat?.();
      else if (performance.now() - inputAt < IDLE_MS) arm();
    },
    Math.max(0, beatMs - engagedMs) + 1,
  );
}

/** Begin to count for a new view. */
export function restartEngagement(): void {
  startedAt = countedAt = inputAt = performance.now();
  engagedMs = 0;
  look();
}

/** Call back once the engaged time has reached `ms`. */
export function whenEngaged(ms: number, callback: () => void): void {
  beatMs = ms;
  beat = callback;
  arm();
}

/** Seconds since the view began, and those of them that were engaged. Rounded down, so that the first is never less. */
export function readTimes(): { time_on_page: number; engaged_time: number } {
  count();
  const seconds = (ms: number): number => Math.floor(ms) / 1000;
  return { time_on_page: seconds(performance.now() - startedAt), engaged_time: seconds(engagedMs) };
}

export function watchEngagement(): void {
  listen("pointerdown pointermove keydown scroll wheel touchstart", onInput);
  listen("focus blur visibilitychange", look);
}
