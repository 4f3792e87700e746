// Who: the visitor and the session, from cookies, or from a hash if there may be no cookies.

import { mayStore } from "./consent";
import type { CollectorFields } from "./api";
import { siteId } from "./options";

const VISITOR = "_cvid";
const SESSION = "_csid"; // `<id>.`, and `<id>.1` once the session has a pageview
const VISITOR_S = 395 * 86_400; // browsers cap cookies at 400 days
const SESSION_S = 1_800;
const RENEWED_MS = 1_000; // setting a cookie takes 1 to 2 ms, so bursts of events renew them once

let domain: string | undefined; // the attribute, empty for the host alone; undefined: not known yet
let renewedAt = 0;
let isSeen = false; // whether a pageview was sent without a cookie

function read(name: string): string {
  try {
    return new RegExp(`(?:^|; )${name}=([\\w.-]+)`).exec(document.cookie)?.[1] ?? "";
  } catch {
    return ""; // a sandboxed frame throws
  }
}

function write(name: string, value: string, maxAge: number, attribute: string): void {
  const secure = location.protocol === "https:" ? ";secure" : "";
  try {
    document.cookie = `${name}=${value};path=/;max-age=${maxAge};samesite=lax${secure}${attribute}`;
  } catch {
    // As above. The caller looks whether it is there.
  }
}

/** The widest domain that the browser lets this page set cookies for, so that `www.` and the bare host share them. */
function findDomain(): string {
  const labels = location.hostname.split(".");
  for (let at = labels.length - 1; at-- > 0;) {
    const attribute = `;domain=${labels.slice(at).join(".")}`;
    write("_cdom", "1", 9, attribute);
    const isSet = read("_cdom");
    write("_cdom", "", 0, attribute);
    if (isSet) return attribute;
  }
  return "";
}

const randomId = (): string =>
  // Only pages over HTTPS have randomUUID.
  crypto.randomUUID?.() ??
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** 64 bits as 16 hexadecimal digits: two 32-bit FNV-1a hashes with different starts. */
function hash(text: string): string {
  const half = (start: number): string => {
    let bits = start;
    for (let at = 0; at < text.length; at++) bits = Math.imul(bits ^ text.charCodeAt(at), 0x01000193);
    bits = Math.imul(bits ^ (bits >>> 15), 0x2c1b3c6d);
    return ((bits ^ (bits >>> 13)) >>> 0).toString(16).padStart(8, "0");
  };
  return half(0x811c9dc5) + half(0x1b873593);
}

/** What the browser says of itself anyway, with the site and the UTC day. Thousands of visitors share a value. */
const fingerprint = (): string =>
  hash(
    [
      siteId,
      Math.floor(Date.now() / 86_400_000),
      navigator.userAgent,
      navigator.languages,
      screen.width,
      screen.height,
      new Date().getTimezoneOffset(),
      navigator.hardwareConcurrency,
    ].join(),
  );

/** Whether a visit seems to begin with this document. Without cookies, nobody can know. */
function comesFromElsewhere(): boolean {
  const [navigation] = performance.getEntriesByType("navigation") as PerformanceNavigationTiming[];
  const isHere = document.referrer.split("/")[2] === location.host;
  return !isSeen && !isHere && (navigation?.type ?? "navigate") === "navigate";
}

/** The ids of an event, and `is_entry` of a pageview. Renews the cookies. */
export function identify(isPageview: boolean): CollectorFields {
  if (mayStore()) {
    const visitor = /^[\w-]{8,64}$/.exec(read(VISITOR))?.[0] ?? randomId();
    const [known, before] = read(SESSION).split(".");
    const session = known || randomId();
    // A visit that began without a cookie has had its entry.
    const hadPageview = before || (!known && isSeen ? "1" : "");
    const has = isPageview ? "1" : hadPageview;
    if (read(VISITOR) !== visitor || !known || has !== before || Date.now() - renewedAt > RENEWED_MS) {
      domain ??= findDomain();
      write(VISITOR, visitor, VISITOR_S, domain);
      write(SESSION, `${session}.${has}`, SESSION_S, domain);
      renewedAt = Date.now();
    }
    if (read(VISITOR) === visitor) {
      return {
        session_id: session,
        visitor_id: visitor,
        cookie_visitor_id: visitor,
        visitor_id_source: "cookie",
        ...(isPageview && { is_entry: !hadPageview }),
      };
    }
  }
  const id = fingerprint();
  const isEntry = comesFromElsewhere();
  isSeen ||= isPageview;
  return {
    session_id: `d-${id}`,
    visitor_id: id,
    cookie_visitor_id: null,
    visitor_id_source: "fingerprint",
    ...(isPageview && { is_entry: isEntry }),
  };
}

/** Delete the cookies. */
export function forget(): void {
  domain ??= findDomain();
  for (const name of [VISITOR, SESSION]) for (const attribute of ["", domain]) write(name, "", 0, attribute);
}
