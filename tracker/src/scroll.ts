// Scrolling: how deep, which marks were crossed, and in which manner.

import type { CollectorFields } from "./api";
import { listen } from "./listen";

const MARKS = [25, 50, 75, 100];
const PAUSE_MS = 150; // scrolling that stops for as long is one step
const FAR = 1.5; // viewports
const MIN_STEP_S = 0.5; // a turn of the wheel moves a third of a viewport at once, and then one reads

let maxDepth = 0;
let marks: number[] = [];

// The steps of this view, and the one under way.
let steps = 0;
let jumps = 0; // far in less than a second
let fast = 0; // faster than FAR viewports a second
let step: Step | undefined;

type Step = { from: number; to: number; begun: number; ended: number };

/** Depth of the viewport's lower edge, in percent of the document. Reads the layout. */
function readDepth(): number {
  const { scrollHeight } = document.documentElement;
  // Positions are fractions of a pixel, so the last pixel counts as the end.
  const share = (scrollY + innerHeight + 1) / Math.max(scrollHeight, document.body?.scrollHeight ?? 0);
  return Math.min(100, Math.floor(share * 100));
}

/** Whether a step is a jump, and whether it is fast. */
function judge({ from, to, begun, ended }: Step): [boolean, boolean] {
  const viewports = Math.abs(to - from) / innerHeight;
  const seconds = (ended - begun) / 1000;
  return [viewports > FAR && seconds < 1, viewports / Math.max(MIN_STEP_S, seconds) > FAR];
}

function endStep(): void {
  if (!step) return;
  const [isJump, isFast] = judge(step);
  steps++;
  jumps += +isJump;
  fast += +isFast;
  step = undefined;
}

/** `jumping`, `skimming` or `reading`; null if nothing was scrolled. */
export function readBehavior(): CollectorFields["scroll_behavior"] {
  const [isJump, isFast] = step ? judge(step) : [false, false];
  const all = steps + (step ? 1 : 0);
  if (!all) return null;
  return (jumps + +isJump) / all > 0.3 ? "jumping" : (fast + +isFast) / all > 0.5 ? "skimming" : "reading";
}

/** The present depth and the greatest of this view, in percent. */
export function readScroll(): { scroll_depth: number; max_scroll_depth: number } {
  const depth = readDepth();
  maxDepth = Math.max(maxDepth, depth);
  return { scroll_depth: depth, max_scroll_depth: maxDepth };
}

export function restartScroll(): void {
  maxDepth = steps = jumps = fast = 0;
  marks = [...MARKS];
  step = undefined;
}

/** Call back with each mark that is crossed for the first time in a view. */
export function watchScroll(onMark: (mark: number) => void): void {
  let isWaiting = false;
  let lastY = scrollY;
  const onScroll = (event: Event): void => {
    if (event.target !== document) return;
    const now = performance.now();
    if (step && now - step.ended > PAUSE_MS) endStep();
    step ??= { from: lastY, to: lastY, begun: now, ended: now };
    lastY = step.to = scrollY;
    step.ended = now;
    if (isWaiting) return;
    isWaiting = true;
    // Once a frame, when the layout is known anyway.
    requestAnimationFrame(() => {
      isWaiting = false;
      const { max_scroll_depth } = readScroll();
      while (marks.length && marks[0]! <= max_scroll_depth) onMark(marks.shift()!);
    });
  };
  listen("scroll", onScroll);
}
