// Copied text: that something was copied, and what only where the page has allowed it.

import { describe, findIn, pathFrom, pathOf, UNTOLD } from "./element";
import { listen } from "./listen";
import { tidy } from "./text";
import { trackHere } from "./view";

const MAX_TEXT = 200;

function onCopy(event: Event): void {
  const selection = getSelection();
  // Firefox can select several ranges: none of their text is told.
  const range = selection?.rangeCount === 1 ? selection.getRangeAt(0) : undefined;
  const common = range?.commonAncestorContainer;
  const element = (common instanceof Element ? common : common?.parentElement) ?? pathOf(event)[0]!;
  const path = [...pathOf(event), ...pathFrom(element)];
  const isAllowed =
    range &&
    element.closest("[data-copied-text]") &&
    !findIn(path, UNTOLD) &&
    !range.cloneContents().querySelector(UNTOLD);
  trackHere("copy", {
    ...describe(path, element, false),
    copied_text: isAllowed ? tidy(String(selection), MAX_TEXT) : null,
  });
}

export const watchCopies = (): void => listen("copy", onCopy);
