// Copied text: that something was copied, and what only where the page has allowed it.

import { describe, isPrivate, pathOf, UNTOLD } from "./element";
import { listen } from "./listen";
import { tidy } from "./text";
import { trackHere } from "./view";

const MAX_TEXT = 200;

function onCopy(event: Event): void {
  const path = pathOf(event);
  const selection = getSelection();
  const range = selection?.rangeCount ? selection.getRangeAt(0) : undefined;
  const common = range?.commonAncestorContainer;
  const element = (common instanceof Element ? common : common?.parentElement) ?? path[0];
  const isAllowed =
    element?.closest("[data-copied-text]") &&
    !element.closest(UNTOLD) &&
    !document.activeElement?.matches("input,textarea") &&
    !range?.cloneContents().querySelector(UNTOLD);
  trackHere("copy", {
    ...(!isPrivate(path) && !element?.closest("[data-private]") && describe(path, element, false)),
    copied_text: isAllowed ? tidy(String(selection), MAX_TEXT) : null,
  });
}

export const watchCopies = (): void => listen("copy", onCopy);
