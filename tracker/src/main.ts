// The tracker: reads its tag, puts `window.collector` in place, and watches the page.

import type { CollectorCall, CollectorMethods } from "./api";
import { listen } from "./listen";
import { isAutomated } from "./bots";
import { watchClicks } from "./clicks";
import { consentIn, maySend, readConsent, setConsent, setEnabled } from "./consent";
import type { EventType } from "./contract";
import { watchCopies } from "./copy";
import { watchDeadClicks } from "./dead";
import { watchForms } from "./forms";
import { forget } from "./identity";
import { isAuto, siteId, tracksAutomation } from "./options";
import { watchRage } from "./rage";
import { dropWaiting } from "./transport";
import { announce, beginView, trackHere, watchViews } from "./view";

const TYPES =
  "pageview scroll time_on_page cwv exit heartbeat click outbound_link file_download email_click phone_click rage_click dead_click copy form_start form_submit form_abandon form_field form_error heatmap_click";

function consent(granted: boolean): void {
  setConsent(granted);
  if (granted) {
    announce();
  } else {
    forget();
    dropWaiting();
  }
}

const methods: CollectorMethods = {
  trackPageview: beginView,
  trackEvent(event) {
    const { type, ...fields } = { ...event };
    if (TYPES.split(" ").includes(type)) trackHere(type as EventType, fields);
    else if (type) trackHere("click", { click_element_tag: "custom", click_element_id: `${type}`, ...fields });
  },
  consent,
  enable() {
    setEnabled(true);
    announce();
  },
  disable: () => setEnabled(false),
  isEnabled: maySend,
};

const { q, consent: isTwice } = (window.collector ?? {}) as { q?: CollectorCall[]; consent?: unknown };

if (!isTwice) {
  // A call that is none is ignored, and those behind it are made.
  const push = (call: CollectorCall): void =>
    (methods[call?.[0]] as ((...given: unknown[]) => void) | undefined)?.(...call.slice(1));
  const isOff = !siteId || (isAutomated() && !tracksAutomation);
  if (!siteId) console.warn("collector: no data-site");
  if (isOff) for (const name in methods) methods[name as "isEnabled"] = () => false;
  window.collector = { ...methods, q: { push } };
  if (!isOff) {
    readConsent();
    listen("lynkow:consent:update", ({ detail }: CustomEvent) => {
      const answer = consentIn(detail);
      if (answer !== undefined) consent(answer);
    });
    watchViews();
    if (isAuto) {
      watchRage();
      watchDeadClicks();
      watchClicks();
      watchCopies();
      watchForms();
    }
  }
  q?.forEach(push);
}
