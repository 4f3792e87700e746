// Who: the visitor and the session, from cookies, or from a hash if there may be no cookies.

import type { CollectorFields } from "./api";
import { mayStore } from "./consent";
import { siteId } from "./options";
import { isHere } from "./page";

const VISITOR = "_cvid";
const SESSION = "_csid"; // `<id>.`, and `<id>.1` once the session has a pageview
const VISITOR_S = 395 * 86_400; // browsers cap cookies at 400 days
const SESSION_S = 1_800;
const RENEWED_MS = 1_000; // setting a cookie takes 1 to 2 ms, so bursts of events renew them once

let domain: string | undefined; // the attribute, empty for the host alone; undefined: not known yet
let renewedAt = 0;
let seen: CollectorFields["visitor_id_source"]; // of the last pageview of this document

/** The value of a cookie; empty if there is none, or one that is none of ours. */
const read = (name: string): string =>
  new RegExp(`(?:^|; )${name}=([\\w.-]{8,64})(?:;|$)`).exec(document.cookie)?.[1] ?? "";

function write(name: string, value: string, maxAgeS: number, attribute = domain): void {
  const secure = location.protocol === "https:" ? ";secure" : "";
  document.cookie = `${name}=${value};path=/;max-age=${maxAgeS};samesite=lax${secure}${attribute}`;
}

/** Find the widest domain that the browser lets this page set cookies for: `www.` and the bare host share them. */
function findDomain(): void {
  const labels = location.hostname.split(".");
  domain ??= labels
    .map((_, at) => `;domain=${labels.slice(at).join(".")}`)
    .reverse()
    .find((attribute) => {
      write("_cdom", "probing-", 9, attribute);
      const isSet = read("_cdom");
      write("_cdom", "", 0, attribute);
      return isSet;
    });
  domain ??= "";
}

const randomId = (): string =>
  // Only pages over HTTPS have randomUUID.
  crypto.randomUUID?.() ?? crypto.getRandomValues(new Uint32Array(4)).join("-");

/** 64 bits as 16 hexadecimal digits: the 32-bit FNV-1a hash of the text, then of the text behind it. */
function hash(text: string): string {
  let bits = 0x811c9dc5;
  const more = (): string => {
    for (const character of text) bits = Math.imul(bits ^ character.charCodeAt(0), 0x01000193);
    return (bits >>> 0).toString(16).padStart(8, "0");
  };
  return more() + more();
}

/** The ids from the cookies, which are made or renewed. Throws in a sandboxed frame, which has no cookies. */
function identifyByCookie(isPageview: boolean): CollectorFields | undefined {
  const visitor = read(VISITOR) || randomId();
  const [known, before] = read(SESSION).split(".");
  const session = known || randomId();
  // A visit that began without a cookie has had its entry.
  const hadPageview = before || (!known && seen === "fingerprint" ? "1" : "");
  const has = isPageview ? "1" : hadPageview;
  if (read(VISITOR) !== visitor || has !== before || Date.now() - renewedAt > RENEWED_MS) {
    findDomain();
    write(VISITOR, visitor, VISITOR_S);
    write(SESSION, `${session}.${has}`, SESSION_S);
    renewedAt = Date.now();
    if (read(VISITOR) !== visitor) return undefined; // cookies are blocked
  }
  return {
    session_id: session,
    visitor_id: visitor,
    cookie_visitor_id: visitor,
    visitor_id_source: "cookie",
    ...(isPageview && { is_entry: !hadPageview }),
  };
}

/** Ids from what the browser says of itself anyway, the site and the UTC day. Thousands of visitors share them. */
function identifyByFingerprint(isPageview: boolean): CollectorFields {
  const { hardwareConcurrency, languages, userAgent } = navigator;
  const day = Math.floor(Date.now() / 86_400_000);
  const zone = new Date().getTimezoneOffset();
  const id = hash([siteId, day, userAgent, languages, screen.width, screen.height, zone, hardwareConcurrency].join());
  // Without cookies, nobody can know whether a visit begins. It seems so if the visitor comes from elsewhere.
  const [navigation] = performance.getEntriesByType("navigation") as PerformanceNavigationTiming[];
  const isEntry = !seen && !isHere(document.referrer) && navigation?.type !== "reload";
  return {
    session_id: `d-${id}`,
    visitor_id: id,
    cookie_visitor_id: null,
    visitor_id_source: "fingerprint",
    ...(isPageview && { is_entry: isEntry }),
  };
}

/** The ids of an event, and `is_entry` of a pageview. */
export function identify(isPageview: boolean): CollectorFields {
  let ids: CollectorFields | false | undefined;
  try {
    ids = mayStore() && identifyByCookie(isPageview);
  } catch {
    // The hash needs no storage.
  }
  ids ||= identifyByFingerprint(isPageview);
  if (isPageview) seen = ids.visitor_id_source;
  return ids;
}

/** Delete the cookies. */
export function forget(): void {
  try {
    findDomain();
    for (const name of [VISITOR, SESSION]) for (const attribute of ["", domain]) write(name, "", 0, attribute);
  } catch {
    // There are none.
  }
}
