// The way of an event: its facts now, the rest of its fields after the next paint, then to the transport.

import type { CollectorFields } from "./api";
import { maySend } from "./consent";
import type { CollectorEvent, EventType } from "./contract";
import { readDevice } from "./device";
import { identify } from "./identity";
import { beforeSend, isOn } from "./options";
import type { Page } from "./page";
import { soon } from "./schedule";
import { send, takeToken } from "./transport";

/** An event that has happened on a page. `at`: when, in ms since 1970. */
export function track(type: EventType, page: Page, fields: CollectorFields, at = Date.now()): void {
  if (!isOn(type) || !maySend()) return;
  const event = {
    event_type: type,
    event_time: new Date(at).toISOString(),
    ...page,
    visible: !document.hidden,
    ...fields,
  };
  soon(() => finish(event));
}

function finish(facts: CollectorFields & { event_type: EventType }): void {
  // Asked again, because the visitor may have said no meanwhile.
  if (!maySend() || !takeToken()) return;
  const isPageview = facts.event_type === "pageview";
  const event = {
    ...identify(isPageview),
    ...readDevice(isPageview),
    ...facts,
  } as CollectorEvent;
  const sent = beforeSend === undefined ? event : ask(beforeSend, event);
  if (sent) send(JSON.stringify(sent));
}

/** What the page's function makes of an event. Nothing is sent if it fails, because it may be there to hide something. */
function ask(name: string, event: CollectorEvent): CollectorEvent | null {
  try {
    const sent = (window as unknown as Record<string, (event: CollectorEvent) => CollectorEvent | null>)[name]!(event);
    return typeof sent === "object" ? sent : null;
  } catch (error) {
    console.warn(error);
    return null;
  }
}
