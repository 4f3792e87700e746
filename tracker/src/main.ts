// The tracker: reads its tag, puts `window.collector` in place, and watches the page.

// The modules follow in this order in the script. It compresses 30 bytes better than the order of the alphabet.
import type { CollectorCall, CollectorMethods } from "./api";
import { isAuto, siteId, tracksAutomation } from "./options";
import { forget } from "./identity";
import { isAutomated } from "./bots";
import { consentIn, maySend, readConsent, setConsent, setEnabled } from "./consent";
import type { EventType } from "./contract";
import { watchForms } from "./forms";
import { watchCopies } from "./copy";
import { watchClicks } from "./clicks";
import { watchDeadClicks } from "./dead";
import { watchRage } from "./rage";
import { dropWaiting } from "./transport";
import { announce, beginView, trackHere, watchViews } from "./view";
import { listen, safely } from "./listen";

const TYPES =
  "pageview scroll time_on_page cwv exit heartbeat click outbound_link file_download email_click phone_click rage_click dead_click copy form_start form_submit form_abandon form_field form_error heatmap_click";

function consent(answer: boolean): void {
  const isGranted = answer === true; // nothing else is a yes
  setConsent(isGranted);
  if (isGranted) {
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
  disable() {
    setEnabled(false);
    dropWaiting();
  },
  isEnabled: maySend,
};

const { q, consent: isTwice } = (window.collector ?? {}) as { q?: CollectorCall[]; consent?: unknown };

if (!isTwice) {
  // A call that is none is ignored, and those behind it are made.
  const push = safely(([name, ...given]: CollectorCall): void =>
    (methods[name] as (...given: unknown[]) => void)(...given),
  );
  const isOff = !siteId || (isAutomated() && !tracksAutomation);
  if (!siteId) console.warn("collector: no data-site");
  if (isOff) for (const name in methods) methods[name as "isEnabled"] = () => false;
  window.collector = { ...methods, q: { push: (...more) => more.forEach(push) } };
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
