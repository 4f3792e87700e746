// Scrolling: how deep, which marks were crossed, and in which manner.

import type { CollectorFields } from "./api";
import { listen } from "./listen";
import { soon } from "./schedule";

const MARKS = [25, 50, 75, 100];
const PAUSE_MS = 150; // scrolling that stops for as long is one step
const FAR = 1.5; // viewports
const MIN_STEP_S = 0.5; // a turn of the wheel moves a third of a viewport at once, and then one reads

let maxDepth = 0;
let marksLeft: number[] = [];

// The steps of this view that are over, and those of them that were jumps, or fast.
let steps = 0;
let jumps = 0;
let fasts = 0;
// The step under way.
let viewports = 0;
let begunAt = 0;
let endedAt = 0; // 0: there is none
let lastY = 0;

const isJump = (): number => +(viewports > FAR && endedAt - begunAt < 1000);
const isFast = (): number => +(viewports / Math.max(MIN_STEP_S, (endedAt - begunAt) / 1000) > FAR);

/** `jumping`, `skimming` or `reading`; null if nothing was scrolled. */
export function readBehavior(): CollectorFields["scroll_behavior"] {
  if (!endedAt) return null;
  const all = steps + 1;
  return (jumps + isJump()) / all > 0.3 ? "jumping" : (fasts + isFast()) / all > 0.5 ? "skimming" : "reading";
}

/** The depth of the viewport's lower edge, and its maximum in this view, in percent of the page. Reads the layout. */
export function readScroll(): { scroll_depth: number; max_scroll_depth: number } {
  const height = Math.max(document.documentElement.scrollHeight, document.body?.scrollHeight ?? 0);
  // Positions are fractions of a pixel, so the last pixel counts as the end.
  const depth = Math.min(100, Math.floor(((scrollY + innerHeight + 1) / height) * 100));
  maxDepth = Math.max(maxDepth, depth);
  return { scroll_depth: depth, max_scroll_depth: maxDepth };
}

export function restartScroll(): void {
  maxDepth = steps = jumps = fasts = endedAt = 0;
  marksLeft = [...MARKS];
}

/** Call back with each mark that is crossed for the first time in a view. */
export function watchScroll(onMark: (mark: number) => void): void {
  soon(() => (lastY = scrollY)); // after paint: now it would lay out the page
  listen("scroll", (event: Event) => {
    if (event.target !== document) return;
    // No visitor begins with a scroll to the top: an app did, which shows a new page there.
    if (!endedAt && !scrollY) return void (lastY = 0);
    const now = performance.now();
    if (now - endedAt > PAUSE_MS) {
      if (endedAt) {
        steps++;
        jumps += isJump();
        fasts += isFast();
      }
      viewports = 0;
      begunAt = now;
    }
    viewports += Math.abs(scrollY - lastY) / innerHeight;
    lastY = scrollY;
    endedAt = now;
    const { max_scroll_depth } = readScroll();
    while (marksLeft[0]! <= max_scroll_depth) onMark(marksLeft.shift()!);
  });
}
