// The page: its address, and where its visitor came from.

import type { CollectorFields } from "./api";
import type { CollectorEvent } from "./contract";
import { keepsQuery, spa } from "./options";
import { cut, maskEmails } from "./text";

/** The address of a page, as all its events have it. */
export type Page = { page_url?: string; page_path: string };

/**
 * The address without what may be private: the fragment, and the query but for utm_ parameters. Also a text that
 * differs for each page of a single-page app.
 */
export function readPage(): [Page, string] {
  // The path of a `data:` page is its content, that of a file says who its owner is.
  const address = bare(location.href);
  if (!address) return [{ page_path: "/" }, "/"];
  const { hash, pathname, search } = location;
  // A parameter with an e-mail address goes as a whole.
  const kept = search
    .slice(1)
    .split("&")
    .filter((each) => keepsQuery || (each.startsWith("utm_") && !/@|%40/.test(each)))
    .join("&");
  const query = kept && `?${kept}`;
  const route = spa === "hash" ? (/^#!?\/[^?&]*/.exec(hash)?.[0] ?? "") : "";
  const isSearched = spa === "search";
  return [
    {
      page_url: cut(address + query + route, 2048),
      page_path: cut(pathname + (isSearched ? query : "") + route, 1024),
    },
    pathname + (isSearched ? search : "") + route,
  ];
}

/** A URL without user, query and fragment; null if it is not of the web. */
export function bare(url: string): string | null {
  try {
    const { origin, pathname, protocol } = new URL(url, document.baseURI);
    return protocol.startsWith("http") ? origin + pathname : null;
  } catch {
    return null;
  }
}

/** The host of a URL with its port, without `www.`; undefined if it has none. */
export const hostOf = (url: string): string | undefined => url.split("/")[2]?.replace(/^www\./, "");

/** Whether a URL is of this site. */
export const isHere = (url: string): boolean => hostOf(url) === hostOf(location.href);

// Hosts that bring visitors, without `www.`, and what campaigns say of themselves.
const HOSTS = {
  email: /^(.*\.)?(mail|outlook|webmail)\./,
  ai: /chatgpt|openai|perplexity|claude\.ai|gemini\.google|copilot|deepseek/,
  organic: /^(.*\.)?search\.|^(google|bing|duckduckgo|yahoo|yandex|baidu|ecosia|naver)\./,
  social: /^(.*\.)?(facebook|instagram|twitter|x|t|linkedin|reddit|pinterest|youtube|tiktok|bsky)\.(com?|net|app)$/,
};
const MEDIUMS = {
  paid: /^(cp[acmv]|ppc|paid|display|banner|ads?$)/i,
  email: /mail|newsletter/i,
  social: /social/i,
};
const PAID_CLICK = /^(g|dc|ms|tt|tw)clid$|^[gw]braid$/;
const UTM = /^utm_(source|medium|campaign|term|content)$/;

type Source = CollectorEvent["traffic_source"];

const find = (table: Record<string, RegExp>, text = ""): Source | undefined =>
  Object.keys(table).find((name) => table[name]!.test(text)) as Source | undefined;

let campaign: CollectorFields | undefined; // of this document; its later pages keep it

/** Where the visitor came from: referrer, campaign, and the kind of source. */
export function readSource(referrer: string): CollectorFields {
  const host = hostOf(referrer);
  let source = !host ? "direct" : isHere(referrer) ? "internal" : (find(HOSTS, host) ?? "referral");
  if (!campaign) {
    campaign = {};
    for (const [name, value] of new URLSearchParams(location.search)) {
      if (UTM.test(name)) campaign[name as "utm_source"] = cut(maskEmails(value), 255);
      if (PAID_CLICK.test(name)) source = "paid";
    }
    source = find(MEDIUMS, campaign.utm_medium ?? "") ?? source;
  }
  return {
    ...campaign,
    page_referrer: referrer ? bare(referrer) : null,
    referrer_domain: host ?? null,
    traffic_source: source as Source,
  };
}

/** The page's title. A form of that name hides it. */
export const readTitle = (): string => cut(maskEmails(`${document.title}`), 500);
