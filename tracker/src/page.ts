// The page: its address, and where its visitor came from.

import type { CollectorFields } from "./api";
import type { CollectorEvent } from "./contract";
import { keepsQuery, spa } from "./options";
import { cut, maskEmails } from "./text";

/** The address of a page, as all its events have it. */
export type Page = { page_url?: string; page_path: string };

type Source = CollectorEvent["traffic_source"];

/** The address without what may be private: the fragment, and the query but for utm_ parameters. */
export function readPage(): Page {
  // The path of a `data:` page is its content, that of a file says who its owner is.
  const address = bare(location.href);
  if (!address) return { page_path: "/" };
  const { hash, pathname, search } = location;
  const query = search
    .slice(1)
    .split("&")
    .filter((each) => keepsQuery || each.startsWith("utm_"))
    .join("&");
  const asked = query && `?${query}`;
  const route = spa === "hash" ? (/^#!?\/[^?&]*/.exec(hash)?.[0] ?? "") : "";
  return {
    page_url: cut(address + asked + route, 2048),
    page_path: cut(pathname + (spa === "search" ? asked : "") + route, 1024),
  };
}

/** What has to change for a new page of a single-page app. */
export const readKey = (): string =>
  location.pathname + (spa === "search" ? location.search : spa === "hash" ? location.hash : "");

/** A URL without user, query and fragment; null if it is not of the web. */
export function bare(url: string): string | null {
  try {
    const { origin, pathname, protocol } = new URL(url, document.baseURI);
    return protocol.startsWith("http") ? origin + pathname : null;
  } catch {
    return null;
  }
}

const hostOf = (url: string): string | null => url.split("/")[2]?.replace(/^www\./, "") ?? null;

// Hosts that bring visitors, without `www.`
const SOURCES: [Source, RegExp][] = [
  ["email", /^(.*\.)?(mail|outlook|webmail)\./],
  ["ai", /chatgpt|openai|perplexity|claude\.ai|gemini\.google|copilot|deepseek/],
  ["organic", /^(.*\.)?search\.|^(google|bing|duckduckgo|yahoo|yandex|baidu|ecosia|qwant|naver)\./],
  [
    "social",
    /^(.*\.)?(facebook|instagram|threads|twitter|x|t|linkedin|lnkd|reddit|pinterest|youtube|tiktok|whatsapp|bsky)\.(com?|in|net|app)$/,
  ],
];
const MEDIUMS: [Source, RegExp][] = [
  ["paid", /^(cp[acmv]|ppc|paid|display|banner|ads?$)/i],
  ["email", /mail|newsletter/i],
  ["social", /social/i],
  ["organic", /organic/i],
  ["referral", /referral|affiliate/i],
];
const PAID_CLICK = /^(g|dc|ms|tt|tw)clid$|^[gw]braid$/;

const firstMatch = (table: [Source, RegExp][], text: string | null): Source | undefined =>
  table.find(([, like]) => text && like.test(text))?.[0];

const UTM = ["utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content"] as const;
let campaign: CollectorFields | undefined; // of this document; its later pages keep it

/** Where the visitor came from: referrer, campaign, and the kind of source. */
export function readSource(referrer: string): CollectorFields {
  const host = hostOf(referrer);
  let source: Source | undefined =
    host === null ? "direct" : host === hostOf(location.href) ? "internal" : firstMatch(SOURCES, host);
  if (!campaign) {
    const query = new URLSearchParams(location.search);
    campaign = {};
    for (const name of UTM) if (query.get(name)) campaign[name] = cut(maskEmails(query.get(name)!), 255);
    const isPaid = [...query.keys()].some((name) => PAID_CLICK.test(name));
    source = firstMatch(MEDIUMS, query.get("utm_medium")) ?? (isPaid ? "paid" : source);
  }
  return {
    ...campaign,
    page_referrer: referrer ? bare(referrer) : null,
    referrer_domain: host,
    traffic_source: source ?? "referral",
  };
}

/** The page's title. */
export const readTitle = (): string => cut(maskEmails(document.title), 500);
