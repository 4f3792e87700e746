// Work that waits until the browser has painted, so that a click or the page's start is not slowed down.

const tasks: (() => void)[] = [];

/** Run the task after the next paint, or in `runAll`, whichever comes first. */
export function soon(task: () => void): void {
  if (tasks.push(task) > 1) return;
  if (document.hidden)
    setTimeout(runAll); // hidden pages are not painted
  else requestAnimationFrame(() => setTimeout(runAll));
}

/** Run the waiting tasks now. The page calls it as it is hidden. */
export function runAll(): void {
  for (const task of tasks.splice(0)) task();
}
