// The way of an event: its facts now, the rest of its fields after the next paint, then to the transport.

import type { CollectorBeforeSend, CollectorFields } from "./api";
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
  const event = { ...identify(isPageview), ...readDevice(isPageview), ...facts } as CollectorEvent;
  // Nothing is sent if the page's function fails or is missing, because it may be there to hide something.
  const sent = beforeSend === undefined ? event : hooks[beforeSend]!(event);
  const body = sent?.event_type && JSON.stringify(sent);
  if (body) send(body);
}

const hooks = window as unknown as Record<string, CollectorBeforeSend>;
