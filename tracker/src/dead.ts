// Dead clicks: on something that acts, and then nothing happens. Observers run only while a click waits for its effect.

import type { CollectorFields } from "./api";
import { BUTTON_INPUTS, hrefOf, LINK } from "./element";
import { listen } from "./listen";
import { endpoint } from "./options";
import { onLeave, trackHere } from "./view";

const WAIT_MS = 2500;

/** What acts without anything to see from here: fields, and choices, whose lists are drawn by the browser. */
const QUIET = `textarea,select,label,input:not(${BUTTON_INPUTS})`;

const EFFECTS =
  "scroll focusin focusout blur visibilitychange popstate hashchange input change submit formdata reset invalid toggle play copy";

const waiting = new Map<Element, ReturnType<typeof setTimeout>>();
let watching = new AbortController();

const mutations = new MutationObserver(stop);
const requests = new PerformanceObserver((list) => {
  // Our own requests, and the beacons of others, are no effect.
  const isEffect = ({ name, initiatorType }: PerformanceResourceTiming): boolean =>
    !name.startsWith(endpoint) && initiatorType !== "beacon";
  if ((list.getEntries() as PerformanceResourceTiming[]).some(isEffect)) stop();
});

/** The Navigation API: it tells of navigations whose page is not here yet. Without it, elements may be called so. */
const navigation = (window as { navigation?: EventTarget }).navigation;

/** The page reacts, so no click that waits is dead. */
function stop(): void {
  for (const timer of waiting.values()) clearTimeout(timer);
  waiting.clear();
  unwatch();
}

function onSelection(): void {
  // A click ends a selection without any effect of the page's.
  if (getSelection()?.isCollapsed === false) stop();
}

function watch(path: Element[]): void {
  // The observer does not see into shadow roots, so each on the way is watched too.
  for (const root of new Set([document, ...path.map((element) => element.getRootNode())])) {
    mutations.observe(root, { subtree: true, childList: true, attributes: true, characterData: true });
  }
  if (waiting.size) return;
  watching = new AbortController();
  const { signal } = watching;
  requests.observe({ type: "resource" });
  listen(EFFECTS, stop, signal);
  listen("selectionchange", onSelection, signal);
  navigation?.addEventListener?.("navigate", stop, { signal });
}

function unwatch(): void {
  mutations.disconnect();
  requests.disconnect();
  watching.abort();
}

/** A link that the browser follows acts, however long the next page takes. */
function isFollowed(event: Event, link: Element): boolean {
  return link.matches(LINK) && !event.defaultPrevented && !/^(#|javascript:|$)/.test(hrefOf(link));
}

/** Wait for an effect of the click. Called before the page's own listeners. */
export function watchForEffect(event: MouseEvent, path: Element[], acting: Element, facts: CollectorFields): void {
  // With a key held down, links open elsewhere.
  if (event.ctrlKey || event.metaKey || event.shiftKey || acting.matches(QUIET) || waiting.has(acting)) return;
  const at = Date.now();
  watch(path);
  waiting.set(
    acting,
    setTimeout(() => {
      waiting.delete(acting);
      if (!waiting.size) unwatch();
      if (!isFollowed(event, acting)) trackHere("dead_click", facts, at);
    }, WAIT_MS),
  );
}

export const watchDeadClicks = (): void => onLeave(stop);
