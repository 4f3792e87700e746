// Work that waits until the browser has painted, so that a click or the page's start is not slowed down.

import { safely } from "./listen";

const UNPAINTED_MS = 500; // a page that is hidden, or in a frame out of sight, is not painted

const tasks: (() => void)[] = [];

/** Run the task after the next paint, or in `runAll`, whichever comes first. */
export function soon(task: () => void): void {
  if (tasks.push(task) > 1) return;
  requestAnimationFrame(() => setTimeout(runAll));
  setTimeout(runAll, UNPAINTED_MS);
}

/** Run the waiting tasks now. The page calls it as it is hidden. */
export function runAll(): void {
  for (const task of tasks.splice(0)) safely(task)();
}
