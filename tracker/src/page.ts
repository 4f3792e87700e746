// The page: its address, and where its visitor came from.

import type { CollectorFields } from "./api";
import type { CollectorEvent } from "./contract";
import { keepsQuery, spa } from "./options";
import { cut, maskEmails } from "./text";

/** The address of a page, as all its events have it. */
export type Page = { page_url?: string; page_path: string };

type Source = CollectorEvent["traffic_source"];

const isWeb = (): boolean => location.protocol.startsWith("http");

/** The address without what may be private: the fragment, and the query but for utm_ parameters. */
export function readPage(): Page {
  // The path of a `data:` page is its content, that of a file says who its owner is.
  if (!isWeb()) return { page_path: "/" };
  const query = keepsQuery ? location.search.slice(1) : location.search.slice(1).split("&").filter(isUtm).join("&");
  const route = spa === "hash" ? (/^#!?\/[^?&]*/.exec(location.hash)?.[0] ?? "") : "";
  const path = location.pathname + (spa === "search" && query ? `?${query}` : "") + route;
  return {
    page_url: cut(location.origin + location.pathname + (query && `?${query}`) + route, 2048),
    page_path: cut(path, 1024),
  };
}

const isUtm = (parameter: string): boolean => parameter.startsWith("utm_");

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

// Hosts that bring visitors. Each word is matched at the beginning of a label of the host.
const SOURCES: [Source, RegExp][] = [
  ["email", /(^|\.)(mail|outlook|webmail|gmx|proton)\./],
  [
    "ai",
    /(^|\.)(chatgpt|openai|perplexity|claude|gemini|copilot|chat|deepseek|you|phind|mistral|grok|meta)\.(com|ai|google\.com|microsoft\.com|deepseek\.com|mistral\.ai)$/,
  ],
  ["organic", /(^|\.)(google|bing|duckduckgo|yahoo|yandex|baidu|ecosia|qwant|startpage|naver|seznam|search)\./],
  [
    "social",
    /(^|\.)(facebook|instagram|threads|twitter|x|t|linkedin|lnkd|reddit|pinterest|youtube|tiktok|whatsapp|telegram|bsky|mastodon|tumblr|vk|snapchat|discord|quora)\.(com|co|in|net|org|app|social|me)$/,
  ],
];
const MEDIUMS: [Source, RegExp][] = [
  ["paid", /^(.*cp[acmv]|ppc|retargeting|paid.*|display|banner|ads?)$/i],
  ["email", /mail|newsletter/i],
  ["social", /social/i],
  ["organic", /organic/i],
  ["referral", /referral|affiliate/i],
];
const PAID_CLICK = /^(gclid|gbraid|wbraid|dclid|msclkid|ttclid|twclid|li_fat_id)$/;

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
