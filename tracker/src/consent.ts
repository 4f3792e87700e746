// Consent: whether events may be sent, and whether cookies may be set.

import { consentMode } from "./options";

const OWN = "_collector_consent"; // localStorage; the answer that the page gave last, where it has to be remembered
const LYNKOW = "_lkw_consent"; // localStorage; written by consent managers of the contract's vendor

const stored = (name: string): unknown => {
  try {
    return JSON.parse(localStorage.getItem(name)!);
  } catch {
    return null; // storage is blocked, or holds something else
  }
};

/** The first boolean `analytics` of an object, at the top or one level below. */
function findAnalytics(value: unknown): boolean | undefined {
  const objects = [value, ...Object.values(value ?? {})] as ({ analytics?: unknown } | null)[];
  return objects.map((each) => each?.analytics).find((each) => typeof each === "boolean") as boolean | undefined;
}

let granted: boolean | undefined;
let isEnabled = true;

/** Read the answer that the visitor gave on an earlier page. */
export function readConsent(): void {
  const own = stored(OWN);
  const lynkow = findAnalytics(stored(LYNKOW));
  granted = own === false ? own : (lynkow ?? (own === true || undefined)); // a refusal counts, whoever heard it
}

/** The answer in an event of a consent manager, or in its storage. */
export const consentIn = (detail: unknown): boolean | undefined =>
  findAnalytics(detail) ?? findAnalytics(stored(LYNKOW));

/** Take the visitor's answer. It is remembered if it differs from what would happen without it. */
export function setConsent(answer: boolean): void {
  granted = answer;
  try {
    if (answer || consentMode === "none") localStorage.setItem(OWN, String(answer));
    else localStorage.removeItem(OWN);
  } catch {
    // Storage is blocked. The answer holds for this page.
  }
}

export const setEnabled = (value: boolean): void => {
  isEnabled = value;
};

/** Whether events may be sent. Nobody has seen a page that is being prerendered. */
export const maySend = (): boolean =>
  isEnabled &&
  !(document as { prerendering?: boolean }).prerendering &&
  (granted === true || /^(none|cookieless)$/.test(consentMode));

/** Whether cookies may be set. Without an answer: yes in the mode `none`, unless the browser says no (GPC). */
export const mayStore = (): boolean =>
  granted ?? (consentMode === "none" && !(navigator as { globalPrivacyControl?: boolean }).globalPrivacyControl);
